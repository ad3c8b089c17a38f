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
from PIL import Image

import generate_labels
import main_deeplab
import validate
from faceparse import SHIPPED_CHECKPOINT, errors
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from faceparse.inference import checkpoints
from faceparse.inference.device import select_device
from models import build_model
from options import generate_labels_parser, train_parser, validate_parser

PARSERS = {main_deeplab: train_parser, validate: validate_parser, generate_labels: generate_labels_parser}
SMALL = ("--image_size", 32, "--workers", 0)
SLIM, CHALLENGE = "deeplabv3plus_mobilenet_slim", "deeplabv3plus_mobilenet"
TRAIN = ("--dataset_dir", "dataset", "--batch_size", 4, "--epochs", 1, "--model_type", SLIM, *SMALL)
VALIDATE = ("--checkpoint", "model.pt", "--image_dir", "dataset/val/val_image", *SMALL)
MERGE = (
    *("--checkpoint", "model.pt", *SMALL, "--output_dir", "merged", "--colored_dir", "colored"),
    *("--image_dir", "dataset/val/val_image", "--label_dir", "dataset/val/val_mask"),
)
PHOTO, MASK = "{0}/{0}_image/{0}_0002.jpg", "{0}/{0}_mask/{0}_0002.png"


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    checkpoints.save(path, checkpoints.describe(SLIM, CELEBAMASK, build_model(SLIM).state_dict()))
    return path


@pytest.fixture
def place(sample_dataset, checkpoint_path, tmp_path, monkeypatch):
    """A working directory with dataset/, which a test may damage, and the checkpoint model.pt."""
    shutil.copytree(sample_dataset, tmp_path / "dataset")
    shutil.copy(checkpoint_path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def the_error(stderr):
    """Return the only error line of what a script printed; progress bars return to the start of a line or go up one."""
    assert "Traceback" not in stderr
    lines = [line for line in re.split(r"[\r\n]|\x1b\[A", stderr) if "error:" in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture
def refusal(place, capsys):
    def call(script, *flags):
        """Run a script's main as its command line does; return the error line. No file may appear or change."""
        before = contents(place)
        args = PARSERS[script]("Run.").parse_args([str(flag) for flag in flags])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            errors.run_script(lambda: script.main(args))
        assert ended.value.code == 2
        assert contents(place) == before
        return the_error(capsys.readouterr().err)

    return call


# Ways to damage one pair of a split, and the file that the message must name.


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-300])


def not_an_image(path):
    path.write_text("not an image")


def other_size(path):
    write_label_map(path, np.zeros((64, 63), dtype=np.uint8))


def rgb(path):
    Image.open(path).convert("RGB").save(path)


def id_19(path):
    write_label_map(path, np.full((64, 64), 19, dtype=np.uint8))


def id_254(path):
    write_label_map(path, np.array([[0] * 63 + [254], [255] * 64] * 32, dtype=np.uint8))


SPOILT = {
    "mask missing": (remove, MASK, PHOTO, "has no mask"),
    "photograph missing": (remove, PHOTO, MASK, "has no photograph"),
    "photograph truncated": (truncate, PHOTO, PHOTO, "not a readable image"),
    "photograph not an image": (not_an_image, PHOTO, PHOTO, "not a readable image"),
    "mask truncated": (truncate, MASK, MASK, "not a readable image"),
    "mask of another size": (other_size, MASK, MASK, "63 x 64 but its photograph is 64 x 64"),
    "mask in RGB": (rgb, MASK, MASK, "one channel"),
    "mask with id 19": (id_19, MASK, MASK, "class id 19"),
    "mask with id 254": (id_254, MASK, MASK, "class id 254"),
}


def spoil(place, name, split):
    """Damage a pair of a split; return the texts that the message must hold."""
    change, victim, named, reason = SPOILT[name]
    change(place / "dataset" / victim.format(split))
    return f"dataset/{named.format(split)}", reason


@pytest.mark.parametrize("flags", [(), ("--cache", "off")], ids=["ram", "off"])
@pytest.mark.parametrize("name", SPOILT)
def test_training_on_a_spoilt_pair(place, refusal, name, flags):
    file, reason = spoil(place, name, "train")
    message = refusal(main_deeplab, *TRAIN, *flags)
    assert message.startswith(f"error: {file}: ") and reason in message


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--cache", "off"), ("--cache", "off", "--repeat_rare", 0.5), ("--cache", "ram")])
def test_training_on_a_spoilt_pair_read_by_worker_processes(place, refusal, flags):
    file, reason = spoil(place, "mask with id 19", "train")
    message = refusal(main_deeplab, *TRAIN, *flags, "--workers", 2)
    assert message.startswith(f"error: {file}: ") and reason in message


