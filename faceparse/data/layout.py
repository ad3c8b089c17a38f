"""Where a data set's photographs and masks lie."""

import json
from pathlib import Path

from faceparse.data.classes import DATA_SETS, find_class_set
from faceparse.data.images import match_pairs
from faceparse.errors import InputError, quoted

# split: (photographs, masks). The test masks are optional.
FOLDERS = {
    "train": ("train/train_image", "train/train_mask"),
    "val": ("val/val_image", "val/val_mask"),
    "test": ("test_image", "test_mask"),
}
RECORD = "prepared.json"  # the flags that a folder was prepared with


def split_folders(root, split):
    """Return the paths of a split's photographs and masks."""
    return tuple(Path(root) / folder for folder in FOLDERS[split])


def require_classes_of(root, class_set):
    """Raise InputError if a data set has other classes, by its classes.json or by what prepared it."""
    description, prepared = Path(root) / "classes.json", read_record(root).get("data_set")
    known = next((key for key, data_set in DATA_SETS.items() if data_set.name == prepared), None)
    known = description if description.is_file() else known
    if not known:
        return
    try:
        other = not find_class_set(str(known)).has_classes_of(class_set)
    except InputError as error:
        raise InputError(f"{error}; correct it, or rename it if it does not describe these masks") from None
    if other:
        raise InputError(f"{root}: has other classes; give --classes {quoted(known)}")


def is_within(folder, root):
    """Tell whether a folder lies in a data set; None stands for the data set's own folder."""
    return folder is None or Path(folder).resolve().is_relative_to(Path(root).resolve())


def read_record(root):
    """Return the flags that a folder was prepared with; {} if it was not. InputError for a damaged file."""
    record = Path(root) / RECORD
    if not record.exists():
        return {}
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{record}: is damaged; restore it, or choose another folder") from None


def find_splits(root):
    """Return {split: [(stem, photograph path, mask path)]} of train, val and, if it has masks, test, or InputError."""
    for folder in (folder for split in ("train", "val") for folder in split_folders(root, split)):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; {advice(Path(root))}")
    splits = [split for split in FOLDERS if split != "test" or is_filled(split_folders(root, split)[1])]
    return {split: match_pairs(*split_folders(root, split)) for split in splits}


def is_filled(folder):
    return folder.is_dir() and any(folder.iterdir())


def advice(root):
    """Say what to do with a folder that lacks a part of the layout."""
    for key, data_set in DATA_SETS.items():
        if (root / data_set.sign).is_dir():
            return f"prepare this download: python -m tools.prepare_{key} --source {quoted(root)} --output_dir dataset"
    return f"a data set holds {', '.join(FOLDERS['train'] + FOLDERS['val'])}, as dataset/README.md shows"
