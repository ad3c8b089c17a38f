"""Prepare the official download of CelebAMask-HQ for training: merged masks, photographs at the size of training.

python -m tools.prepare_celebamask --source CelebAMask-HQ --output_dir dataset
python -m tools.prepare_celebamask --source CelebAMask-HQ --output_dir dataset_try --split train=40,val=10

The download has a mask file for each part of a face, white where the part is. They are painted in the order of the
class ids, later over earlier (g_mask.py in https://github.com/switchablenorms/CelebAMask-HQ), and split as there
(g_partition.py) by the number of the photograph in CelebA: 24,183 for training, 2,993 for validation, 2,824 for
testing. The same command continues a run that was interrupted.
"""

from bisect import bisect
from pathlib import Path

import numpy as np
from PIL import Image

from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import open_image
from faceparse.data.preparation import Example, picture_size, prepare, read_reduced, visible
from faceparse.errors import InputError, run_script
from options import preparation_parser

PHOTOS, PARTS, MAPPING = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebA-HQ-to-CelebA-mapping.txt"
PART_SIZE = (512, 512)
PICTURES_A_FOLDER = 2000
FIRST_OF_VAL_AND_TEST = 162771, 182638  # numbers in CelebA


def read_mapping(path):
    """Return {idx: split} of the file that says which photograph of CelebA each one is."""
    try:
        _, *rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        numbers = {int(idx): int(orig_idx) for idx, orig_idx, _ in rows}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not a list of idx, orig_idx and orig_file ({error})") from None
    splits = ("train", "val", "test")
    return {idx: splits[bisect(FIRST_OF_VAL_AND_TEST, number)] for idx, number in numbers.items()}


def find_examples(source):
    """Return a list of Examples in the order of idx, and lines about names that do not belong in the download."""
    for name in (PHOTOS, PARTS, MAPPING):
        if not (source / name).exists():
            raise InputError(f"{source / name}: not there; --source is the folder that holds {PHOTOS} and {PARTS}")
    splits = read_mapping(source / MAPPING)
    folders = {idx: source / PARTS / str(idx // PICTURES_A_FOLDER) for idx in splits}
    there = {folder: set(visible(folder)) for folder in set(folders.values())}
    surprises = sorted(f"{folder}: no such folder, or empty" for folder, names in there.items() if not names)
    known = {source / PHOTOS / f"{idx}.jpg" for idx in splits} | there.keys()
    found = [folder / name for folder in (source / PHOTOS, source / PARTS) for name in visible(folder)]
    examples = []
    for idx, folder in sorted(folders.items()):
        files = {class_id: f"{idx:05d}_{name}.png" for class_id, name in enumerate(CELEBAMASK.names) if class_id}
        parts = {class_id: folder / name for class_id, name in files.items() if name in there[folder]}
        examples.append(Example(splits[idx], f"{idx:05d}", source / PHOTOS / f"{idx}.jpg", parts))
        known.update(parts.values())
    found += [folder / name for folder, names in there.items() for name in names]
    surprises += [f"{path}: does not belong to this download" for path in sorted(found) if path not in known]
    return examples, surprises


def find_problems(example):
    problems = []
    for path, kind in ((example.photo_file, "JPEG"), *((path, "PNG") for path in example.label.values())):
        try:
            width, height = picture_size(path, kind)
        except InputError as error:
            problems.append(str(error))
            continue
        wanted = (width, width) if kind == "JPEG" else PART_SIZE
        if (width, height) != wanted:
            problems.append(f"{path}: is {width} x {height}, not {wanted[0]} x {wanted[1]}")
    return problems


def merge_parts(files):
    """Return a mask, uint8 class ids [512, 512], from {class id: path} in that order; later parts hide earlier ones."""
    mask = np.zeros(PART_SIZE, np.uint8)
    for class_id, path in files.items():
        with open_image(path) as image:
            mask[np.asarray(image.convert("L")) > 0] = class_id
    return mask


def make_pair(example, image_size):
    mask = Image.fromarray(merge_parts(example.label)).resize((image_size, image_size), Image.Resampling.NEAREST)
    return np.asarray(read_reduced(example.photo_file, image_size)), np.asarray(mask)


def main(args):
    prepare(args, "celebamask", *find_examples(Path(args.source)), find_problems, make_pair)


if __name__ == "__main__":
    run_script(lambda: main(preparation_parser(__doc__, "CelebAMask-HQ").parse_args()))
