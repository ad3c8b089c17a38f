"""Where a data set's photographs and masks lie, and what to do with a folder that is laid out otherwise."""

import json
from pathlib import Path

from faceparse.data.classes import find_class_set
from faceparse.data.images import READ_SUFFIXES, match_pairs
from faceparse.errors import InputError, quoted

# split: (photographs, masks). The test masks are optional.
FOLDERS = {
    "train": ("train/train_image", "train/train_mask"),
    "val": ("val/val_image", "val/val_mask"),
    "test": ("test_image", "test_mask"),
}
RECORD = "prepared.json"  # the flags that a folder was prepared with
CLASSES_OF = {"CelebAMask-HQ": "celebamask", "LaPa": "lapa"}  # the data sets that are prepared, as --classes names them
# What other data sets call their folders of photographs and of masks.
OTHER_NAMES = (
    ("image", "images", "img", "imgs", "photos", "JPEGImages"),
    ("mask", "masks", "label", "labels", "annotations", "SegmentationClass"),
)


def split_folders(root, split):
    """Return the paths of a split's photographs and masks."""
    return tuple(Path(root) / folder for folder in FOLDERS[split])


def require_classes_of(root, class_set):
    """Raise InputError where a data set says that its classes are others, by a classes.json or by what prepared it."""
    description = Path(root) / "classes.json"
    known = description if description.is_file() else CLASSES_OF.get(str(read_record(root).get("data_set")))
    if not known:
        return
    try:
        other = not find_class_set(str(known)).has_classes_of(class_set)
    except InputError as error:
        raise InputError(f"{error}; mend it, or rename it if it does not describe these masks") from None
    if other:
        raise InputError(f"{root}: has other classes; give --classes {quoted(known)}")


def is_within(folder, root):
    """Tell whether a folder lies in a data set; None stands for the data set's own folder."""
    return folder is None or Path(folder).resolve().is_relative_to(Path(root).resolve())


def read_record(root):
    """Return the flags that a folder was prepared with; none where it was not. InputError for a damaged file."""
    record = Path(root) / RECORD
    if not record.exists():
        return {}
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{record}: is not as it was written; put it back, or choose another folder") from None


def find_splits(root):
    """Return {split: [(stem, photograph path, mask path)]} of train, val and, where it has masks, test.

    Raises InputError for a missing folder, which says what to do, and for a photograph without mask or the reverse.
    """
    root = Path(root)
    for folder in (folder for split in ("train", "val") for folder in split_folders(root, split)):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; {advice(root)}")
    splits = [split for split in FOLDERS if split != "test" or is_filled(split_folders(root, split)[1])]
    try:
        return {split: match_pairs(*split_folders(root, split)) for split in splits}
    except InputError as error:
        raise InputError("; ".join(filter(None, (str(error), csv_advice(root))))) from None


def is_filled(folder):
    return folder.is_dir() and any(folder.iterdir())


def advice(root):
    """Say what to do with a folder that lacks a part of the layout."""
    if not root.is_dir():
        return "give the folder of the data set as --dataset_dir; dataset/README.md says how to get one"
    for script, sign in (("prepare_celebamask", "CelebA-HQ-img"), ("prepare_lapa", "train/landmarks")):
        if (root / sign).is_dir():
            return (
                f"this is an official download: python -m tools.{script} --source {quoted(root)} --output_dir dataset"
            )
    for folder in (root.parent, root.parent.parent, *sorted(root.iterdir())):
        if all(path.is_dir() for path in split_folders(folder, "train")):
            return f"{folder} has the layout: give it as --dataset_dir"
    moves = [move for split in ("train", "val") for move in moves_of(root, split)]
    if moves:
        return f"rename what is there: {'; '.join(moves)}"
    unsplit = [first_folder(root / name for name in names) for names in OTHER_NAMES]
    if all(unsplit):
        return (
            f"{unsplit[0].name}/ and {unsplit[1].name}/ have no splits: move about nine tenths of the pairs to "
            f"{' and '.join(FOLDERS['train'])}, the others to {' and '.join(FOLDERS['val'])}"
        )
    return csv_advice(root) or (
        "a data set holds train/train_image, train/train_mask, val/val_image and val/val_mask; "
        "dataset/README.md says how to get one"
    )


def moves_of(root, split):
    """Return the commands that give a split's folders of photographs and masks our names."""
    moves = []
    for folder, names in zip(split_folders(root, split), OTHER_NAMES, strict=True):
        places = [
            root / folder.name,
            *(place for name in names for place in (root / split / name, root / name / split)),
        ]
        found = first_folder(places)
        if found and not folder.is_dir():
            make = "" if folder.parent.is_dir() else f"mkdir {quoted(folder.parent)}; "
            moves.append(f"{make}mv {quoted(found)} {quoted(folder)}")
    # The first of two moves makes the folder for both.
    return [*moves[:1], *(move.split("; ")[-1] for move in moves[1:])]


def first_folder(paths):
    return next((path for path in paths if path.is_dir()), None)


def csv_advice(root):
    """Say what to do with a CSV file of two columns of picture names; nothing where there is none."""
    for path in sorted((*root.glob("*.csv"), *root.glob("*/*.csv"))):
        with path.open(encoding="utf-8", errors="replace") as file:
            rows = [[cell.strip() for cell in file.readline().split(",")] for _ in range(2)]
        # The first row may be a header.
        if len(rows[1]) == 2 and all(Path(cell).suffix.lower() in READ_SUFFIXES for cell in rows[1]):
            photo, mask = (Path(cell).name for cell in rows[1])
            return (
                f"{path} lists pairs, but photographs and masks are paired by their stems: rename each mask after its "
                f"photograph, {mask} to {Path(photo).stem}{Path(mask).suffix}"
            )
    return ""
