"""Draw the bar chart of each class's share of all pixels, largest first, and print the counts.

python class_imbalance_fig.py
python class_imbalance_fig.py --label_dir dataset/train/train_mask --log
"""

from pathlib import Path

import numpy as np

from faceparse.classes import CLASS_NAMES, NUM_CLASSES, PALETTE
from faceparse.errors import InputError, run
from faceparse.images import atomic_path, list_images, read_mask
from faceparse.parallel import in_parallel
from options import class_imbalance_parser


def class_pixels(mask):
    """Count the pixels of each class in a mask [H, W]: int64 [19]. 255, ignored, is left out."""
    return np.bincount(mask.ravel(), minlength=NUM_CLASSES)[:NUM_CLASSES]


def class_pixels_of_file(path):
    return class_pixels(read_mask(path))


def largest_first(totals):
    """Return (class ids, shares of the sum), both in order of falling share, from pixels per class [19]."""
    order = np.argsort(-totals, kind="stable")
    return order, totals[order] / max(totals.sum(), 1)


def format_counts(pixels):
    """Return a table of class, pixels, share and masks that hold it, from the class_pixels of each mask [N, 19]."""
    totals, masks = pixels.sum(axis=0), (pixels > 0).sum(axis=0)
    lines = [f"{'id':>2} {'class':<10} {'pixels':>14} {'share':>8} {'masks':>7}"]
    for index, share in zip(*largest_first(totals), strict=True):
        lines.append(f"{index:>2} {CLASS_NAMES[index]:<10} {totals[index]:>14,} {share:>8.3%} {masks[index]:>7,}")
    return "\n".join(lines)


def draw_shares(totals, paths, log=False):
    """Draw pixels per class [19] as a bar chart of shares and write it to each path."""
    import matplotlib  # here, because it takes longer to load than all else in this script

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    order, shares = largest_first(totals)
    percent = 100 * shares
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    colours = [tuple(channel / 255 for channel in PALETTE[index]) for index in order]
    bars = axes.bar([CLASS_NAMES[index] for index in order], percent, color=colours, edgecolor="black", linewidth=0.6)
    axes.bar_label(bars, [f"{value:.2g}" for value in percent], padding=2)
    axes.set_ylabel("share of all pixels, %")
    plt.setp(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01, y=0.1)
    if log:
        axes.set_yscale("log")
    for path in paths:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150)
    plt.close(figure)


def main(args):
    files = list_images(args.label_dir).values()
    pixels = np.array(list(in_parallel(class_pixels_of_file, files, "counting")))
    if not pixels.any():
        raise InputError(f"{args.label_dir}: every pixel is 255, ignored; there is nothing to count")
    print(format_counts(pixels))
    paths = [Path(args.output_dir) / f"proportions_given_data{suffix}" for suffix in (".pdf", ".png")]
    draw_shares(pixels.sum(axis=0), paths, args.log)
    print(f"{paths[0]}, {paths[1].name}: written, from {len(pixels)} masks")


if __name__ == "__main__":
    run(lambda: main(class_imbalance_parser(__doc__).parse_args()))
