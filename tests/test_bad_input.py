"""Bad input to the scripts that use the network: one line that names the file or flag, status 2, nothing touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CHALLENGE, MERGE, PREDICT, SLIM, TRAIN, checkpoint_content, contents, the_error
from PIL import Image

import generate_labels
import main_deeplab
import validate
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from faceparse.inference import checkpoints

PHOTO, MASK = "{0}/{0}_image/{0}_0002.jpg", "{0}/{0}_mask/{0}_0002.png"


def write_mask(labels):
    return lambda path: write_label_map(path, np.array(labels, dtype=np.uint8))


SPOILT = [  # (damage, the damaged file, the file that the message names, part of the message)
    (Path.unlink, MASK, PHOTO, "has no mask"),
    (Path.unlink, PHOTO, MASK, "has no photograph"),
    (lambda path: os.truncate(path, 500), PHOTO, PHOTO, "not a readable image"),
    (write_mask(np.zeros((64, 63))), MASK, MASK, "63 x 64 but its photograph is 64 x 64"),
    (lambda path: Image.new("RGB", (64, 64)).save(path), MASK, MASK, "one channel"),
    (write_mask([[0] * 63 + [254], [255] * 64] * 32), MASK, MASK, "class id 254"),
]
TRUNCATED = SPOILT[2]


def spoil(split, damage, victim, named, reason):
    """Damage a pair of a split; return the texts that the message must hold."""
    damage(Path("dataset", victim.format(split)))
    return f"error: dataset/{named.format(split)}: ", reason


@pytest.mark.parametrize(
    ("script", "flags", "split", "spoilt"),
    [
        *((main_deeplab, TRAIN, "train", spoilt) for spoilt in SPOILT),
        *((main_deeplab, TRAIN, "val", spoilt) for spoilt in SPOILT[:3]),
        *((generate_labels, MERGE, "val", spoilt) for spoilt in SPOILT),
        *((validate, (*PREDICT, "--workers", workers), "val", TRUNCATED) for workers in (0, 2)),
    ],
)
def test_a_spoilt_pair(place, refusal, script, flags, split, spoilt):
    start, reason = spoil(split, *spoilt)
    message = refusal(script, *flags)
    assert message.startswith(start) and reason in message


@pytest.mark.slow
def test_no_traceback_from_the_command_line_with_worker_processes(place):
    start, reason = spoil("train", *TRUNCATED)
    before = contents(place)
    command = [sys.executable, main_deeplab.__file__, *map(str, TRAIN), "--workers", "2", "--cache", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    message = the_error(done.stderr)
    assert done.returncode == 2 and message.startswith(start) and reason in message
    assert contents(place) == before


@pytest.mark.parametrize(
    ("folder", "script", "flags"),
    [
        ("train/train_image", main_deeplab, TRAIN),
        ("train/train_mask", main_deeplab, TRAIN),
        ("val/val_mask", generate_labels, MERGE),
    ],
)
def test_a_folder_that_is_empty_or_missing(place, refusal, folder, script, flags):
    for path in Path("dataset", folder).iterdir():
        path.unlink()
    assert refusal(script, *flags).startswith(f"error: dataset/{folder}: holds no images")
    shutil.rmtree("dataset")
    assert re.match(r"error: dataset/\w+(/\w+)?: no such", refusal(script, *flags))


# Flags that do not fit the data or the machine.


def test_relabelling_masks_of_other_classes_than_the_checkpoint(place, refusal):
    Path("dataset/prepared.json").write_text('{"data_set": "LaPa"}')
    shutil.copytree("dataset/val/val_mask", "dataset/corrected/train_mask")
    for masks in ("dataset/val/val_mask", "dataset/corrected/train_mask"):
        message = refusal(generate_labels, *MERGE, "--label_dir", masks)
        assert message.startswith(f"error: {place / 'dataset'}: has other classes")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--out_channels 5", "--out_channels 5: --classes celebamask has 19 classes"),
        ("--label_dir elsewhere", "elsewhere: no such file or folder"),
        ("--batch_size 1", "--batch_size 1 and 8 training pairs: BatchNorm needs 2"),
        ("--cuda_graphs", "--cuda_graphs: for one process on a GPU; leave it out on the CPU and under torchrun"),
        ("--epochs 3 --self_distill_epoch 3", "--self_distill_epoch 3: leaves no epoch of --epochs 3"),
        ("--load_model_path nowhere.pt", "nowhere.pt: no such checkpoint"),
        ("--image_size 31", "argument --image_size: "),
    ],
)
def test_flags_of_a_training(place, refusal, flags, message):
    assert f"error: {message}" in refusal(main_deeplab, *TRAIN, *flags.split())


def test_gpu_that_does_not_exist(place, refusal, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = "error: --gpu_id: there is no GPU 2 here; there are 2, numbered from 0"
    assert refusal(main_deeplab, *TRAIN, "--gpu_id", 2) == message


# Checkpoints.


class RunsCode:
    """An object that makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("code_was_run",)


