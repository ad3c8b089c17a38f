"""How many pixels each class has, as numbers and as a table. Needs no torch."""

import numpy as np

from faceparse.classes import CELEBAMASK


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
