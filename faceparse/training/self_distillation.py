"""Self-distillation: labels from a network's own confident predictions, for photographs with and without masks."""

from pathlib import Path

import numpy as np

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX
from faceparse.data.drawing import colorize
from faceparse.data.images import (
    list_images,
    orientation,
    read_mask_of,
    read_pair,
    read_partial_mask,
    write_label_map,
    write_picture,
)
from faceparse.errors import InputError
from faceparse.inference.metrics import confusion_matrix
from faceparse.inference.prediction import predict
from faceparse.inference.upsampling import upsample
from faceparse.parallel import in_threads, usable_cores

ROWS = 32  # of a label map that are made at a time


def require_unlabelled(args, *needed):
    """Raise InputError for a flag about photographs without masks where a flag `needed` for them is not given."""
    for flag in ("partial_masks", "doubtful"):
        if getattr(args, flag) and not all(getattr(args, name) for name in needed):
            raise InputError(f"--{flag}: needs {' and '.join(f'--{name}' for name in needed)}, to which it applies")


class PartialMasks:
    """True masks of one class for some of the photographs: inside is that class, outside it is not."""

    def __init__(self, argument, class_set):
        """`argument` is CLASS=FOLDER, as `--partial_masks` takes it. Raises InputError where either does not exist."""
        name, _, folder = argument.partition("=")
        if name not in class_set.names or not folder:
            raise InputError(
                f"--partial_masks {argument}: give CLASS=FOLDER, CLASS one of {', '.join(class_set.names)}"
            )
        self.class_id = class_set.names.index(name)
        self.files = list_images(folder)

    def read(self, stem, size):
        """Return the mask of the photograph `stem`, bool [height, width]; None if it has none."""
        return read_partial_mask(self.files[stem], size) if stem in self.files else None


def with_partial_mask(logits, class_id, inside):
    """Return logits [C, H, W] that agree with `inside`, bool [H, W]: the true mask of a class.

    A pixel that masks of two classes claim keeps no class: all its logits are -inf.
    """
    is_class = np.arange(len(logits))[:, None, None] == class_id
    return np.where(is_class == inside, logits, -np.inf)


def merge(logits, mask, threshold):
    """Return `mask` with the predictions of probability above `threshold` written over it.

    logits: [C, H, W]; mask: uint8 [H, W], its ignored pixels stay so. Returns uint8 [H, W].
    """
    replace = (softmax(logits).max(axis=0) > threshold) & (mask != IGNORE_INDEX)
    return np.where(replace, logits.argmax(axis=0), mask).astype(np.uint8)


def pseudo_label(logits, threshold, doubtful=None):
    """Return the predicted ids, uint8 [H, W], of logits [C, H, W]; 255 where none exceeds `threshold` or all are -inf.

    `doubtful`, id to probability: 255 also where such a class has at least that probability and another is predicted.
    A network overlooks parts of a rare class, and training on its labels would teach to overlook them.
    """
    probabilities, prediction = softmax(logits), logits.argmax(axis=0)
    sure = probabilities.max(axis=0) > threshold
    for class_id, probability in (doubtful or {}).items():
        sure &= (prediction == class_id) | (probabilities[class_id] < probability)
    return np.where(sure, prediction, IGNORE_INDEX).astype(np.uint8)


def doubtful_classes(pairs, class_set):
    """Return {id: probability} of pairs (name, probability). Raises InputError for a name unknown or given twice."""
    doubtful = {class_set.id_of(name, "--doubtful"): probability for name, probability in pairs}
    if len(doubtful) < len(pairs):
        raise InputError("--doubtful: names a class twice")
    return doubtful


def softmax(logits):
    """Return the probabilities of logits [C, H, W]; zeros where all of them are -inf."""
    largest = logits.max(axis=0)
    powers = logits - np.where(np.isneginf(largest), 0, largest)
    np.exp(powers, out=powers)
    powers /= np.maximum(powers.sum(axis=0), 1)  # The largest power is 1.
    return powers


def write_labels(
    network,
    pairs,
    output_dir,
    *,
    threshold,
    unlabelled_threshold,
    doubtful=None,
    partial_masks=(),
    colored_dir=None,
    made_by="",
    **options,
):
    """Write a mask for every (stem, photograph, mask) into `output_dir`, as P-mode PNGs.

    Where a photograph has a mask it is merged with the predictions above `threshold`; where that is None, the mask
    is that of `pseudo_label` with `unlabelled_threshold` and `doubtful`, and agrees with all `partial_masks`.
    `colored_dir` receives the same in colours. `made_by` is the text of write_label_map, `options` go to `predict`.
    Returns int64 [C, C]: pixels of the given masks by old id (row) and new id (column).
    """
    class_set = network.class_set
    changes = np.zeros((len(class_set), len(class_set)), dtype=np.int64)

    def write(stem, labels):
        write_label_map(Path(output_dir) / f"{stem}.png", labels, palette_of=class_set, made_by=made_by)
        if colored_dir:
            write_picture(Path(colored_dir) / f"{stem}.png", colorize(labels, class_set))

    def copy(pair):
        stem, photo_path, mask_path = pair
        _, mask = read_pair(photo_path, mask_path, class_set)
        write(stem, mask)
        return confusion_matrix(mask, mask, len(class_set))

    def label(prediction):
        index, logits, size = prediction
        stem, photo_path, mask_path = pairs[index]
        mask = read_mask_of(mask_path, size, class_set, photo_turn=orientation(photo_path)) if mask_path else None
        partial = [] if mask_path else [(masks.class_id, masks.read(stem, size)) for masks in partial_masks]

        def label_rows(rows):
            upsampled = upsample(logits, size, rows)
            if mask is not None:
                return merge(upsampled, mask[rows], threshold)
            for class_id, inside in partial:
                if inside is not None:
                    upsampled = with_partial_mask(upsampled, class_id, inside[rows])
            return pseudo_label(upsampled, unlabelled_threshold, doubtful)

        # All logits of a phone's photograph would take gigabytes, and those of a few rows fit into the cache.
        labels = np.concatenate([label_rows(slice(top, top + ROWS)) for top in range(0, size[0], ROWS)])
        write(stem, labels)
        return 0 if mask is None else confusion_matrix(mask, labels, len(class_set))

    threads = min(4, usable_cores())  # A GPU is faster than the cores that make labels of its logits.
    if threshold == 1:  # no probability is above it, so the network need not see the photographs with masks
        changes += sum(in_threads(copy, [pair for pair in pairs if pair[2]], threads))
        pairs = [pair for pair in pairs if not pair[2]]
    predictions = predict(network, [photo for _, photo, _ in pairs], **options)
    return changes + sum(in_threads(label, predictions, threads))


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
