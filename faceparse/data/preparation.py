"""From a downloaded data set to the layout that trains: check all files first, then write what is not there yet."""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from faceparse.data.checks import advice_on_left_right, check_dataset, holds_a_class, listing
from faceparse.data.classes import DATA_SETS
from faceparse.data.images import open_image, write_label_map, write_picture
from faceparse.data.layout import FOLDERS, RECORD, read_record, split_folders
from faceparse.errors import InputError, counted
from faceparse.files import atomic_path
from faceparse.parallel import in_parallel

LEFT_BY_WINDOWS = ("thumbs.db", "desktop.ini")
END_OF_JPEG = b"\xff\xd9"  # a download that broke off lacks it


class Example(NamedTuple):
    """A photograph of the download, and where it goes; what its mask is made of is `label`."""

    split: str
    stem: str
    photo_file: Path
    label: object


def visible(folder):
    """Return the names in a folder, which may be missing, but for those that operating systems leave."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in LEFT_BY_WINDOWS)


def picture_size(path, kind):
    """Return (width, height) of a "JPEG" or "PNG" file without decoding it.

    Raises InputError for a file that is missing, of another kind, cut off, or a PNG whose checksums are wrong.
    """
    with open_image(path) as image:
        if image.format != kind:
            raise InputError(f"{path}: is {image.format}, not {kind}")
        if kind == "PNG":
            image.verify()
            return image.size
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64))
            if END_OF_JPEG not in file.read():
                raise InputError(f"{path}: is cut off")
        return image.size


def read_reduced(path, size):
    """Return a square JPEG photograph as RGB, `size` x `size`.

    The decoder halves the picture ("draft") and Lanczos does the rest, in a quarter of the time of Lanczos alone, from
    which the result differs by a PSNR of 44 to 52 dB.
    """
    with open_image(path) as image:
        image.draft("RGB", (size, size))
        return image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def select(examples, counts, seed):
    """Draw from a list of Examples so many of each split as `counts`, {split: count} or None, says; keep their order.

    A split that is not named is left out. Nobody changes to another split than that of the source.
    """
    selected = []
    for number, split in enumerate(FOLDERS):
        here = [example for example in examples if example.split == split]
        if counts is not None:
            count = counts.get(split, 0)
            if count > len(here):
                raise InputError(f"--split {split}={count}: the source has {len(here)} photographs for {split}")
            drawn = np.random.default_rng((seed, number)).permutation(len(here))[:count]
            here = [here[index] for index in sorted(drawn)]
        if split != "test" and not here:
            raise InputError(f"no photograph is left for {split}, and training needs both train and val")
        selected += here
    return selected


def refuse_mixing(output_dir, folders, flags):
    """Raise InputError if a folder holds another data set, or was prepared with other flags."""
    known = read_record(output_dir)
    for folder in folders if not known else []:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--output_dir {output_dir}: {folder} is of another data set; choose another folder")
    changed = [f"{name} {known.get(name)}, now {flags[name]}" for name in flags if known.get(name) != flags[name]]
    if known and changed:
        raise InputError(f"--output_dir {output_dir}: was prepared with {'; '.join(changed)}; choose another folder")


def missing_files(example, output_dir):
    """Return the paths of an example's photograph and mask in our layout, None for one that is there and not empty."""
    photo_dir, mask_dir = split_folders(output_dir, example.split)
    files = photo_dir / f"{example.stem}.jpg", mask_dir / f"{example.stem}.png"
    return [None if path.is_file() and path.stat().st_size > 0 else path for path in files]


def write_pair(example, make_pair, class_set, output_dir, image_size):
    """Write what is missing of an example. Return (damage, emptiness), lines that name its files, else ""."""
    try:
        photo, mask = make_pair(example, image_size)
    except InputError as error:
        return str(error), ""
    if not holds_a_class(mask):
        return "", f"{example.photo_file}: its mask holds no class"
    photo_file, mask_file = missing_files(example, output_dir)
    if photo_file:
        write_picture(photo_file, photo, photograph=True)
    if mask_file:
        write_label_map(mask_file, mask, palette_of=class_set)
    return "", ""


def refuse(problems, source, what_to_do):
    """Print a list of problems and raise InputError; do nothing if it is empty."""
    if problems:
        print(listing(problems), end="")
        raise InputError(f"{source}: {counted(len(problems), 'problem')}, listed above; {what_to_do}")


def prepare(args, classes, examples, surprises, find_problems, make_pair):
    """Write the selected Examples to args.output_dir in our layout; print counts and the checks of the result.

    args: the flags of `preparation_parser` in options.py; classes: a key of DATA_SETS.
    surprises: lines about files that do not belong in the download.
    find_problems: Example to a list of lines, which name each file that is missing, damaged or surprising.
    make_pair: Example and image size S to a photograph, uint8 RGB [S, S, 3], and its mask, uint8 class ids [S, S]; may
        raise InputError. Both functions are sent to other processes.
    Files that are there stay as they are. Pairs without any class are named and left out. Raises InputError before
    anything is written if there are problems, and at the end if a file turned out to be damaged when it was decoded.
    """
    output_dir, data_set = Path(args.output_dir), DATA_SETS[classes]
    folders = [folder for split in FOLDERS for folder in split_folders(output_dir, split)]
    flags = {"data_set": data_set.name, "photo_format": "jpg"}
    flags |= {name: getattr(args, name) for name in ("image_size", "split", "seed")}
    refuse_mixing(output_dir, folders, flags)
    selected = select(examples, args.split, args.seed)
    todo = [example for example in selected if any(missing_files(example, output_dir))]
    found = in_parallel(find_problems, todo, "checking", chunk=64)
    refuse([*surprises, *(line for lines in found for line in lines)], args.source, "nothing was written")

    if not (output_dir / RECORD).exists():
        with atomic_path(output_dir / RECORD) as temporary:
            temporary.write_text(json.dumps(flags, indent=1) + "\n", encoding="utf-8")
    for left_over in (path for folder in (output_dir, *folders) for path in folder.glob(".*.tmp.*")):  # by a kill
        left_over.unlink(missing_ok=True)
    options = {"class_set": data_set.class_set, "output_dir": output_dir, "image_size": args.image_size}
    results = list(in_parallel(partial(write_pair, make_pair=make_pair, **options), todo, "preparing"))
    damaged, empty = ([line for line in lines if line] for lines in zip(("", ""), *results, strict=True))
    refuse(damaged, args.source, "replace these and run the same command again; the others are done")

    if empty:
        print(f"left out {counted(len(empty), 'photograph')}:\n{listing(empty)}", end="")
    print(f"{output_dir}: {len(selected) - len(empty):,} pairs, {len(todo) - len(empty):,} of them written now")
    splits = check_dataset(output_dir, data_set.class_set)
    print(advice_on_left_right(splits, output_dir, classes))
