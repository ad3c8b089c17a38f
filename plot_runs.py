"""Draw the curves of several training runs in one picture: losses at the left, validation mIoU at the right.

python plot_runs.py checkpoints/deeplab checkpoints/recipe --output runs.png
"""

import math
from pathlib import Path

from faceparse.atomic_files import atomic_path
from faceparse.errors import InputError, run_script
from faceparse.training_log import read_log
from options import plot_runs_parser


def read_runs(paths):
    """Return {path: log} of runs, folders or log.jsonl files."""
    runs = {}
    for path in map(Path, paths):
        file = path / "log.jsonl" if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"{file}: no such file; give the folder of a run under checkpoints/")
        try:
            runs[str(path)] = read_log(file, math.inf)
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{file}: is no log of a training, a line of JSON for each epoch") from None
        if not runs[str(path)]:
            raise InputError(f"{file}: holds no epoch yet")
    return runs


def draw_runs(path, runs):
    """Draw {name: log}, a colour a run, and write the picture to `path`."""
    import matplotlib  # here, because it takes longer to load than all else in this script

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (losses, scores) = plt.subplots(ncols=2, figsize=(12, 5), layout="constrained")
    for index, (name, log) in enumerate(runs.items()):
        validated = [line for line in log if "mIoU" in line]
        colour = f"C{index}"
        for axes, lines, value, style in (
            (losses, log, "train_loss", "-"),
            (losses, validated, "val_loss", "--"),
            (scores, validated, "mIoU", "-"),
        ):
            # JSON has no NaN: what diverged is null, and leaves a gap.
            values = [math.nan if line[value] is None else line[value] for line in lines]
            axes.plot(
                [line["epoch"] for line in lines], values, style, color=colour, label=name if style == "-" else ""
            )
    losses.set(xlabel="epoch", ylabel="loss: training, validation dashed")
    scores.set(xlabel="epoch", ylabel="validation mIoU")
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
    losses.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def main(args):
    runs = read_runs(args.runs)
    if Path(args.output).suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--output {args.output}: must end in .png, .svg or .pdf")
    draw_runs(args.output, runs)
    for name, log in runs.items():
        scores = [(line["mIoU"], line["epoch"]) for line in log if line.get("mIoU") is not None]
        best = "best mIoU {:.4f} in epoch {}".format(*max(scores)) if scores else "not validated yet"
        print(f"{name}: {log[-1]['epoch']} epochs, {best}")
    print(f"{args.output}: written")


if __name__ == "__main__":
    run_script(lambda: main(plot_runs_parser(__doc__).parse_args()))
