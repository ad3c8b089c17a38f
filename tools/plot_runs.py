"""Draw the curves of several training runs in one picture: losses at the left, validation mIoU at the right.

python -m tools.plot_runs checkpoints/deeplab checkpoints/recipe --output runs.png
"""

import math
from pathlib import Path

from faceparse.errors import InputError, counted, run_script
from faceparse.training.log import draw_runs, read_log
from options import plot_runs_parser


def read_runs(paths):
    """Return {path: log} of runs, folders or log.jsonl files."""
    runs = {}
    for path in map(Path, paths):
        file = path / "log.jsonl" if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"{file}: no such file; give the folder of a run under checkpoints/")
        runs[str(path)] = read_log(file, math.inf)
        if not runs[str(path)]:
            raise InputError(f"{file}: holds no epoch yet")
    return runs


def check_output(path):
    """Raise InputError unless a path may be written as a plot; an existing file must be one."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--output {path}: must end in .png, .svg or .pdf")
    if path.exists() and b"atplotlib" not in path.read_bytes():  # which all three formats hold
        raise InputError(f"--output {path}: is not a plot; choose another name")


def main(args):
    runs = read_runs(args.runs)
    check_output(Path(args.output))
    draw_runs(args.output, runs)
    for name, log in runs.items():
        scores = [(line["mIoU"], line["epoch"]) for line in log if line.get("mIoU") is not None]
        best = "best mIoU {:.4f} in epoch {}".format(*max(scores)) if scores else "not validated yet"
        print(f"{name}: {counted(log[-1]['epoch'], 'epoch')}, {best}")
    print(f"{args.output}: written")


if __name__ == "__main__":
    run_script(lambda: main(plot_runs_parser(__doc__).parse_args()))
