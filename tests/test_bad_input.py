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
from helpers import CHALLENGE, SLIM, SMALL, checkpoint_content, contents, the_error
from PIL import Image

import generate_labels
import main_deeplab
import validate
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from faceparse.inference import checkpoints
from faceparse.inference.device import select_device

TRAIN = ("--dataset_dir", "dataset", "--batch_size", 4, "--epochs", 1, "--model_type", SLIM, *SMALL)
VALIDATE = ("--checkpoint", "model.pt", "--image_dir", "dataset/val/val_image", *SMALL)
MERGE = (
    *("--checkpoint", "model.pt", *SMALL, "--output_dir", "merged", "--colored_dir", "colored"),
    *("--image_dir", "dataset/val/val_image", "--label_dir", "dataset/val/val_mask"),
)
SCRIPTS = [(main_deeplab, TRAIN), (validate, VALIDATE), (generate_labels, MERGE)]
PHOTO, MASK = "{0}/{0}_image/{0}_0002.jpg", "{0}/{0}_mask/{0}_0002.png"


# Ways to damage one pair of a split, and the file that the message must name.


def write_mask(labels):
    return lambda path: write_label_map(path, np.array(labels, dtype=np.uint8))


SPOILT = {  # name: (damage, the damaged file, the file that the message names, part of the message)
    "mask missing": (Path.unlink, MASK, PHOTO, "has no mask"),
    "photograph missing": (Path.unlink, PHOTO, MASK, "has no photograph"),
    "photograph truncated": (lambda path: os.truncate(path, 500), PHOTO, PHOTO, "not a readable image"),
    "photograph not an image": (lambda path: path.write_text("text"), PHOTO, PHOTO, "not a readable image"),
    "photograph a named pipe": (lambda path: (path.unlink(), os.mkfifo(path)), PHOTO, PHOTO, "not a regular file"),
    "mask truncated": (lambda path: os.truncate(path, 100), MASK, MASK, "not a readable image"),
    "mask of another size": (write_mask(np.zeros((64, 63))), MASK, MASK, "63 x 64 but its photograph is 64 x 64"),
    "mask in RGB": (lambda path: Image.new("RGB", (64, 64)).save(path), MASK, MASK, "one channel"),
    "mask with id 19": (write_mask(np.full((64, 64), 19)), MASK, MASK, "class id 19"),
    "mask with id 254": (write_mask([[0] * 63 + [254], [255] * 64] * 32), MASK, MASK, "class id 254"),
}


def spoil(name, split):
    """Damage a pair of a split; return the texts that the message must hold."""
    damage, victim, named, reason = SPOILT[name]
    damage(Path("dataset", victim.format(split)))
    return f"error: dataset/{named.format(split)}: ", reason


@pytest.mark.parametrize(
    ("split", "flags"), [("train", ()), ("train", ("--cache", "off")), ("val", ())], ids=["ram", "off", "val"]
)
@pytest.mark.parametrize("name", SPOILT)
def test_training_with_a_spoilt_pair(place, refusal, name, split, flags):
    start, reason = spoil(name, split)
    message = refusal(main_deeplab, *TRAIN, *flags)
    assert message.startswith(start) and reason in message


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--cache", "off"), ("--cache", "off", "--repeat_rare", 0.5), ("--cache", "ram")])
def test_training_on_a_spoilt_pair_read_by_worker_processes(place, refusal, flags):
    start, reason = spoil("mask with id 19", "train")
    message = refusal(main_deeplab, *TRAIN, *flags, "--workers", 2)
    assert message.startswith(start) and reason in message


@pytest.mark.parametrize("name", SPOILT)
def test_relabelling_a_spoilt_pair(place, refusal, name):
    start, reason = spoil(name, "val")
    message = refusal(generate_labels, *MERGE)
    assert message.startswith(start) and reason in message


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", [name for name in SPOILT if name.startswith("photograph") and "missing" not in name])
def test_prediction_of_a_spoilt_photograph(place, refusal, name, workers):
    start, reason = spoil(name, "val")
    message = refusal(validate, *VALIDATE, "--workers", workers)
    assert message.startswith(start) and reason in message


@pytest.mark.parametrize(("script", "flags"), SCRIPTS)
def test_no_data_set(place, refusal, script, flags):
    shutil.rmtree("dataset")
    expected = {main_deeplab: "dataset/train: no such folder; --dataset_dir holds train/train_image"}
    assert refusal(script, *flags).startswith(
        "error: " + expected.get(script, "dataset/val/val_image: no such file or folder")
    )


