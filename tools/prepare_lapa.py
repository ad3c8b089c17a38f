"""Prepare the official download of LaPa for training: each face in a square as CelebAMask-HQ has it.

python -m tools.prepare_lapa --source LaPa --output_dir dataset_lapa
python main_deeplab.py --dataset_dir dataset_lapa --classes lapa

Each photograph is cut to a square around its 106 landmarks in which the face has the size and place that faces have in
CelebAMask-HQ. What lies outside the photograph becomes black, and 255, ignored, in the mask. To score on the whole
photographs, as the paper does, give LaPa/test/images to validate.py and LaPa/test/labels to evaluate.py.
The same command continues a run that was interrupted.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from faceparse.data.classes import IGNORE_INDEX, LAPA
from faceparse.data.images import read_pair
from faceparse.data.layout import FOLDERS
from faceparse.data.preparation import Example, picture_size, prepare, visible
from faceparse.errors import InputError, run_script
from options import preparation_parser

SUFFIXES = {"images": ".jpg", "labels": ".png", "landmarks": ".txt"}
LANDMARKS = 106
# From the upper edge of the brows to the chin, which is what the landmarks cover, a face takes this share of the side
# of a picture in CelebAMask-HQ, and its middle lies so far down: medians of 100 validation masks.
FACE_SHARE, FACE_MIDDLE = 0.56, 0.66


def find_examples(source):
    """Return a list of Examples, split after split, and lines about files that do not belong in the download."""
    examples, surprises = [], []
    for split in FOLDERS:
        folders = {name: source / split / name for name in SUFFIXES}
        for folder in folders.values():
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; LaPa holds train, val and test/{{{','.join(SUFFIXES)}}}")
        files = {name: [folder / each for each in visible(folder)] for name, folder in folders.items()}
        stems = [path.stem for path in files["images"] if path.suffix == SUFFIXES["images"]]
        for name, paths in files.items():
            known = {f"{stem}{SUFFIXES[name]}" for stem in stems}
            surprises += [f"{path}: does not belong to this download" for path in paths if path.name not in known]
        for stem in stems:
            photo, label, landmarks = (folder / f"{stem}{SUFFIXES[name]}" for name, folder in folders.items())
            examples.append(Example(split, stem, photo, (label, landmarks)))
    return examples, surprises


def read_landmarks(path):
    """Return the points of a landmark file, float [106, 2], x and y in px, after their number; else InputError."""
    try:
        numbers = [float(number) for number in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable landmarks ({error})") from None
    if len(numbers) != 1 + 2 * LANDMARKS or not np.isfinite(numbers).all():
        raise InputError(f"{path}: does not hold {LANDMARKS} landmarks, x and y")
    return np.array(numbers[1:]).reshape(-1, 2)


def face_square(points):
    """Return (left, top, side) in px of the square around a face of landmarks [N, 2]; it may leave the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = (high - low).max() / FACE_SHARE
    left, top = (low + high) / 2 - side * np.array([0.5, FACE_MIDDLE])
    return round(left), round(top), max(1, round(side))


def cut(picture, square, fill):
    """Return a square of a Pillow image as a Pillow image, with `fill` where it leaves the picture."""
    left, top, side = square
    canvas = Image.new(picture.mode, (side, side), fill)
    canvas.paste(picture, (-left, -top))
    return canvas


def find_problems(example):
    label_file, landmark_file = example.label
    problems = []
    try:
        size, label_size = picture_size(example.photo_file, "JPEG"), picture_size(label_file, "PNG")
        if label_size != size:
            problems.append(f"{label_file}: is {label_size}, and its photograph {size}")
        points = read_landmarks(landmark_file)
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        is_inside = (middle >= 0).all() and (middle < size).all()
        if not is_inside or not 0 < np.ptp(points, axis=0).max() < 2 * max(size):
            problems.append(f"{landmark_file}: the face does not lie in the photograph")
    except InputError as error:
        problems.append(str(error))
    return problems


def make_pair(example, image_size):
    label_file, landmark_file = example.label
    photo, mask = read_pair(example.photo_file, label_file, LAPA)
    square, size = face_square(read_landmarks(landmark_file)), (image_size, image_size)
    photo = cut(Image.fromarray(photo), square, 0).resize(size, Image.Resampling.LANCZOS)
    mask = cut(Image.fromarray(mask), square, IGNORE_INDEX).resize(size, Image.Resampling.NEAREST)
    return np.asarray(photo), np.asarray(mask)


def main(args):
    prepare(args, "lapa", *find_examples(Path(args.source)), find_problems, make_pair)


if __name__ == "__main__":
    run_script(lambda: main(preparation_parser(__doc__, "LaPa").parse_args()))
