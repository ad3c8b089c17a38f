"""Several runs in one picture."""

import numpy as np
import pytest
from PIL import Image

from faceparse.errors import InputError
from faceparse.training.log import write_log
from options import plot_runs_parser
from tools import plot_runs


def plot(*arguments):
    plot_runs.main(plot_runs_parser("Plot.").parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def runs(tmp_path):
    """Two runs of 4 epochs, validated in every second; the second one diverges in its last epoch."""
    for name, shift in (("a", 0), ("b", 0.1)):
        log = [{"epoch": epoch, "train_loss": shift + 1 / epoch} for epoch in range(1, 5)]
        for line in log[1::2]:
            line |= {"val_loss": shift + 1.1 / line["epoch"], "mIoU": line["epoch"] / 10 + shift}
        if name == "b":
            log[-1] |= {"train_loss": float("nan"), "mIoU": float("nan")}
        (tmp_path / name).mkdir()
        write_log(tmp_path / name / "log.jsonl", log)
    return tmp_path


def test_all_curves_are_drawn(runs, capsys, monkeypatch):
    drawn = {}
    from matplotlib import axes

    draw = axes.Axes.plot

    def watch(self, x, y, *rest, **options):
        drawn.setdefault(options["label"], []).append((list(x), list(y)))
        return draw(self, x, y, *rest, **options)

    monkeypatch.setattr(axes.Axes, "plot", watch)
    plot(runs / "a", runs / "b/log.jsonl", "--output", runs / "out/runs.png")
    assert drawn[str(runs / "a")] == [([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4]), ([2, 4], [0.2, 0.4])]
    assert np.isnan(drawn[str(runs / "b/log.jsonl")][0][1][-1])
    assert Image.open(runs / "out/runs.png").width == 12 * 120
    printed = capsys.readouterr().out
    assert "a: 4 epochs, best mIoU 0.4000 in epoch 4" in printed
    assert "b/log.jsonl: 4 epochs, best mIoU 0.3000 in epoch 2" in printed


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing", None, "no such file"),
        ("other.jsonl", '{"step": 1}\n', "is no log of a training"),
        ("empty.jsonl", "", "holds no epoch yet"),
    ],
)
def test_what_is_no_run_is_refused(runs, name, content, expected):
    if content is not None:
        (runs / name).write_text(content)
    with pytest.raises(InputError, match=expected):
        plot(runs / "a", runs / name, "--output", runs / "runs.png")
    assert not (runs / "runs.png").exists()


def test_a_run_that_was_never_validated(runs, capsys):
    write_log(runs / "a/log.jsonl", [{"epoch": 1, "train_loss": 1.0}])
    plot(runs / "a", "--output", runs / "runs.svg")
    assert "1 epoch, not validated yet" in capsys.readouterr().out
    with pytest.raises(InputError, match="must end in"):
        plot(runs / "a", "--output", runs / "runs.txt")
