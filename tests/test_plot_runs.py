"""Several runs in one picture."""

import numpy as np
import pytest
from helpers import call
from matplotlib import axes
from PIL import Image

from faceparse.training.log import write_log
from tools import plot_runs


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
    for _ in range(2):  # a plot may be replaced
        call(plot_runs, run, run / "log.jsonl", "--output", run / "out/runs.png")
    curves = [(list(x), np.nan_to_num(list(y), nan=-1).tolist()) for x, y in drawn]
    assert curves.count(([1, 2, 3, 4], [1, 1 / 2, 1 / 3, -1])) == 4
    assert curves.count(([2, 4], [0.6, 0.5])) == curves.count(([2, 4], [0.3, -1])) == 4
    assert Image.open(run / "out/runs.png").width == 12 * 120
    assert "a/log.jsonl: 4 epochs, best mIoU 0.3000 in epoch 2" in capsys.readouterr().out


def test_no_other_picture_is_replaced(run, refusal):
    Image.new("RGB", (8, 8)).save(run / "photo.png")
    assert "photo.png: is not a plot" in refusal(plot_runs, run, "--output", run / "photo.png")
    assert "runs.jpg: must end in .png, .svg or .pdf" in refusal(plot_runs, run, "--output", run / "runs.jpg")