def changed_bias(value):
    weights = checkpoint_content()["state_dict"]
    return checkpoint_content(state_dict=weights | {"classifier.bias": value})


OTHER = {"conv1.weight": torch.zeros(8, 3, 3, 3), "fc.bias": torch.zeros(10)}
NEITHER = "holds neither a checkpoint of this project nor a state_dict"
CHECKPOINTS = {  # name: (content of the file, part of the message)
    "empty": (b"", "not a readable checkpoint"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "refused"),
    "code": (RunsCode(), "refused"),
    "code beside weights": (checkpoint_content(optimizer=RunsCode()), "refused, holds more than weights"),
    "bare of another network": (OTHER, f"a bare state_dict, but not of {CHALLENGE}"),
    "another network": (checkpoints.describe("resnet", CELEBAMASK, OTHER), "holds model 'resnet'; known are"),
    "wrong name": (checkpoints.describe(SLIM, CELEBAMASK, OTHER), "does not fit the model"),
    "no weights": ({"epoch": 3}, NEITHER),
    "number of classes": (checkpoint_content(num_classes=7), "has 7 classes, but the class set has 19"),
    "image size": (checkpoint_content(image_size=31), "its image_size is 31; it must be from 32 to 4096"),
    "NaN": (changed_bias(torch.full((19,), float("nan"))), "holds NaN or infinite weights"),
    "shape": (changed_bias(torch.ones(19, 1)), "classifier.bias is [19, 1] here, [19] in the model"),
}


@pytest.mark.parametrize(("content", "reason"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_file_that_is_no_checkpoint(place, refusal, content, reason):
    if isinstance(content, bytes):
        Path("model.pt").write_bytes(content)
    else:
        torch.save(content, "model.pt")
    message = refusal(validate, *PREDICT)
    assert message.startswith("error: model.pt: ") and reason in message
    assert not Path("code_was_run").exists()
    if isinstance(content, RunsCode):
        torch.load("model.pt", weights_only=False)  # the trap works with a reader that unpickles anything
        assert Path("code_was_run").exists()


def test_truncated_and_missing_checkpoints(place, refusal):
    last = Path("checkpoints/deeplab/last.pt")
    last.parent.mkdir(parents=True)
    shutil.copy("model.pt", last)  # no state of a training
    assert refusal(main_deeplab, *TRAIN, "--resume").startswith(f"error: {last}: it lacks args")
    for path, script, flags in (
        (Path("model.pt"), validate, PREDICT),
        (last, main_deeplab, (*TRAIN, "--resume")),
    ):
        for kept in (0.999, 0.5, 0.001):
            os.truncate(path, int(kept * path.stat().st_size))
            assert re.match(rf"error: {path}: (not a readable|refused)", refusal(script, *flags))
    for name in ("missing.pt", "missing.onnx"):
        assert refusal(validate, *PREDICT, "--checkpoint", name).startswith(f"error: {name}: no such ")
