"""Check a data set: pairs, sizes, class ids, near-duplicates across splits, masks with left and right reversed.

python -m tools.check_dataset --dataset_dir dataset --sheet suspects.png
python -m tools.check_dataset --dataset_dir dataset --fix_left_right dataset/corrected
python main_deeplab.py --label_dir dataset/corrected/train_mask --truth_dir dataset/corrected/val_mask

A photograph may be mirrored while its mask keeps the names of the unmirrored picture, so that left and right eyes,
brows and ears are interchanged. In the corrected copies they are not.
"""

import shutil
from pathlib import Path

from faceparse.data.checks import advice_on_left_right, check_dataset, swap_left_right
from faceparse.data.classes import find_class_set
from faceparse.data.drawing import contact_sheet, render
from faceparse.data.images import check_picture_name, read_pair, write_label_map, write_picture
from faceparse.data.layout import FOLDERS, require_classes_of, split_folders
from faceparse.data.provenance import check_outputs
from faceparse.errors import InputError, counted, quoted, run_script
from faceparse.files import atomic_folder, check_new_folder
from options import check_dataset_parser

SHEET_COUNT = 60  # pairs on a sheet


def check_outputs_of(args, out):
    """Raise InputError unless OUT is a new folder outside the masks' own and the sheet may be written."""
    folders = [folder for split in FOLDERS for folder in split_folders(args.dataset_dir, split)]
    if out:
        if any(out.is_relative_to(folder.resolve()) for folder in folders):
            raise InputError(f"--fix_left_right {out}: lies in the data set's own folders; choose another")
        check_new_folder("--fix_left_right", out)
    if args.sheet:
        check_picture_name(args.sheet)
        check_outputs("--sheet", Path(args.sheet).parent, folders, [Path(args.sheet).name])


def write_corrected(splits, out, class_set):
    """Write all masks to OUT/{split}_mask, left and right swapped where they are reversed: all of them or none."""
    with atomic_folder(out) as unfinished:
        for split, pairs in splits.items():
            folder = unfinished / f"{split}_mask"
            folder.mkdir()
            for pair in pairs:
                if pair.is_reversed:
                    _, mask = read_pair(pair.photo_file, pair.mask_file, class_set, keep_sets=True)
                    mask = swap_left_right(mask, class_set)
                    write_label_map(folder / f"{pair.stem}.png", mask, palette_of=class_set, is_upright=True)
                else:
                    shutil.copyfile(pair.mask_file, folder / pair.mask_file.name)


def main(args):
    root, class_set = Path(args.dataset_dir), find_class_set(args.classes)
    out = Path(args.fix_left_right).resolve() if args.fix_left_right else None
    check_outputs_of(args, out)
    require_classes_of(root, class_set)
    splits = check_dataset(root, class_set)
    if not out:
        print(advice_on_left_right(splits, root, args.classes))
    suspects = [(split, pair) for split, pairs in splits.items() for pair in pairs if pair.is_reversed]
    if args.sheet and not suspects:
        print(f"{args.sheet}: not written, there are no suspects to show")
    elif args.sheet:
        items = [
            (f"{split} {pair.stem}", render((pair.mask_file, pair.photo_file), class_set=class_set)[:2])
            for split, pair in suspects[:SHEET_COUNT]
        ]
        write_picture(args.sheet, contact_sheet(items, class_set=class_set))
        print(f"{args.sheet}: written, {len(items)} of {counted(len(suspects), 'mask')} with left and right reversed")
    if out:
        write_corrected(splits, out, class_set)
        flags = f"--dataset_dir {quoted(root)} --classes {quoted(args.classes)} "
        flags += f"--label_dir {quoted(out / 'train_mask')} --truth_dir {quoted(out / 'val_mask')}"
        print(f"{out}: all masks written, {len(suspects)} of them corrected; train with {flags}")


if __name__ == "__main__":
    run_script(lambda: main(check_dataset_parser(__doc__).parse_args()))
