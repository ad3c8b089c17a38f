"""Score checkpoints at several sizes of the photographs, print a table, and draw mIoU against GFLOPs.

    python -m benchmarks.frontier Deeplab_checkpoint_epoch_128.pt recipes/slim_256_all.pt --output frontier.png

The published score of the challenge's solution, on other photographs, is drawn beside them.
"""

import argparse
from pathlib import Path

from faceparse.data.drawing import check_plot_name, plot
from faceparse.data.images import match_pairs, read_mask_of
from faceparse.errors import run_script
from faceparse.inference.checkpoints import read_checkpoint
from faceparse.inference.metrics import Scores, confusion_matrix
from faceparse.inference.networks import load_network
from faceparse.inference.prediction import label_map, predict
from models.cost import count_flops
from options import network_input_size

SIZES = (256, 320, 384, 448, 512)  # px
PUBLISHED = {"the challenge's solution, as published\n(5,000 pairs; other photographs)": (21.6, 0.7398)}


def measure(checkpoint, pairs, sizes):
    """Return a list of (size, GFLOPs, mIoU, macro F1) of a checkpoint on pairs as `match_pairs` returns them."""
    network, model_type = load_network(checkpoint), read_checkpoint(checkpoint)["model_type"]
    classes, photos = network.class_set, [photo for _, photo, _ in pairs]
    rows = []
    for size in sizes:
        total = 0
        options = {"batch_size": network.batch_size, "workers": 1, "progress": f"{size} px"}
        for index, logits, own_size in predict(network, photos, image_size=size, **options):
            truth = read_mask_of(pairs[index][2], own_size, classes)
            total = total + confusion_matrix(truth, label_map(logits, own_size), len(classes))
        scores = Scores(total)
        rows.append((size, count_flops(model_type, size) / 1e9, scores.miou, scores.macro_f1))
    return rows


def draw(path, results):
    """Draw {checkpoint: rows of `measure`} and what is published, and write the picture to `path`."""
    with plot(path, figsize=(7, 5)) as (figure, axes):
        for checkpoint, rows in results.items():
            _, gflops, mious, _ = zip(*rows, strict=True)
            axes.plot(gflops, mious, ".-", label=Path(checkpoint).name)
            for size, *place, _ in rows:
                axes.annotate(f"{size} px", place, xytext=(6, -9), textcoords="offset points", fontsize=8)
        for name, place in PUBLISHED.items():
            axes.plot(*place, "o", markerfacecolor="none", color="grey", label=name)
        axes.set(xscale="log", xlabel="GFLOPs a photograph", ylabel="mIoU")
        ticks = (1, 2, 5, 10, 20)
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        figure.legend(loc="outside upper center")


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", help="checkpoints of ours")
    parser.add_argument("--image_dir", default="dataset/val/val_image", help="photographs")
    parser.add_argument("--mask_dir", default="dataset/corrected/val_mask", help="their masks, of the same stems")
    parser.add_argument("--sizes", nargs="+", type=network_input_size, default=SIZES, help="longer sides, px")
    parser.add_argument("--output", default="frontier.png", help="the picture")
    return parser.parse_args()


def main(args):
    check_plot_name("--output", args.output)
    pairs = match_pairs(args.image_dir, args.mask_dir)
    results = {}
    print("| checkpoint | size, px | GFLOPs | mIoU | macro F1 |\n|---|---|---|---|---|")
    for checkpoint in args.checkpoints:
        results[checkpoint] = measure(checkpoint, pairs, args.sizes)
        for size, gflops, miou, macro_f1 in results[checkpoint]:
            print(f"| {Path(checkpoint).name} | {size} | {gflops:.2f} | {miou:.3f} | {macro_f1:.3f} |", flush=True)
    draw(args.output, results)
    print(f"{args.output}: written")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
