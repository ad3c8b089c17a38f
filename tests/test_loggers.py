"""Loggers beside log.jsonl: each gets the numbers of every epoch, a resumed run's too, and a missing one is named."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

import main_deeplab
from faceparse.data.classes import CELEBAMASK
from faceparse.errors import InputError
from faceparse.training.log import import_logger, open_logger, scalars
from options import train_parser

LINE = {"epoch": 3, "train_loss": 0.5, "mIoU": 0.25, "IoU": [0.5, math.nan, None, *[0.1] * 16]}


class FakeWandb(ModuleType):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.sent = [], []

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, values, step):
        self.sent.append((step, values))


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_line_becomes_numbers_with_a_name_for_each_class():
    values = scalars(LINE, CELEBAMASK)
    assert values.pop("train_loss") == 0.5 and values.pop("mIoU") == 0.25
    assert values.pop("IoU/background") == 0.5 and set(values.values()) == {0.1} and len(values) == 16
    assert "IoU/skin" not in values and "IoU/cloth" in values  # class 1 has no score


def test_no_logger_does_nothing(tmp_path):
    open_logger(None, tmp_path, [], 1, {}, CELEBAMASK)(LINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_named(monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"--logger {kind}: the package is missing; pip install {kind}"):
        import_logger(kind)


def test_wandb_that_cannot_start_is_bad_input(wandb, tmp_path):
    def no_account(**_):
        raise RuntimeError("not logged in\nlong help")

    wandb.init = no_account
    with pytest.raises(InputError, match=r"\A--logger wandb: not logged in; WANDB_MODE=offline[^\n]*\Z"):
        open_logger("wandb", tmp_path, [], 1, {}, CELEBAMASK)


@pytest.mark.slow
def test_training_sends_each_epoch_and_a_resumed_run_the_earlier_ones_too(sample_dataset, tmp_path, monkeypatch, wandb):
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset_dir", sample_dataset, "--image_size", 32, "--batch_size", 4, "--workers", 0, "--save_every", 2]
    flags += ["--logger", "wandb"]
    for more in (["--epochs", 2], ["--epochs", 3, "--resume"]):
        main_deeplab.main(train_parser("Train.").parse_args([str(flag) for flag in [*flags, *more]]))
    assert [step for step, _ in wandb.sent] == [1, 2, 1, 2, 3]
    assert [each["name"] for each in wandb.started] == ["deeplab"] * 2
    assert wandb.started[0]["config"]["epochs"] == 2
    losses = [json.loads(line)["train_loss"] for line in Path("checkpoints/deeplab/log.jsonl").read_text().splitlines()]
    assert [values["train_loss"] for _, values in wandb.sent] == [*losses[:2], *losses]
    assert "mIoU" not in wandb.sent[0][1] and "mIoU" in wandb.sent[1][1]


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
