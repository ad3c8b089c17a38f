"""What a data set is checked for: sizes, class ids, left and right reversed, near-duplicates across splits."""

from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX, find_class_set
from faceparse.data.images import list_images, read_pair, read_photo
from faceparse.data.layout import find_splits, is_filled, split_folders
from faceparse.errors import InputError, counted, quoted
from faceparse.parallel import in_parallel

# Of 256. In 1,000 pictures of CelebAMask-HQ the one that occurs twice, cropped and coloured anew, differs from itself
# by 26 bits; the most alike pictures of two people differ by 39.
NEAR_DUPLICATE_BITS = 32
ROWS_AT_A_TIME = 256  # of the table of all distances between two splits
LISTED = 50  # lines at most of what may be as long as the data set


class Pair(NamedTuple):
    """What is kept of a photograph and its mask; `problem` says why they cannot be used."""

    stem: str
    photo_file: Path
    mask_file: Path
    size: str = ""
    hashes: np.ndarray | None = None
    pixels: np.ndarray | None = None
    is_reversed: bool = False
    problem: str = ""


def left_right_reversed(mask, class_set=CELEBAMASK):
    """Tell whether left and right are interchanged in a mask, class ids [H, W].

    The subject's left lies in the right half of the picture, the viewer's in the left half. Pairs of classes that are
    both there vote by their mean x; the majority decides, a tie leaves the mask as it is.
    """
    votes = 0
    for pair in class_set.left_right_pairs:
        left, right = (np.nonzero(mask == class_id)[1] for class_id in pair)
        if left.size and right.size:
            votes += np.sign(right.mean() - left.mean())
    return bool(votes < 0 if class_set.left == "viewer" else votes > 0)


def holds_a_class(mask):
    """Tell whether a mask [H, W] holds any class but the background; 255 is none."""
    return bool(((mask > 0) & (mask != IGNORE_INDEX)).any())


def swap_left_right(mask, class_set=CELEBAMASK):
    """Return a uint8 mask [H, W] with the ids of all left and right classes and sets interchanged, or 255."""
    ids, set_ids = class_set.flipped_ids(), {classes: mask_id for mask_id, classes in class_set.sets}
    table = np.array(ids, dtype=np.uint8)
    for mask_id, classes in class_set.sets:
        table[mask_id] = set_ids.get(tuple(sorted(ids[each] for each in classes)), IGNORE_INDEX)
    return table[mask]


def hash_photo(photo):
    """Hash a photograph, uint8 RGB [H, W, 3], and its mirror image: bool [2, 256].

    A bit says whether a cell of a 16 x 16 grid is brighter than its left neighbour: the dHash of N. Krawetz, "Kind of
    Like That" (2013). Changes of size, crop, colour and compression turn few bits, so copies lie near each other.
    """
    grey = Image.fromarray(photo).convert("L").resize((17, 16), Image.Resampling.BOX)
    cells = np.stack([np.asarray(grey), np.asarray(grey)[:, ::-1]])
    return (cells[:, :, 1:] > cells[:, :, :-1]).reshape(2, 256)


def hash_file(path):
    return hash_photo(read_photo(path))


def near_duplicates(hashes, others):
    """Return [(bits, i, j), ...] of hashes [N, 2, 256] and others, mirrored or not, that differ little, sorted."""
    signs, other_signs = (2 * each.astype(np.float32) - 1 for each in (hashes[:, 0], others))
    found = []
    for start in range(0, len(signs), ROWS_AT_A_TIME):
        rows = signs[start : start + ROWS_AT_A_TIME]
        agreement = (rows @ other_signs.reshape(-1, 256).T).reshape(len(rows), -1, 2)  # equal less differing bits
        bits = (256 - agreement.max(axis=2)) / 2
        found += [(int(bits[i, j]), start + int(i), int(j)) for i, j in np.argwhere(bits <= NEAR_DUPLICATE_BITS)]
    return sorted(found)


def check_pair(pair, class_set):
    """Read one (stem, photograph, mask) and return a Pair."""
    try:
        photo, mask = read_pair(*pair[1:], class_set)
    except InputError as error:
        return Pair(*pair, problem=str(error))
    size, pixels = f"{mask.shape[1]}x{mask.shape[0]}", class_pixels(mask, len(class_set))
    return Pair(*pair, size, hash_photo(photo), pixels, left_right_reversed(mask, class_set))


def listing(lines):
    """Return lines as one text, LISTED of them at most and the count of the others."""
    more = [f"... and {len(lines) - LISTED:,} more"] if len(lines) > LISTED else []
    return "".join(f"  {line}\n" for line in [*lines[:LISTED], *more])


