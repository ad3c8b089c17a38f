"""Colour label maps, blend them over photographs, or lay them out on one sheet with a legend.

python color_visualization.py --label_dir predictions
python color_visualization.py --label_dir predictions --image_dir dataset/val/val_image --alpha 0.5
python color_visualization.py --label_dir predictions --image_dir dataset/val/val_image --sheet sheet.png
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from faceparse.classes import CLASS_NAMES, IGNORE_INDEX, NUM_CLASSES, PALETTE
from faceparse.errors import InputError, run
from faceparse.images import (
    IMAGE_SUFFIXES,
    atomic_path,
    list_images,
    read_mask,
    read_pair,
    refuse_overwriting,
)
from faceparse.parallel import in_parallel
from options import color_parser

COLOURS = np.zeros((256, 3), dtype=np.uint8)
COLOURS[:NUM_CLASSES] = PALETTE
COLOURS[IGNORE_INDEX] = 128

# Of the contact sheet, in px.
SHEET_WIDTH, MARGIN, GAP, CAPTION = 1250, 16, 12, 20
LEGEND_WIDTH, LEGEND_HEIGHT, SWATCH = 130, 22, 14


def colorize(label_map):
    """Return class ids [H, W] in the class colours, uint8 RGB [H, W, 3]; 255, ignored, is grey."""
    return COLOURS[label_map]


def overlay(photo, label_map, alpha=0.5):
    """Blend the class colours over a photograph, uint8 RGB [H, W, 3]: alpha 0 is the photograph, 1 the colours.

    The label map [H, W] is of the photograph's size.
    """
    return np.rint((1 - alpha) * photo + alpha * colorize(label_map)).astype(np.uint8)


def contact_sheet(items, tile=192):
    """Draw items in rows, with their captions, above a legend of the 19 classes: uint8 RGB [H, W, 3].

    An item is (caption, [picture, ...]); pictures are uint8 RGB [H, W, 3] of any size, side by side in tiles of
    `tile` px, and as many in each item.
    """
    font = ImageFont.load_default(size=13)
    item_width = tile * len(items[0][1])
    columns = max(1, min(len(items), (SHEET_WIDTH - 2 * MARGIN + GAP) // (item_width + GAP)))
    rows = -(-len(items) // columns)
    width = max(columns * (item_width + GAP) - GAP, 3 * LEGEND_WIDTH) + 2 * MARGIN
    legend_columns = (width - 2 * MARGIN) // LEGEND_WIDTH
    legend_top = MARGIN + rows * (tile + CAPTION + GAP)
    legend_rows = -(-NUM_CLASSES // legend_columns)
    sheet = Image.new("RGB", (width, legend_top + legend_rows * LEGEND_HEIGHT + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)

    for index, (caption, pictures) in enumerate(items):
        left = MARGIN + index % columns * (item_width + GAP)
        top = MARGIN + index // columns * (tile + CAPTION + GAP)
        for position, picture in enumerate(pictures):
            tile_picture = ImageOps.pad(Image.fromarray(picture), (tile, tile), color="white")
            sheet.paste(tile_picture, (left + position * tile, top))
        while draw.textlength(caption, font) > item_width:
            caption = caption[:-1]
        draw.text((left, top + tile + 2), caption, "black", font)

    for index, (name, colour) in enumerate(zip(CLASS_NAMES, PALETTE, strict=True)):
        left = MARGIN + index % legend_columns * LEGEND_WIDTH
        top = legend_top + index // legend_columns * LEGEND_HEIGHT
        draw.rectangle((left, top, left + SWATCH, top + SWATCH), colour, "black")
        draw.text((left + SWATCH + 6, top - 1), f"{index} {name}", "black", font)
    return np.asarray(sheet)


def write_picture(path, picture):
    """Write uint8 RGB [H, W, 3] in the format of the path's suffix, atomically."""
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(f"{path}: is no picture's name; end it in one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, compress_level=1)


def render(pair, alpha=0.5):
    """Read (label map path, photograph path or None); return [colours] or [photograph, colours, overlay]."""
    label_file, photo_file = pair
    if photo_file is None:
        return [colorize(read_mask(label_file))]
    photo, label_map = read_pair(photo_file, label_file)
    return [photo, colorize(label_map), overlay(photo, label_map, alpha)]


def write_rendered(pair, alpha, output_dir):
    write_picture(Path(output_dir) / f"{pair[0].stem}.png", render(pair, alpha)[-1])


def match_photos(label_dir, image_dir):
    """Pair label maps with the photographs of the same stems, or with None: a list of (label path, photograph path).

    Label maps without photograph are left out and said so on stderr, since a folder of predictions may hold more than
    those of one folder of photographs; InputError where none has one.
    """
    labels = list_images(label_dir)
    if image_dir is None:
        return [(file, None) for file in labels.values()]
    photos = list_images(image_dir)
    pairs = [(file, photos[stem]) for stem, file in labels.items() if stem in photos]
    if not pairs:
        raise InputError(f"{label_dir}: holds no label map of the photographs in {image_dir}; they share their stems")
    if len(pairs) < len(labels):
        left_out = len(labels) - len(pairs)
        print(f"{label_dir}: left out, for want of a photograph in {image_dir}: {left_out} label maps", file=sys.stderr)
    return pairs


def main(args):
    pairs = match_photos(args.label_dir, args.image_dir)
    if args.sheet:
        items = [(pair[0].stem, render(pair, args.alpha)) for pair in pairs[: args.sheet_count]]
        write_picture(args.sheet, contact_sheet(items))
        print(f"{args.sheet}: written, {len(items)} of {len(pairs)} label maps")
        return
    refuse_overwriting("--output_dir", args.output_dir, *[file for file in pairs[0] if file])
    for _ in in_parallel(partial(write_rendered, alpha=args.alpha, output_dir=args.output_dir), pairs, "colouring"):
        pass
    print(f"{args.output_dir}: {len(pairs)} pictures written")


if __name__ == "__main__":
    run(lambda: main(color_parser(__doc__).parse_args()))
