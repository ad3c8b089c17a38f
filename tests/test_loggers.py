"""Loggers beside log.jsonl: each gets the numbers of every epoch, a resumed run's too, and a missing one is named."""

import math
import sys
from types import ModuleType

import pytest
from helpers import SMALL, call

import main_deeplab
from faceparse.data.classes import CELEBAMASK
from faceparse.training.log import open_logger, scalars

LINE = {"epoch": 3, "train_loss": 0.5, "mIoU": 0.25, "IoU": [0.5, math.nan, None, *[0.1] * 16]}


@pytest.fixture
def wandb(monkeypatch):
    """A package that keeps what it is given, in `started` and `sent`."""
    fake = ModuleType("wandb")
    fake.started, fake.sent = [], []
    fake.init = lambda **options: fake.started.append(options) or fake
    fake.log = lambda values, step: fake.sent.append((step, values))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_line_becomes_numbers_with_a_name_for_each_class():
    values = scalars(LINE, CELEBAMASK)
    assert values.pop("train_loss") == 0.5 and values.pop("mIoU") == 0.25
    assert values.pop("IoU/background") == 0.5 and set(values.values()) == {0.1} and len(values) == 16
    assert "IoU/skin" not in values and "IoU/cloth" in values  # class 1 has no score


def test_training_sends_each_epoch_and_a_resumed_run_the_earlier_ones_too(place, monkeypatch, wandb):
    """Epochs that train nothing are enough for that."""
    monkeypatch.setattr(
        main_deeplab,
        "run_epochs",
        lambda state, model, data, run_dir, first: (
            ({"epoch": n, "train_loss": n / 2}, None) for n in range(first, state.args.epochs + 1)
        ),
    )
    for more in (("--epochs", 2), ("--epochs", 3, "--resume")):
        call(main_deeplab, *SMALL, "--logger", "wandb", *more)
    assert wandb.sent == [(n, {"train_loss": n / 2}) for n in (1, 2, 1, 2, 3)]
    assert [each["name"] for each in wandb.started] == ["deeplab"] * 2
    assert wandb.started[0]["config"]["epochs"] == 2


def test_tensorboard_holds_what_was_sent_and_a_resumed_run_replaces_what_it_repeats(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = open_logger("tensorboard", tmp_path, [], 1, {"epochs": 3}, CELEBAMASK)
    for epoch in (1, 2, 3):
        first(LINE | {"epoch": epoch})
    resumed = open_logger("tensorboard", tmp_path, [{"epoch": 1}, {"epoch": 2}], 3, {"epochs": 3}, CELEBAMASK)
    resumed(LINE | {"train_loss": 0.125})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [(1, 0.5), (2, 0.5), (3, 0.125)]
    assert [event.step for event in events.Scalars("IoU/cloth")] == [1, 2, 3]