@pytest.mark.parametrize("name", SPOILT)
def test_training_with_a_spoilt_validation_pair(place, refusal, name):
    file, reason = spoil(place, name, "val")
    message = refusal(main_deeplab, *TRAIN)
    assert message.startswith(f"error: {file}: ") and reason in message


@pytest.mark.parametrize("name", [name for name in SPOILT if name not in ("mask missing", "photograph missing")])
def test_relabelling_a_spoilt_pair(place, refusal, name):
    file, reason = spoil(place, name, "val")
    message = refusal(generate_labels, *MERGE)
    assert message.startswith(f"error: {file}: ") and reason in message


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["photograph truncated", "photograph not an image"])
def test_prediction_of_a_spoilt_photograph(place, refusal, name, workers):
    file, reason = spoil(place, name, "val")
    message = refusal(validate, *VALIDATE, "--workers", workers)
    assert message.startswith(f"error: {file}: ") and reason in message


@pytest.mark.parametrize("script, flags", [(main_deeplab, TRAIN), (validate, VALIDATE), (generate_labels, MERGE)])
def test_no_data_set(place, refusal, script, flags):
    shutil.rmtree(place / "dataset")
    expected = (
        "dataset/train: no such folder; give the folder of the data set as --dataset_dir; dataset/README.md"
        if script is main_deeplab
        else ("dataset/val/val_image: no such file or folder")
    )
    assert refusal(script, *flags).startswith(f"error: {expected}")


@pytest.mark.parametrize(
    "folder, script, flags",
    [
        ("dataset/train/train_image", main_deeplab, TRAIN),
        ("dataset/train/train_mask", main_deeplab, TRAIN),
        ("dataset/val/val_image", main_deeplab, TRAIN),
        ("dataset/val/val_image", validate, VALIDATE),
        ("dataset/val/val_mask", generate_labels, MERGE),
    ],
)
def test_empty_folder(place, refusal, folder, script, flags):
    for path in (place / folder).iterdir():
        path.unlink()
    assert refusal(script, *flags).startswith(f"error: {folder}: holds no images")


# Flags that do not fit the data or the machine.


@pytest.mark.parametrize("masks", ["val/val_mask", "corrected/train_mask"])
def test_relabelling_masks_of_other_classes_than_the_checkpoint(place, refusal, masks):
    (place / "dataset/prepared.json").write_text('{"data_set": "LaPa"}')
    if not (place / "dataset" / masks).exists():
        shutil.copytree(place / "dataset/val/val_mask", place / "dataset" / masks)
    message = refusal(generate_labels, *MERGE, "--label_dir", f"dataset/{masks}")
    assert message.startswith(f"error: {place / 'dataset'}: has other classes")


def test_more_classes_in_the_masks_than_in_the_class_set(refusal):
    message = refusal(main_deeplab, *TRAIN, "--classes", "lapa")
    assert re.match(r"error: dataset/train/train_mask/train_\d+\.png: holds class id \d+; ids go from 0 to 10", message)


def test_out_channels_must_agree_with_the_classes(refusal):
    message = refusal(main_deeplab, *TRAIN, "--out_channels", 5)
    assert message.startswith("error: --out_channels 5: --classes celebamask has 19 classes")


@pytest.mark.parametrize("flag", [("--label_dir", "elsewhere"), ("--truth_dir", "elsewhere")])
def test_label_folders_that_do_not_exist(refusal, flag):
    assert refusal(main_deeplab, *TRAIN, *flag).startswith("error: elsewhere: no such file or folder")


def test_batch_of_one(refusal):
    assert "--batch_size 1" in refusal(main_deeplab, *TRAIN, "--batch_size", 1)


@pytest.mark.parametrize("flag, value", [("--image_size", 31), ("--distill_threshold", 1.1)])
def test_values_that_no_run_can_have(flag, value, capsys):
    """The parser itself refuses the flag: it prints its usage and names the flag."""
    with pytest.raises(SystemExit) as ended:
        train_parser("Train.").parse_args([flag, str(value)])
    assert ended.value.code == 2
    assert f"error: argument {flag}: " in capsys.readouterr().err