@pytest.mark.parametrize(
    ("folder", "script", "flags"),
    [
        ("train/train_image", main_deeplab, TRAIN),
        ("train/train_mask", main_deeplab, TRAIN),
        ("val/val_image", main_deeplab, TRAIN),
        ("val/val_image", validate, VALIDATE),
        ("val/val_mask", generate_labels, MERGE),
    ],
)
def test_empty_folder(place, refusal, folder, script, flags):
    for path in Path("dataset", folder).iterdir():
        path.unlink()
    assert refusal(script, *flags).startswith(f"error: dataset/{folder}: holds no images")


# Flags that do not fit the data or the machine.


@pytest.mark.parametrize("masks", ["val/val_mask", "corrected/train_mask"])
def test_relabelling_masks_of_other_classes_than_the_checkpoint(place, refusal, masks):
    Path("dataset/prepared.json").write_text('{"data_set": "LaPa"}')
    if not Path("dataset", masks).exists():
        shutil.copytree("dataset/val/val_mask", f"dataset/{masks}")
    message = refusal(generate_labels, *MERGE, "--label_dir", f"dataset/{masks}")
    assert message.startswith(f"error: {place / 'dataset'}: has other classes")


def test_more_classes_in_the_masks_than_in_the_class_set(place, refusal):
    message = refusal(main_deeplab, *TRAIN, "--classes", "lapa")
    assert re.match(r"error: dataset/train/train_mask/train_\d+\.png: holds class id \d+; ids go from 0 to 10", message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--out_channels 5", "--out_channels 5: --classes celebamask has 19 classes"),
        ("--label_dir elsewhere", "elsewhere: no such file or folder"),
        ("--truth_dir elsewhere", "elsewhere: no such file or folder"),
        ("--batch_size 1", "--batch_size 1 and 8 training pairs: BatchNorm needs 2"),
        ("--cuda_graphs", "--cuda_graphs: for one process on a GPU; leave it out on the CPU and under torchrun"),
        ("--epochs 3 --self_distill_epoch 3", "--self_distill_epoch 3: leaves no epoch of --epochs 3"),
        ("--cache gpu", "--cache gpu: there is no CUDA"),
        ("--load_model_path nowhere.pt", "nowhere.pt: no such checkpoint"),
        ("--load_model_path .", ".: is a folder; give a checkpoint in it"),
        (f"--model_type {CHALLENGE} --load_model_path model.pt", "model.pt: does not fit the model (--load_not_strict"),
        (f"--model_type {CHALLENGE} --load_model_path model.pt --load_not_strict", "model.pt: nothing in it fits"),
    ],
)
def test_flags_of_a_training(place, refusal, flags, message):
    assert refusal(main_deeplab, *TRAIN, *flags.split()).startswith(f"error: {message}")


@pytest.mark.parametrize(
    "flags", ["--image_size 31", "--image_size 100000", "--distill_threshold 1.1", "--workers 100000", "--save_prefix="]
)
def test_values_that_no_run_can_have(place, refusal, flags):
    """The parser itself refuses the flag and names it."""
    assert f"error: argument {flags.split('=')[0].split()[0]}: " in refusal(main_deeplab, *flags.split())


@pytest.mark.parametrize(("script", "flags"), SCRIPTS)
def test_gpu_that_does_not_exist(place, refusal, monkeypatch, script, flags):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (
        refusal(script, *flags, "--gpu_id", 2)
        == "error: --gpu_id: there is no GPU 2 here; there are 2, numbered from 0"
    )


def test_gpu_whose_driver_does_not_work(place, refusal, monkeypatch):
    """400 epochs on the CPU are not what its owner wants."""

    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old\nUpdate it")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [path / "nvidia0"] if str(path) == "/dev" else [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    message = "error: the GPU does not work (The NVIDIA driver on your system is too old); repair the driver, or set "
    assert refusal(main_deeplab, *TRAIN) == message + 'CUDA_VISIBLE_DEVICES="" for the CPU'
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert select_device(0).type == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)  # PyTorch for CPUs
    assert select_device(0).type == "cpu"


def test_gpu_that_this_build_has_no_kernels_for(place, refusal, monkeypatch):
    """PyTorch finds it and warns; the first computation fails."""

    def zeros(*shape, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch, "zeros", zeros)
    message = "error: GPU 0: PyTorch cannot compute on it (CUDA error: no kernel image is available for execution on "
    assert refusal(main_deeplab, *TRAIN).startswith(message + "the device); choose another --gpu_id, install a build")


