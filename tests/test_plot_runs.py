"""Several runs in one picture."""

import numpy as np
import pytest
from matplotlib import axes
from PIL import Image

from faceparse.training.log import write_log
from options import plot_runs_parser
from tools import plot_runs


def plot(*arguments):
    plot_runs.main(plot_runs_parser("Plot.").parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def run(tmp_path):
    """A run of 4 epochs, validated in every second, which diverges in the last."""
    log = [{"epoch": epoch, "train_loss": 1 / epoch} for epoch in range(1, 5)]
    log[1] |= {"val_loss": 0.6, "mIoU": 0.3}
    log[3] |= {"train_loss": float("nan"), "val_loss": 0.5, "mIoU": float("nan")}
    (tmp_path / "a").mkdir()
    write_log(tmp_path / "a/log.jsonl", log)
    return tmp_path / "a"


def test_all_curves_are_drawn(run, capsys, monkeypatch):
    drawn = []
    draw = axes.Axes.plot
    monkeypatch.setattr(axes.Axes, "plot", lambda *args, **kw: drawn.append(args[1:3]) or draw(*args, **kw))
    plot(run, run / "log.jsonl", "--output", run / "out/runs.png")
    curves = [(list(x), np.nan_to_num(list(y), nan=-1).tolist()) for x, y in drawn]
    assert curves.count(([1, 2, 3, 4], [1, 1 / 2, 1 / 3, -1])) == 2
    assert curves.count(([2, 4], [0.6, 0.5])) == curves.count(([2, 4], [0.3, -1])) == 2
    assert Image.open(run / "out/runs.png").width == 12 * 120
    assert "a/log.jsonl: 4 epochs, best mIoU 0.3000 in epoch 2" in capsys.readouterr().out
