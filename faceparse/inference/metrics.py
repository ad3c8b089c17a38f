"""Scores of a segmentation, derived from one confusion matrix, and the pass over two folders. Needs no torch.

Sums run over the whole set, background included, without smoothing terms. Per class, with TP, FP, FN in pixels:
IoU = TP / (TP + FP + FN), precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN).
- A class absent from truth and prediction has no score: NaN, left out of every mean, printed as n/a.
- A class in the truth alone (never predicted) or in the prediction alone scores 0 in all four.
Macro precision, recall and F1 are means over classes; macro F1 is the mean of the class F1s.
"""

import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX, find_class_set
from faceparse.data.images import list_images, read_maker, read_mask, read_mask_of, require_partners
from faceparse.data.provenance import describe_makers, require_makers_class_set
from faceparse.errors import InputError, counted
from faceparse.files import atomic_path
from faceparse.parallel import in_parallel


def confusion_matrix(truth, prediction, num_classes):
    """Count pixels by (true class, predicted class): int64 [C, C], rows truth, columns prediction.

    Takes ids 0 to C-1 of the same shape, in any integer type; ValueError for others. Pixels of truth 255 are left out.
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
    """Mean of the values that are not NaN; NaN if there are none."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


class Scores:
    """Every score of a confusion matrix [C, C], each in 0..1.

    iou, precision, recall, f1: per class, float [C], NaN if the class is absent from truth and prediction.
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
    """Mean F1 over the classes that occur in one image's truth; NaN if no pixel counts.

    The mean of this over images is the metric of the challenge's later edition.
    """
    return mean(Scores(matrix).f1[matrix.sum(axis=1) > 0])


def format_score(value):
    """Format a score with four decimals; n/a for NaN."""
    return "n/a" if np.isnan(value) else f"{value:.4f}"


def format_table(scores, class_set=CELEBAMASK):
    """Return all scores as a readable table: a line per class, one of means, and one of means without background."""
    rows = [("id", "class", "IoU", "precision", "recall", "F1")]
    columns = (scores.iou, scores.precision, scores.recall, scores.f1)
    for index, values in enumerate(zip(*columns, strict=True)):
        rows.append((index, class_set.names[index], *map(format_score, values)))
    rows.append(("", "mean", *(format_score(mean(column)) for column in columns)))
    rows.append(("", f"mean 1-{len(scores.iou) - 1}", *(format_score(mean(column[1:])) for column in columns)))
    width = max(10, *map(len, class_set.names))
    return "\n".join("{:>2} {:<{width}} {:>7} {:>10} {:>7} {:>7}".format(*row, width=width) for row in rows)


def match_predictions(submit_dir, truth_dir):
    """Pair predictions with true masks by stem: a list of (prediction path, truth path).

    Raises InputError for a truth without prediction. Predictions without truth are left out, with a message on stderr.
    """
    predictions, truths = list_images(submit_dir), list_images(truth_dir)
    require_partners(truths, predictions, "prediction", submit_dir)
    extra = predictions.keys() - truths.keys()
    if extra:
        left_out = counted(len(extra), "prediction")
        print(f"{submit_dir}: left out {left_out} without a truth in {truth_dir}", file=sys.stderr)
    return [(predictions[stem], file) for stem, file in truths.items()]


def score_pair(pair, class_set):
    """Return the confusion matrix, the F1 and what made the prediction, of one (prediction path, truth path)."""
    prediction_file, truth_file = pair
    truth = read_mask(truth_file, class_set)
    prediction = read_mask_of(prediction_file, truth.shape, class_set, owner="truth")
    if prediction.max() >= len(class_set):  # read_mask allows 255, which only a truth may hold
        raise InputError(f"{prediction_file}: holds id {prediction.max()}; predict a class 0 to {len(class_set) - 1}")
    matrix = confusion_matrix(truth, prediction, len(class_set))
    return matrix, per_image_f1(matrix), read_maker(prediction_file)


def score_folders(submit_dir, truth_dir, class_set=CELEBAMASK):
    """Score the label maps of two folders: confusion matrices, int64 [n, C, C], and F1 of each photograph, [n].

    Says what made the label maps, if they tell it. Raises InputError for a file that is missing or does not fit, for
    label maps of another class set, and if no pixel of the truth counts.
    """
    pairs = match_predictions(submit_dir, truth_dir)
    scored = in_parallel(partial(score_pair, class_set=class_set), pairs, "scoring")
    matrices, f1_of_images, makers = zip(*scored, strict=True)
    makers = Counter(makers)
    if not any(matrix.any() for matrix in matrices):
        raise InputError(f"{truth_dir}: every pixel is 255, ignored; there is nothing to score")
    require_makers_class_set(submit_dir, makers, class_set)
    describe_makers(submit_dir, makers)
    return np.stack(matrices), f1_of_images


def write_scores(args, file_name, format_file):
    """Score as the flags say, write `format_file(scores)`, print the table; return the mean per-image F1."""
    class_set = find_class_set(args.classes)
    matrices, f1_of_images = score_folders(args.submit_dir, args.truth_dir, class_set)
    scores, path = Scores(matrices.sum(axis=0)), Path(args.output_dir) / file_name
    with atomic_path(path) as temporary:
        temporary.write_text(format_file(scores))
    print(f"{format_table(scores, class_set)}\n{path}: written")
    return mean(f1_of_images)