@pytest.mark.parametrize(
    ("script", "flags", "file"),
    [
        (main_deeplab, TRAIN, "checkpoints"),
        (validate, (*VALIDATE, "--output_dir", "out"), "out"),
        (validate, (*VALIDATE, "--output_dir", "out/deeper"), "out"),
        (validate, (*VALIDATE, "--output_dir", "new", "--save_visualizations"), "new/overlays"),
        (generate_labels, (*MERGE, "--output_dir", "out"), "out"),
        (generate_labels, (*MERGE, "--colored_dir", "out"), "out"),
    ],
)
def test_output_folder_that_is_a_file(place, refusal, script, flags, file):
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("precious")
    assert file in refusal(script, *flags)


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
    "text": (b"hello, this is no checkpoint", "not a readable checkpoint"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "refused"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(99), "refused"),
    "code": (RunsCode(), "refused"),
    "code beside weights": (checkpoint_content(optimizer=RunsCode()), "refused, holds more than weights"),
    "bare of another network": (OTHER, f"a bare state_dict, but not of {CHALLENGE}"),
    "another network": (checkpoints.describe("resnet", CELEBAMASK, OTHER), "holds model 'resnet'; known are"),
    "wrong name": (checkpoints.describe(SLIM, CELEBAMASK, OTHER), "does not fit the model"),
    "list": ([1, 2, 3], NEITHER),
    "empty dict": ({}, NEITHER),
    "no weights": ({"epoch": 3}, NEITHER),
    "empty weights": ({"state_dict": {}}, NEITHER),
    "text for a tensor": (changed_bias("abc"), NEITHER),
    "number of classes": (checkpoint_content(num_classes=7), "has 7 classes, but the class set has 19"),
    "NaN": (changed_bias(torch.full((19,), float("nan"))), "holds NaN or infinite weights"),
    "infinite": (changed_bias(torch.ones(19) / 0), "holds NaN or infinite weights"),
    "sparse": (changed_bias(torch.ones(19).to_sparse()), "its weights cannot be copied"),
    "shape": (changed_bias(torch.ones(19, 1)), "classifier.bias is [19, 1] here, [19] in the model"),
}


@pytest.mark.parametrize(("content", "reason"), CHECKPOINTS.values(), ids=CHECKPOINTS)
@pytest.mark.parametrize(("script", "flags"), SCRIPTS[1:])
def test_a_file_that_is_no_checkpoint(place, refusal, script, flags, content, reason):
    if isinstance(content, bytes):
        Path("model.pt").write_bytes(content)
    else:
        torch.save(content, "model.pt")
    message = refusal(script, *flags)
    assert message.startswith("error: model.pt: ") and reason in message
    assert not Path("code_was_run").exists()
    if isinstance(content, RunsCode):
        torch.load("model.pt", weights_only=False)  # the trap works with a reader that unpickles anything
        assert Path("code_was_run").exists()


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.99, 0.9999])
def test_truncated_or_missing_checkpoint(place, refusal, kept):
    os.truncate("model.pt", int(kept * Path("model.pt").stat().st_size))
    assert re.match(r"error: model\.pt: (not a readable|refused)", refusal(validate, *VALIDATE))
    for name in ("missing.pt", "missing.onnx"):
        assert refusal(validate, *VALIDATE, "--checkpoint", name).startswith(f"error: {name}: no such ")


@pytest.mark.parametrize("image_size", ["abc", 0, 31, 1_000_000, 64.0, True, None])
def test_image_size_of_a_checkpoint(place, refusal, image_size):
    torch.save(checkpoint_content(image_size=image_size), "model.pt")
    message = refusal(validate, "--checkpoint", "model.pt", "--image_dir", "dataset/val/val_image", "--workers", 0)
    assert re.match(r"error: model\.pt: its image_size is .*; it must be from 32 to 4096", message)


@pytest.mark.parametrize("bytes_lost", [0, 1000])
def test_resume_from_a_file_that_cannot_be_resumed(place, refusal, bytes_lost):
    """The file is another checkpoint with that name, or a truncated one."""
    last = Path("checkpoints/deeplab/last.pt")
    last.parent.mkdir(parents=True)
    last.write_bytes(Path("model.pt").read_bytes()[: -bytes_lost or None])
    assert refusal(main_deeplab, *TRAIN, "--resume").startswith("error: checkpoints/deeplab/last.pt: ")


@pytest.mark.slow
def test_no_traceback_from_the_command_line_with_worker_processes(place):
    start, reason = spoil("photograph truncated", "train")
    before = contents(place)
    command = [sys.executable, main_deeplab.__file__, *map(str, TRAIN), "--workers", "2", "--cache", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    message = the_error(done.stderr)
    assert message.startswith(start) and reason in message
    assert contents(place) == before