@pytest.mark.parametrize("script, flags", [(main_deeplab, TRAIN), (validate, VALIDATE), (generate_labels, MERGE)])
def test_gpu_that_does_not_exist(refusal, monkeypatch, script, flags):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (
        refusal(script, *flags, "--gpu_id", 2)
        == "error: --gpu_id: there is no GPU 2 here; there are 2, numbered from 0"
    )


def test_gpu_whose_driver_does_not_work(refusal, monkeypatch):
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


def test_gpu_that_this_build_has_no_kernels_for(refusal, monkeypatch):
    """PyTorch finds it and warns; the first computation fails."""

    def zeros(*shape, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch, "zeros", zeros)
    message = "error: GPU 0: PyTorch cannot compute on it (CUDA error: no kernel image is available for execution on "
    assert refusal(main_deeplab, *TRAIN).startswith(message + "the device); choose another --gpu_id, install a build")


def test_graphs_on_the_cpu(refusal):
    message = "error: --cuda_graphs: for one process on a GPU; leave it out on the CPU and under torchrun"
    assert refusal(main_deeplab, *TRAIN, "--cuda_graphs") == message


def test_teachers_that_cannot_teach(refusal):
    message = refusal(main_deeplab, *TRAIN, "--teacher", "missing.pt")
    assert message.startswith("error: missing.pt: no such checkpoint")
    message = refusal(main_deeplab, *TRAIN, "--image_size", 64, "--teacher", SHIPPED_CHECKPOINT)
    assert message.endswith("needs --image_size 512, at which it was trained")


def test_self_distillation_after_the_last_epoch(refusal):
    message = refusal(main_deeplab, *TRAIN, "--epochs", 3, "--self_distill_epoch", 3)
    assert message == "error: --self_distill_epoch 3: leaves no epoch of --epochs 3"