def check_dataset(root, class_set):
    """Read all pairs of a data set, print what it holds, and return {split: [Pair, ...]}; InputError if it is unfit."""
    check = partial(check_pair, class_set=class_set)
    splits = {split: list(in_parallel(check, pairs, split)) for split, pairs in find_splits(root).items()}
    unusable = [pair for pairs in splits.values() for pair in pairs if pair.problem]
    if unusable:
        print(listing([pair.problem for pair in unusable]), end="")
        raise InputError(f"{root}: {counted(len(unusable), 'pair')} cannot be used, listed above with the reason")
    for split, pairs in splits.items():
        report_split(split, pairs, class_set)
    found = sum(pair.pixels for pair in splits["train"]) > 0
    if found.sum() < 2:
        ids = f"class ids, from 0 to {len(class_set) - 1}, and {class_set.ignored_id} is ignored"
        raise InputError(f"{root}: the training masks hold fewer than two classes; their pixels are {ids}")

    hashes = {split: ([p.stem for p in pairs], np.array([p.hashes for p in pairs])) for split, pairs in splits.items()}
    test_dir = split_folders(root, "test")[0]
    if "test" not in splits and is_filled(test_dir):
        files = list_images(test_dir)
        hashes["test"] = (list(files), np.array(list(in_parallel(hash_file, files.values(), "test"))))
    for (split, (stems, bits)), (other, (other_stems, other_bits)) in combinations(hashes.items(), 2):
        found = near_duplicates(bits, other_bits)
        print(f"near-duplicates of {split} and {other} ({NEAR_DUPLICATE_BITS} bits of 256 or fewer): {len(found)}")
        lines = [f"{split} {stems[i]}, {other} {other_stems[j]}: {distance} bits" for distance, i, j in found]
        print(listing(lines), end="")
    print(f"{root}: fit to train on")
    return splits


def advice_on_left_right(splits, root, classes):
    """Say what to do about reversed masks in what `check_dataset` returns of `root`; `classes` is the flag's value."""
    pairs = [pair for pairs in splits.values() for pair in pairs]
    count = sum(pair.is_reversed for pair in pairs)
    if not count:
        return "no mask has left and right reversed"
    what = f"left and right are reversed in {counted(count, 'mask')} of {len(pairs)}"
    if count > len(pairs) / 2:
        other = "viewer" if find_class_set(classes).left == "subject" else "subject"
        seem = f"they seem to mean the {other}'s left"
        return f'{what}: {seem}; say "left": "{other}" in a class set (dataset/README.md)'
    flags = f"--dataset_dir {quoted(root)} --classes {quoted(classes)}"
    return f"{what}: write corrected copies with python -m tools.check_dataset {flags} --fix_left_right OUT"


def report_split(split, pairs, class_set):
    """Print what a split holds."""
    pixels = np.array([pair.pixels for pair in pairs])
    sizes = ", ".join(f"{size} ({count})" for size, count in Counter(pair.size for pair in pairs).most_common())
    suspects = [pair.stem for pair in pairs if pair.is_reversed]
    found = (pixels.sum(axis=0) > 0).sum()
    print(f"{split}: {counted(len(pairs), 'pair')}; sizes {sizes}; {found} of {len(class_set)} classes")
    print(format_counts(pixels, class_set))
    print(f"left and right reversed in {counted(len(suspects), 'mask')} of {len(pairs)}")
    print(listing(suspects), end="")
    empty = [pair.stem for pair in pairs if not pair.pixels[1:].any()]
    if empty:
        print(f"no class but the background in {counted(len(empty), 'mask')}: training takes all of it for background")
    print(listing(empty))


def class_pixels(mask, num_classes):
    """Count the pixels of each class in a mask [H, W]: int64 [num_classes]. 255, ignored, is left out."""
    return np.bincount(mask.ravel(), minlength=num_classes)[:num_classes]


def largest_first(totals):
    """Return (class ids, shares of the sum), both in order of falling share, from pixels per class [C]."""
    order = np.argsort(-totals, kind="stable")
    return order, totals[order] / max(totals.sum(), 1)


def format_counts(pixels, class_set=CELEBAMASK):
    """Return a table of class, pixels, share and masks that hold it, from the class_pixels of each mask [N, C]."""
    totals, masks = pixels.sum(axis=0), (pixels > 0).sum(axis=0)
    width = max(10, *map(len, class_set.names))
    lines = [f"{'id':>2} {'class':<{width}} {'pixels':>14} {'share':>8} {'masks':>7}"]
    for index, share in zip(*largest_first(totals), strict=True):
        name = f"{class_set.names[index]:<{width}}"
        lines.append(f"{index:>2} {name} {totals[index]:>14,} {share:>8.3%} {masks[index]:>7,}")
    return "\n".join(lines)
