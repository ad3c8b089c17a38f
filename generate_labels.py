"""Self-distillation: relabel training pixels where the model is confident.

    python main_deeplab.py --epochs 30
    python generate_labels.py --checkpoint checkpoints/deeplab/Deeplab_checkpoint_epoch_30.pt
    python main_deeplab.py --epochs 400 --resume --label_dir dataset/train/merged_labels

Where the largest softmax probability exceeds the threshold the prediction replaces the label, elsewhere the label
stays. `python main_deeplab.py --self_distill_epoch 30` does both in one run.
"""

from pathlib import Path

import numpy as np

from faceparse.atomic_files import atomic_folder, refuse_overwriting
from faceparse.classes import CELEBAMASK, IGNORE_INDEX, find_class_set
from faceparse.drawing import colorize
from faceparse.errors import run_script
from faceparse.images import match_pairs, read_mask_of, write_label_map, write_picture
from faceparse.metrics import confusion_matrix
from faceparse.prediction import load_network, predict
from faceparse.upsampling import upsample
from options import generate_labels_parser


def merge(logits, mask, threshold):
    """Return `mask` with the predictions of probability above `threshold` written over it.

    logits: [C, H, W]; mask: uint8 numpy [H, W], its ignored pixels stay so. Returns uint8 numpy [H, W].
    """
    confidence, prediction = (each.cpu().numpy() for each in logits.softmax(dim=0).max(dim=0))
    replace = (confidence > threshold) & (mask != IGNORE_INDEX)
    return np.where(replace, prediction, mask).astype(np.uint8)


def merge_labels(model, pairs, output_dir, *, threshold, colored_dir=None, **prediction_options):
    """Write the merged mask of every (stem, photograph, mask) into `output_dir` as P-mode PNGs.

    Returns int64 [C, C]: pixels by old id (row) and new id (column). `prediction_options` go to `predict`.
    """
    class_set = model.class_set
    changes = np.zeros((len(class_set), len(class_set)), dtype=np.int64)
    for index, logits, size in predict(model, [photo for _, photo, _ in pairs], **prediction_options):
        stem, _, mask_path = pairs[index]
        mask = read_mask_of(mask_path, size, class_set)
        merged = merge(upsample(logits[None], size)[0], mask, threshold)
        changes += confusion_matrix(mask, merged, len(class_set))
        write_label_map(Path(output_dir) / f"{stem}.png", merged, palette_of=class_set)
        if colored_dir:
            write_picture(Path(colored_dir) / f"{stem}.png", colorize(merged, class_set))
    return changes


def format_changes(changes, class_set=CELEBAMASK):
    """A table of how many pixels each class lost and gained."""
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


def main(args):
    pairs = match_pairs(args.image_dir, args.label_dir)
    refuse_overwriting("--output_dir", args.output_dir, args.image_dir, args.label_dir)
    refuse_overwriting("--colored_dir", args.colored_dir, args.image_dir, args.label_dir, args.output_dir)
    model, device = load_network(args.checkpoint, args.gpu_id, args.classes and find_class_set(args.classes))
    with atomic_folder(args.output_dir) as merged_dir, atomic_folder(args.colored_dir) as colored_dir:
        changes = merge_labels(
            model,
            pairs,
            merged_dir,
            threshold=args.threshold,
            colored_dir=colored_dir,
            device=device,
            image_size=args.image_size or model.image_size,
            batch_size=args.batch_size,
            workers=args.workers,
        )
    print(format_changes(changes, model.class_set))
    print(f"{len(pairs)} merged masks in {args.output_dir}, coloured in {args.colored_dir}")


if __name__ == "__main__":
    run_script(lambda: main(generate_labels_parser(__doc__).parse_args()))
