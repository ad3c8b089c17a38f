"""Check a data set: pairs, sizes, class ids, near-duplicates across splits, masks with left and right reversed.

python check_dataset.py --dataset_dir dataset --sheet suspects.png
python check_dataset.py --dataset_dir dataset --fix_left_right dataset/corrected
python main_deeplab.py --label_dir dataset/corrected/train_mask --truth_dir dataset/corrected/val_mask

The last check is needed because some photographs of CelebAMask-HQ are mirrored while their masks keep the names of the
unmirrored picture, so that both eyes, brows and ears are interchanged. The corrected copies have the right names.
"""

import shutil
from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from faceparse.atomic_files import atomic_folder, check_new_folder
from faceparse.class_counts import class_pixels, format_counts
from faceparse.classes import CELEBAMASK, find_class_set
from faceparse.drawing import contact_sheet, render
from faceparse.errors import InputError, run_script
from faceparse.images import (
    list_images,
    match_pairs,
    read_mask,
    read_pair,
    read_photo,
    write_label_map,
    write_picture,
)
from faceparse.parallel import in_parallel
from options import check_dataset_parser

SPLITS = ("train", "val")
# Two pictures are near-duplicates if at most this many of the 256 bits of their hashes differ. In 1,000 pictures of
# CelebAMask-HQ, the one that occurs twice, with another crop and other colours, differs from its copy by 26 bits; the
# most similar pictures of two people differ by 39.
NEAR_DUPLICATE_BITS = 32


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


def mean_x(mask, class_id):
    """Return the mean column of a class in a mask [H, W]; None where it is absent."""
    columns = (mask == class_id).sum(axis=0)
    return np.average(np.arange(len(columns)), weights=columns) if columns.any() else None


def left_right_reversed(mask, class_set=CELEBAMASK):
    """Tell whether left and right are interchanged in a mask, class ids [H, W].

    The subject's left lies in the right half of the picture. Each pair of which both classes occur votes by the
    mean x of the two. The majority decides; a tie means that they are not interchanged.
    """
    votes = 0
    for left, right in class_set.left_right_pairs:
        x_left, x_right = mean_x(mask, left), mean_x(mask, right)
        if x_left is not None and x_right is not None:
            votes += np.sign(x_right - x_left)
    return bool(votes > 0)


def swap_left_right(mask, class_set=CELEBAMASK):
    """Return a uint8 mask [H, W] with the ids of all left and right classes interchanged."""
    return np.array(class_set.flipped_ids(), dtype=np.uint8)[mask]


def hash_photo(photo):
    """Hash a photograph, uint8 RGB [H, W, 3], and its mirror image: bool [2, 256].

    A bit says whether a cell of a 16 x 16 grid is brighter than its left neighbour: the dHash of N. Krawetz, "Kind of
    Like That" (2013). Changes of size, crop, colour and compression change few bits, so copies have similar hashes.
    """
    grey = Image.fromarray(photo).convert("L").resize((17, 16), Image.Resampling.BOX)
    cells = np.stack([np.asarray(grey), np.asarray(grey)[:, ::-1]])
    return (cells[:, :, 1:] > cells[:, :, :-1]).reshape(2, 256)


def hash_file(path):
    return hash_photo(read_photo(path))


def near_duplicates(hashes, others):
    """Return [(bits, i, j), ...] of hashes [N, 2, 256] and others [M, 2, 256] that differ little, the nearest first.

    `bits` counts the differing bits, for the picture or for its mirror image, whichever has fewer.
    """
    signs, other_signs = hashes[:, 0] * 2.0 - 1, others * 2.0 - 1  # their product: equal minus differing bits
    bits = (256 - np.einsum("nb,mkb->nmk", signs, other_signs, optimize=True).max(axis=2)) / 2
    return sorted((int(bits[i, j]), int(i), int(j)) for i, j in np.argwhere(bits <= NEAR_DUPLICATE_BITS))


def check_pair(pair, class_set):
    """Read one (stem, photograph path, mask path) and return a Pair."""
    _, photo_file, mask_file = pair
    try:
        photo, mask = read_pair(photo_file, mask_file, class_set)
    except InputError as error:
        return Pair(*pair, problem=str(error))
    height, width = mask.shape
    pixels, is_reversed = class_pixels(mask, len(class_set)), left_right_reversed(mask, class_set)
    return Pair(*pair, f"{width}x{height}", hash_photo(photo), pixels, is_reversed)


