"""Scores of a segmentation, all derived from one confusion matrix. Numpy only.

Sums run over the whole set, background included, without smoothing terms. Per class, with TP, FP, FN in pixels:
IoU = TP / (TP + FP + FN), precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN).
- A class absent from truth and prediction has no score: NaN, left out of every mean, printed as n/a.
- A class in the truth alone (never predicted) or in the prediction alone scores 0 in all four.
Macro precision, recall and F1 are means over classes; macro F1 is the mean of the class F1s.
"""

import numpy as np

from faceparse.classes import CLASS_NAMES, IGNORE_INDEX, NUM_CLASSES


def confusion_matrix(truth, prediction, num_classes=NUM_CLASSES):
    """Count pixels by (true class, predicted class): int64 [C, C], rows truth, columns prediction.

    Takes class ids of the same shape, 0 to C-1, in any integer type. Pixels whose truth is 255 are left out.
    Raises ValueError for differing shapes and for other ids.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    counted = truth != IGNORE_INDEX
    if not counted.all():
        truth, prediction = truth[counted], prediction[counted]
    for ids in (truth, prediction):
        if ids.size and (ids.min() < 0 or ids.max() >= num_classes):
            raise ValueError(f"holds ids {ids.min()} to {ids.max()}; classes go from 0 to {num_classes - 1}")
    cells = truth.astype(np.uint16)  # the smallest type that holds C * C, for speed: at most 255 classes fit a mask
    cells *= num_classes
    cells += prediction.astype(np.uint16, copy=False)
    return np.bincount(cells.ravel(), minlength=num_classes**2).reshape(num_classes, num_classes)


def mean(values):
    """Mean of the values that are not NaN; NaN where there are none."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


class Scores:
    """Every score of a confusion matrix [C, C], each in 0..1.

    iou, precision, recall, f1: per class, float [C], NaN where the class is absent from truth and prediction.
    miou, macro_precision, macro_recall, macro_f1: their means over the classes that are not NaN.
    """

    def __init__(self, matrix):
        hits, in_truth, in_prediction = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        in_both = in_truth + in_prediction

        def ratio(numerator, denominator):
            return np.where(in_both > 0, numerator / np.maximum(denominator, 1), np.nan)

        self.iou = ratio(hits, in_both - hits)
        self.precision = ratio(hits, in_prediction)
        self.recall = ratio(hits, in_truth)
        self.f1 = ratio(2 * hits, in_both)
        self.miou = mean(self.iou)
        self.macro_precision = mean(self.precision)
        self.macro_recall = mean(self.recall)
        self.macro_f1 = mean(self.f1)


def per_image_f1(matrix):
    """Mean F1 over the classes that occur in one image's truth; NaN where no pixel counts.

    The mean of this over images is the metric of the challenge's later edition.
    """
    return mean(Scores(matrix).f1[matrix.sum(axis=1) > 0])


def number(value):
    """Format a score with four decimals; n/a for NaN."""
    return "n/a" if np.isnan(value) else f"{value:.4f}"


def format_table(scores):
    """Return all scores as a readable table: a line per class and one of means."""
    rows = [("id", "class", "IoU", "precision", "recall", "F1")]
    for index, values in enumerate(zip(scores.iou, scores.precision, scores.recall, scores.f1, strict=True)):
        rows.append((index, CLASS_NAMES[index], *map(number, values)))
    means = (scores.miou, scores.macro_precision, scores.macro_recall, scores.macro_f1)
    rows.append(("", "mean", *map(number, means)))
    return "\n".join("{:>2} {:<10} {:>7} {:>10} {:>7} {:>7}".format(*row) for row in rows)
