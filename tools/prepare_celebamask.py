"""Prepare the official download of CelebAMask-HQ for training: merged masks, photographs at the size of training.

python -m tools.prepare_celebamask --source CelebAMask-HQ --output_dir dataset
python -m tools.prepare_celebamask --source CelebAMask-HQ --split train=5000,val=1000,test=100
python -m tools.prepare_celebamask --source CelebAMask-HQ --output_dir dataset_try --limit 50

The download has a mask file for each part of a face, white where the part is; a part without a file is not in the
picture. They are painted in the order of the class ids, later over earlier, as the data set's authors do (g_mask.py in
https://github.com/switchablenorms/CelebAMask-HQ), and split as they split (g_partition.py): by the number of the
photograph in CelebA, 24,183 for training, 2,993 for validation, 2,824 for testing.

The same command continues a run that was interrupted.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import open_image
from faceparse.data.preparation import Example, Recipe, picture_size, prepare, read_reduced, visible
from faceparse.errors import InputError, run_script
from options import prepare_celebamask_parser

PHOTOS, PARTS, MAPPING = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebA-HQ-to-CelebA-mapping.txt"
PART_FILE = re.compile(r"(\d{5})_(\w+)\.png")
PART_SIZE = (512, 512)
PICTURES_A_FOLDER = 2000
FIRST_OF_VAL, FIRST_OF_TEST = 162771, 182638  # by orig_idx


def split_of(orig_idx):
    if orig_idx < FIRST_OF_VAL:
        return "train"
    return "val" if orig_idx < FIRST_OF_TEST else "test"


def read_mapping(path):
    """Return {idx: split} of the file that says which photograph of CelebA each one is."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); it is a part of the official download") from None
    splits = {}
    for row in rows[1:]:
        if len(row) != 3 or not (row[0].isdigit() and row[1].isdigit()) or int(row[0]) in splits:
            raise InputError(f"{path}: {' '.join(row)!r} is not a new idx, orig_idx and orig_file")
        splits[int(row[0])] = split_of(int(row[1]))
    return splits


def find_examples(source):
    """Return a list of Examples in the order of idx, and lines about names that do not belong in the download."""
    for name in (PHOTOS, PARTS, MAPPING):
        if not (source / name).exists():
            raise InputError(f"{source / name}: not there; --source is the folder that holds {PHOTOS} and {PARTS}")
    splits = read_mapping(source / MAPPING)
    wanted = {f"{idx}.jpg" for idx in splits}
    surprises = [
        f"{source / PHOTOS / name}: not in {MAPPING}" for name in visible(source / PHOTOS) if name not in wanted
    ]

    folders = {str(idx // PICTURES_A_FOLDER) for idx in splits}
    surprises += [f"{source / PARTS / name}: unknown" for name in visible(source / PARTS) if name not in folders]
    parts = {idx: [] for idx in splits}  # class ids
    for folder in sorted(folders, key=int):
        for name in visible(source / PARTS / folder):
            match = PART_FILE.fullmatch(name)
            idx, part = (int(match[1]), match[2]) if match else (None, None)
            if part not in CELEBAMASK.names[1:]:
                surprises.append(f"{source / PARTS / folder / name}: of no known part")
            elif idx not in parts or str(idx // PICTURES_A_FOLDER) != folder:
                surprises.append(f"{source / PARTS / folder / name}: belongs to no photograph, or into another folder")
            else:
                parts[idx].append(CELEBAMASK.names.index(part))
    return [
        Example(splits[idx], f"{idx:05d}", source / PHOTOS / f"{idx}.jpg", tuple(sorted(parts[idx])))
        for idx in sorted(splits)
    ], surprises


def parts_folder(example):
    return example.photo_file.parents[1] / PARTS / str(int(example.stem) // PICTURES_A_FOLDER)


def part_file(example, class_id):
    return parts_folder(example) / f"{example.stem}_{CELEBAMASK.names[class_id]}.png"


def find_problems(example):
    problems = []
    if not example.label:
        problems.append(f"{example.photo_file}: has no mask {parts_folder(example)}/{example.stem}_*.png")
    parts = [(part_file(example, class_id), "PNG") for class_id in example.label]
    for path, kind in ((example.photo_file, "JPEG"), *parts):
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
    mask = Image.fromarray(merge_parts({class_id: part_file(example, class_id) for class_id in example.label}))
    mask = mask.resize((image_size, image_size), Image.Resampling.NEAREST)
    return np.asarray(read_reduced(example.photo_file, image_size)), np.asarray(mask)


def main(args):
    prepare(args, *find_examples(Path(args.source)), Recipe("CelebAMask-HQ", find_problems, make_pair))


if __name__ == "__main__":
    run_script(lambda: main(prepare_celebamask_parser(__doc__).parse_args()))
