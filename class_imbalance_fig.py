"""Draw the bar chart of each class's share of all pixels, largest first, and print the counts.

python class_imbalance_fig.py --label_dir dataset/train/train_mask --log
"""

from functools import partial
from pathlib import Path

import numpy as np

from faceparse.data.checks import class_pixels, format_counts, largest_first
from faceparse.data.classes import find_class_set
from faceparse.data.drawing import plot
from faceparse.data.images import list_images, read_mask
from faceparse.data.provenance import check_outputs
from faceparse.errors import InputError, counted, run_script
from faceparse.parallel import in_parallel
from options import class_imbalance_parser


def class_pixels_of_file(path, class_set):
    return class_pixels(read_mask(path, class_set), len(class_set))


def draw_shares(totals, paths, class_set, log=False):
    """Draw pixels per class [C] as a bar chart of shares and write it to each path."""
    order, shares = largest_first(totals)
    percent, names = 100 * shares, [class_set.names[index] for index in order]
    colours = np.array(class_set.colours)[order] / 255
    with plot(*paths, dpi=150, figsize=(10, 4.5)) as (_, axes):
        bars = axes.bar(names, percent, color=colours, edgecolor="black", linewidth=0.6)
        axes.bar_label(bars, [f"{value:.2g}" for value in percent], padding=2)
        axes.set_ylabel("share of all pixels, %")
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
        axes.margins(x=0.01, y=0.1)
        if log:
            axes.set_yscale("log")


def main(args):
    class_set = find_class_set(args.classes)
    files = list_images(args.label_dir).values()
    check_outputs("--output_dir", args.output_dir, [args.label_dir])
    pixels = np.array(list(in_parallel(partial(class_pixels_of_file, class_set=class_set), files, "counting")))
    if not pixels.any():
        raise InputError(f"{args.label_dir}: every pixel is 255, ignored; there is nothing to count")
    print(format_counts(pixels, class_set))
    paths = [Path(args.output_dir) / f"proportions_given_data{suffix}" for suffix in (".pdf", ".png")]
    draw_shares(pixels.sum(axis=0), paths, class_set, args.log)
    print(f"{paths[0]}, {paths[1].name}: written, from {counted(len(pixels), 'mask')}")


if __name__ == "__main__":
    run_script(lambda: main(class_imbalance_parser(__doc__).parse_args()))
