"""Colour label maps, blend them over photographs, or lay them out on one sheet with a legend.

python color_visualization.py --label_dir predictions
python color_visualization.py --label_dir predictions --image_dir dataset/val/val_image --alpha 0.5
python color_visualization.py --label_dir predictions --image_dir dataset/val/val_image --sheet sheet.png
"""

import sys
from functools import partial
from pathlib import Path

from faceparse.data.classes import find_class_set
from faceparse.data.drawing import contact_sheet, render
from faceparse.data.images import check_picture_name, list_images, read_maker, write_picture
from faceparse.data.provenance import check_outputs, require_makers_class_set
from faceparse.errors import InputError, counted, run_script
from faceparse.files import atomic_folder
from faceparse.parallel import in_parallel
from options import color_parser

SHEET_COUNT = 12  # label maps on a sheet


def write_rendered(pair, alpha, output_dir, class_set):
    write_picture(Path(output_dir) / f"{pair[0].stem}.png", render(pair, alpha, class_set)[-1])


def match_photos(label_dir, image_dir):
    """Pair label maps with the photographs of the same stems, or with None: a list of (label path, photograph path).

    Label maps without a photograph are left out, with a message on stderr. Raises InputError if none has one.
    """
    labels = list_images(label_dir)
    if image_dir is None:
        return [(file, None) for file in labels.values()]
    photos = list_images(image_dir)
    pairs = [(file, photos[stem]) for stem, file in labels.items() if stem in photos]
    if not pairs:
        raise InputError(f"{label_dir}: holds no label map of the photographs in {image_dir}; they share their stems")
    if len(pairs) < len(labels):
        left_out = counted(len(labels) - len(pairs), "label map")
        print(f"{label_dir}: left out {left_out} without a photograph in {image_dir}", file=sys.stderr)
    return pairs


def main(args):
    class_set = find_class_set(args.classes)
    pairs = match_photos(args.label_dir, args.image_dir)
    require_makers_class_set(args.label_dir, [read_maker(pairs[0][0])], class_set)
    read_files = [file for file in pairs[0] if file]
    if args.sheet:
        sheet = Path(args.sheet)
        check_picture_name(sheet)
        check_outputs("--sheet", sheet.parent, read_files, [sheet.name])
        items = [(pair[0].stem, render(pair, args.alpha, class_set)) for pair in pairs[:SHEET_COUNT]]
        write_picture(args.sheet, contact_sheet(items, class_set=class_set))
        print(f"{args.sheet}: written, {len(items)} of {counted(len(pairs), 'label map')}")
        return
    check_outputs("--output_dir", args.output_dir, read_files, [f"{label.stem}.png" for label, _ in pairs])
    with atomic_folder(args.output_dir) as unfinished:
        write = partial(write_rendered, alpha=args.alpha, output_dir=unfinished, class_set=class_set)
        for _ in in_parallel(write, pairs, "colouring"):
            pass
    print(f"{args.output_dir}: {counted(len(pairs), 'picture')} written")


if __name__ == "__main__":
    run_script(lambda: main(color_parser(__doc__).parse_args()))
