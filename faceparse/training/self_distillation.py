"""Self-distillation: labels from a network's own confident predictions, for photographs with and without masks."""

from pathlib import Path

import numpy as np

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX
from faceparse.data.drawing import colorize
from faceparse.data.images import orientation, read_mask_of, write_label_map, write_picture
from faceparse.inference.metrics import confusion_matrix
from faceparse.inference.prediction import predict, upsample
from faceparse.parallel import in_threads, usable_cores

ROWS = 32  # of a label map that are made at a time


def merge(logits, mask, threshold):
    """Return `mask`, uint8 [H, W], with predictions above `threshold` of logits [C, H, W]; ignored pixels stay so."""
    replace = (softmax(logits).max(axis=0) > threshold) & (mask != IGNORE_INDEX)
    return np.where(replace, logits.argmax(axis=0), mask).astype(np.uint8)


def pseudo_label(logits, threshold):
    """Return the predicted ids, uint8 [H, W], of logits [C, H, W]; 255 if no probability exceeds `threshold`."""
    sure = softmax(logits).max(axis=0) > threshold
    return np.where(sure, logits.argmax(axis=0), IGNORE_INDEX).astype(np.uint8)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=0))
    powers /= powers.sum(axis=0)
    return powers


def write_labels(
    network, pairs, output_dir, *, threshold, unlabelled_threshold, colored_dir=None, made_by="", **options
):
    """Write a mask for every (stem, photograph, mask) into `output_dir`, as P-mode PNGs.

    A mask is merged with the predictions above `threshold`, sets of classes stay; in place of None comes that of
    `pseudo_label` with `unlabelled_threshold`. `colored_dir` receives the same in colours. `options` go to `predict`.
    Returns int64 [C, C]: pixels of the given masks by old id (row) and new id (column).
    """
    class_set = network.class_set

    def label(prediction):
        index, logits, size = prediction
        stem, photo_path, mask_path = pairs[index]
        mask = None
        if mask_path:
            given = read_mask_of(mask_path, size, class_set, photo_turn=orientation(photo_path), keep_sets=True)
            mask = np.where(np.isin(given, list(dict(class_set.sets))), np.uint8(IGNORE_INDEX), given)

        def label_rows(rows):
            upsampled = upsample(logits, size, rows)
            if mask is None:
                return pseudo_label(upsampled, unlabelled_threshold)
            return merge(upsampled, mask[rows], threshold)

        # All logits of a phone's photograph would take gigabytes, and those of a few rows fit into the cache.
        labels = np.concatenate([label_rows(slice(top, top + ROWS)) for top in range(0, size[0], ROWS)])
        with_sets = labels if mask is None else np.where(mask == IGNORE_INDEX, given, labels)
        write_label_map(Path(output_dir) / f"{stem}.png", with_sets, palette_of=class_set, made_by=made_by)
        if colored_dir:
            write_picture(Path(colored_dir) / f"{stem}.png", colorize(labels, class_set))
        return 0 if mask is None else confusion_matrix(mask, labels, len(class_set))

    predictions = predict(network, [photo for _, photo, _ in pairs], **options)
    threads = min(4, usable_cores())  # a GPU is faster than the cores that make labels of its logits
    return sum(in_threads(label, predictions, threads), start=np.zeros((len(class_set),) * 2, np.int64))


def format_changes(changes, class_set=CELEBAMASK):
    """Return a table of how many pixels each class lost and gained, from what `write_labels` returns."""
    kept = np.diag(changes)
    lost, gained = changes.sum(axis=1) - kept, changes.sum(axis=0) - kept
    width = max(12, *(len(name) + 1 for name in class_set.names))
    lines = [f"{'class':<{width}}{'before':>12}{'lost':>10}{'gained':>10}{'after':>12}"]
    lines += [
        f"{name:<{width}}{kept[i] + lost[i]:>12}{lost[i]:>10}{gained[i]:>10}{kept[i] + gained[i]:>12}"
        for i, name in enumerate(class_set.names)
    ]
    share = lost.sum() / max(1, changes.sum())
    return "\n".join([*lines, f"{lost.sum()} pixels changed, {share:.2%} of all"])