def test_cache_on_a_gpu_that_does_not_exist(refusal, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(main_deeplab, *TRAIN, "--cache", "gpu").startswith("error: --cache gpu: there is no CUDA")


@pytest.mark.parametrize(
    "script, flags, file",
    [
        (main_deeplab, TRAIN, "checkpoints"),
        (validate, (*VALIDATE, "--output_dir", "out"), "out"),
        (validate, (*VALIDATE, "--output_dir", "out/deeper"), "out"),
        (validate, (*VALIDATE, "--output_dir", "new", "--save_visualizations"), "new/overlays"),
        (generate_labels, (*MERGE, "--output_dir", "out"), "out"),
        (generate_labels, (*MERGE, "--colored_dir", "out"), "out"),
    ],
)
def test_output_folder_that_is_a_file(place, script, flags, file, capsys):
    (place / file).parent.mkdir(exist_ok=True)
    (place / file).write_text("precious")
    before = contents(place)
    with pytest.raises(SystemExit) as ended:
        errors.run_script(lambda: script.main(PARSERS[script]("Run.").parse_args([str(flag) for flag in flags])))
    assert ended.value.code == 2
    assert file in the_error(capsys.readouterr().err)
    after = contents(place)
    assert {path: after.get(path) for path in before} == before


# Tests of checkpoints.


class RunsCode:
    """An object that makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("code_was_run",)


def torchvision_like():
    return {"conv1.weight": torch.zeros(8, 3, 3, 3), "fc.bias": torch.zeros(10)}


CHECKPOINTS = {  # name: (content of the file, part of the message)
    "empty": (b"", "not a readable checkpoint"),
    "text": (b"hello, this is no checkpoint", "not a readable checkpoint"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "refused"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(99), "refused"),
    "code": (RunsCode(), "refused, holds more than weights"),
    "code beside weights": ({"state_dict": {}, "model_type": SLIM, "x": RunsCode()}, "refused"),
    "bare of another network": (torchvision_like(), f"a bare state_dict, but not of {CHALLENGE}"),
    "another network": (checkpoints.describe("resnet", CELEBAMASK, torchvision_like()), "holds model 'resnet'"),
    "wrong name": (checkpoints.describe(SLIM, CELEBAMASK, torchvision_like()), "does not fit the model"),
    "list": ([1, 2, 3], "neither a checkpoint of this project nor a state_dict"),
    "no weights": ({"epoch": 3}, "neither a checkpoint of this project nor a state_dict"),
    "one byte": (b".", "not a readable checkpoint"),
    "cut in a number": (b"G", "not a readable checkpoint"),
    "classes unsaid": ({"model_type": SLIM, "in_channels": 3, "state_dict": torchvision_like()}, "holds neither"),
}


@pytest.mark.parametrize("content, reason", CHECKPOINTS.values(), ids=CHECKPOINTS)
@pytest.mark.parametrize("script, flags", [(validate, VALIDATE), (generate_labels, MERGE)])
def test_a_file_that_is_no_checkpoint(place, refusal, script, flags, content, reason):
    if isinstance(content, bytes):
        (place / "model.pt").write_bytes(content)
    else:
        torch.save(content, place / "model.pt")
    message = refusal(script, *flags)
    assert message.startswith("error: model.pt: ") and reason in message
    assert not (place / "code_was_run").exists()


def test_the_code_in_that_pickle_would_run(place):
    """Without this the tests above would prove nothing."""
    torch.save(RunsCode(), "code.pt")
    torch.load("code.pt", weights_only=False)
    assert (place / "code_was_run").is_dir()


@pytest.mark.parametrize("script, flags", [(validate, VALIDATE), (generate_labels, MERGE)])
def test_truncated_or_missing_checkpoint(place, refusal, script, flags):
    path = place / "model.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refusal(script, *flags).startswith("error: model.pt: not a readable checkpoint")
    path.unlink()
    assert refusal(script, *flags).startswith("error: model.pt: no such checkpoint")


def test_onnx_file_that_does_not_exist(refusal):
    assert refusal(validate, *VALIDATE, "--checkpoint", "model.onnx").startswith("error: model.onnx: ")


def test_training_from_a_checkpoint_of_another_model(refusal, capsys):
    message = refusal(main_deeplab, *TRAIN, "--model_type", CHALLENGE, "--load_model_path", "model.pt")
    assert message.startswith("error: model.pt: does not fit the model (--load_not_strict")
    flags = ("--model_type", CHALLENGE, "--load_model_path", "model.pt", "--load_not_strict")
    assert "model.pt: nothing in it fits" in refusal(main_deeplab, *TRAIN, *flags)


def test_training_from_a_missing_checkpoint(refusal):
    message = refusal(main_deeplab, *TRAIN, "--load_model_path", "nowhere.pt")
    assert message.startswith("error: nowhere.pt: no such checkpoint")


@pytest.mark.parametrize("file", ["truncated", "model.pt"])
def test_resume_from_a_file_that_cannot_be_resumed(place, refusal, file):
    """The file is a truncated last.pt, or another checkpoint with that name."""
    last = place / "checkpoints/deeplab/last.pt"
    last.parent.mkdir(parents=True)
    data = (place / "model.pt").read_bytes()
    last.write_bytes(data[:-1000] if file == "truncated" else data)
    assert refusal(main_deeplab, *TRAIN, "--resume").startswith("error: checkpoints/deeplab/last.pt: ")


# Tests of the script as a process.


@pytest.mark.slow
def test_no_traceback_from_the_command_line_with_worker_processes(place):
    file, reason = spoil(place, "photograph truncated", "train")
    before = contents(place)
    command = [sys.executable, main_deeplab.__file__, *map(str, TRAIN), "--workers", "2", "--cache", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    message = the_error(done.stderr)
    assert message.startswith(f"error: {file}: ") and reason in message
    assert contents(place) == before


def test_a_batch_that_the_gpu_cannot_hold_is_one_line_and_other_runtime_errors_stay_errors(capsys):
    def fail(error):
        raise error

    with pytest.raises(SystemExit) as ended:
        errors.run_script(lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")))
    assert ended.value.code == 2 and "--batch_size" in the_error(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        errors.run_script(lambda: fail(RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")))
    assert "--gpu_id" in the_error(capsys.readouterr().err)
    killed = "DataLoader worker (pid 7) is killed by signal: Killed."
    with pytest.raises(SystemExit):
        errors.run_script(lambda: fail(RuntimeError(killed)))
    assert "--workers" in the_error(capsys.readouterr().err)
    for bug in ("a bug", "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ..."):
        with pytest.raises(RuntimeError, match=bug.splitlines()[0]):
            errors.run_script(lambda bug=bug: fail(RuntimeError(bug)))