def report_split(split, pairs, class_set):
    """Print the sizes, class counts and suspected left/right swaps of a split."""
    pixels = np.array([pair.pixels for pair in pairs])
    sizes = ", ".join(f"{size} ({count})" for size, count in Counter(pair.size for pair in pairs).most_common())
    suspects = [pair.stem for pair in pairs if pair.is_reversed]
    found = (pixels.sum(axis=0) > 0).sum()
    print(f"{split}: {len(pairs)} pairs; sizes {sizes}; {found} of {len(class_set)} classes")
    print(format_counts(pixels, class_set))
    print(f"left and right reversed in {len(suspects)} masks of {len(pairs)} ({len(suspects) / len(pairs):.1%})")
    print("".join(f"  {stem}\n" for stem in suspects))


def report_near_duplicates(hashes):
    """Print the near-duplicates between any two splits, of {split: (stems, hashes)}."""
    for (split, (stems, bits)), (other, (other_stems, other_bits)) in combinations(hashes.items(), 2):
        found = near_duplicates(bits, other_bits)
        print(f"near-duplicates of {split} and {other} ({NEAR_DUPLICATE_BITS} bits of 256 or fewer): {len(found)}")
        for distance, i, j in found:
            print(f"  {stems[i]} {other_stems[j]}: {distance} bits")


def check_out(out, mask_dirs):
    """Raise InputError if `out` is not a new folder outside the folders of the masks."""
    for folder in mask_dirs:
        if out.is_relative_to(folder.resolve()):
            raise InputError(f"--fix_left_right {out}: lies in the masks' own folder; choose another")
    check_new_folder("--fix_left_right", out)


def write_corrected(splits, out, class_set):
    """Write all masks to OUT/{split}_mask, left and right swapped where they are reversed: all of them or none."""
    with atomic_folder(out) as unfinished:
        for split, pairs in splits.items():
            folder = unfinished / f"{split}_mask"
            folder.mkdir()
            for pair in pairs:
                if pair.is_reversed:
                    mask = swap_left_right(read_mask(pair.mask_file, class_set), class_set)
                    write_label_map(folder / f"{pair.stem}.png", mask, palette_of=class_set)
                else:
                    shutil.copyfile(pair.mask_file, folder / pair.mask_file.name)


def main(args):
    root, class_set = Path(args.dataset_dir), find_class_set(args.classes)
    folders = {split: (root / split / f"{split}_image", root / split / f"{split}_mask") for split in SPLITS}
    out = Path(args.fix_left_right).resolve() if args.fix_left_right else None
    if out:
        check_out(out, [mask_dir for _, mask_dir in folders.values()])

    matched = {split: match_pairs(*folders[split]) for split in SPLITS}
    check = partial(check_pair, class_set=class_set)
    splits = {split: list(in_parallel(check, pairs, split)) for split, pairs in matched.items()}
    problems = [pair.problem for pairs in splits.values() for pair in pairs if pair.problem]
    if problems:
        print(*problems, sep="\n")
        raise InputError(f"{root}: {len(problems)} pairs cannot be used; each is listed above with its reason")
    for split, pairs in splits.items():
        report_split(split, pairs, class_set)

    hashes = {split: ([p.stem for p in pairs], np.array([p.hashes for p in pairs])) for split, pairs in splits.items()}
    test_dir = root / "test_image"
    if test_dir.is_dir():
        files = list_images(test_dir)
        hashes["test"] = (list(files), np.array(list(in_parallel(hash_file, files.values(), "test"))))
    report_near_duplicates(hashes)

    suspects = [(split, pair) for split, pairs in splits.items() for pair in pairs if pair.is_reversed]
    if args.sheet and not suspects:
        print(f"{args.sheet}: not written, there are no suspects to show")
    elif args.sheet:
        items = [
            (f"{split} {p.stem}", render((p.mask_file, p.photo_file), class_set=class_set)[:2]) for split, p in suspects
        ]
        write_picture(args.sheet, contact_sheet(items, class_set=class_set))
        print(f"{args.sheet}: written, {len(items)} masks with left and right reversed")
    if out:
        write_corrected(splits, out, class_set)
        print(f"{out}: all masks written, {len(suspects)} of them corrected")


if __name__ == "__main__":
    run_script(lambda: main(check_dataset_parser(__doc__).parse_args()))
