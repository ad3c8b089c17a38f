"""The one pass over two folders of label maps that all score scripts share. Needs no torch."""

import sys
from pathlib import Path

from faceparse.classes import NUM_CLASSES
from faceparse.errors import InputError
from faceparse.images import atomic_path, list_images, read_mask, read_mask_of, require_partners
from faceparse.metrics import Scores, confusion_matrix, format_table, mean, per_image_f1
from faceparse.parallel import in_parallel


def match_predictions(submit_dir, truth_dir):
    """Pair predictions with true masks by stem: a list of (prediction path, truth path).

    A truth without prediction is an InputError; predictions without truth are left out and said so on stderr, since a
    folder of predictions may cover more photographs than have masks.
    """
    predictions, truths = list_images(submit_dir), list_images(truth_dir)
    require_partners(truths, predictions, "prediction", submit_dir)
    extra = len(predictions.keys() - truths.keys())
    if extra:
        print(f"{submit_dir}: left out, for want of a truth in {truth_dir}: {extra} predictions", file=sys.stderr)
    return [(predictions[stem], file) for stem, file in truths.items()]


def score_pair(pair):
    """Return the confusion matrix and the F1 of one (prediction path, truth path).

    Raises InputError for what cannot be scored.
    """
    prediction_file, truth_file = pair
    truth = read_mask(truth_file)
    prediction = read_mask_of(prediction_file, truth.shape, "truth")
    if prediction.max() >= NUM_CLASSES:  # read_mask allows 255, which only a truth may hold
        raise InputError(f"{prediction_file}: holds id {prediction.max()}; predict a class 0 to {NUM_CLASSES - 1}")
    matrix = confusion_matrix(truth, prediction)
    return matrix, per_image_f1(matrix)


def score_folders(submit_dir, truth_dir):
    """Score the label maps of two folders: the summed confusion matrix, int64 [19, 19], and the mean per-image F1.

    Reads each file once, in constant memory. Raises InputError, naming the file, for a missing prediction, an
    unreadable or wrongly sized file, a wrong id, or when no pixel of the truth counts.
    """
    total, f1_of_images = 0, []
    for matrix, f1 in in_parallel(score_pair, match_predictions(submit_dir, truth_dir), "scoring"):
        total = total + matrix
        f1_of_images.append(f1)
    if not total.any():
        raise InputError(f"{truth_dir}: every pixel is 255, ignored; there is nothing to score")
    return total, mean(f1_of_images)


def write_scores(args, file_name, format_file):
    """Score as the flags say, write `format_file(scores)`, print the table; return the mean per-image F1."""
    total, f1_of_images = score_folders(args.submit_dir, args.truth_dir)
    scores, path = Scores(total), Path(args.output_dir) / file_name
    with atomic_path(path) as temporary:
        temporary.write_text(format_file(scores))
    print(f"{format_table(scores)}\n{path}: written")
    return f1_of_images
