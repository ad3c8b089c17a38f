"""Training and prediction on a CUDA GPU, if there is one, in processes of their own because conftest.py hides it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from shlex import split

import numpy as np
import pytest
import torch
from gradients import TOLERANCES, assert_close, assert_steps_follow

from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.images import list_images, read_mask

GPUS = os.environ["TEST_GPUS"]
pytestmark = pytest.mark.skipif(
    shutil.which("nvidia-smi") is None or torch.version.cuda is None or GPUS == "", reason="needs a CUDA GPU"
)
ROOT = Path(__file__).parents[1]


def run(folder, *command, gpus=GPUS):
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": gpus, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(sample_dataset, folder, *flags, launcher=(), gpus=GPUS):
    """Train two epochs, the second resumed; return the lines of the log."""
    folder.mkdir()
    command = [*launcher, ROOT / "main_deeplab.py", "--dataset_dir", sample_dataset, *flags]
    command += split("--image_size 64 --batch_size 4 --workers 1 --save_every 1 --ema 0.9 --repeat_rare 0.25")
    run(folder, *command, "--epochs", 1, gpus=gpus)
    run(folder, *command, "--epochs", 2, "--resume", gpus=gpus)
    return [json.loads(line) for line in (folder / "checkpoints/deeplab/log.jsonl").read_text().splitlines()]


RUNS = {  # name: flags and what launches the script
    "gpu": (["--cache", "gpu"], ()),
    "ram": (["--cache", "ram"], ()),
    "off": (["--cache", "off"], ()),
    "float32": (["--float32"], ()),
    "graphs": (["--cuda_graphs"], ()),
    "torchrun": ([], ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1")),
}


@pytest.fixture(scope="module")
def on_the_cpu(sample_dataset, tmp_path_factory):
    return train(sample_dataset, tmp_path_factory.mktemp("cuda") / "cpu", gpus="")


@pytest.mark.parametrize("name", RUNS)
def test_trains_on_the_gpu_as_on_the_cpu(on_the_cpu, sample_dataset, tmp_path, name):
    """The losses differ by rounding, and by noise and dropout, whose random numbers depend on the device."""
    flags, launcher = RUNS[name]
    lines = train(sample_dataset, tmp_path / name, *flags, launcher=launcher)
    assert all(line["peak_gib"] > 0 for line in lines)
    for key in ("train_loss", "val_loss"):
        assert [line[key] for line in lines] == pytest.approx([line[key] for line in on_the_cpu], rel=0.1), key


@pytest.mark.parametrize("size", TOLERANCES)
def test_gradients_and_step_are_those_of_float64(tmp_path, size):
    """In float32 without TF32 as close as on the CPU. Under autocast the steps still follow the gradient's signs."""
    command = [ROOT / "tests/gradients.py", "cuda", size]
    assert_close(*json.loads(run(tmp_path, *command, "--float32").splitlines()[-1]), TOLERANCES[size])
    _, steps = json.loads(run(tmp_path, *command).splitlines()[-1])
    assert_steps_follow(steps, 0.5)


@pytest.mark.parametrize("flags", [[], ["--tta"]], ids=["once", "tta"])
def test_predicts_on_the_gpu_what_the_cpu_predicts(sample_dataset, tmp_path, flags):
    command = [ROOT / "validate.py", "--checkpoint", SHIPPED_CHECKPOINT, *flags]
    command += ["--image_dir", sample_dataset / "val/val_image"]
    run(tmp_path, *command, "--output_dir", "gpu")
    run(tmp_path, *command, "--output_dir", "cpu", gpus="")
    for path in list_images(tmp_path / "cpu").values():
        assert np.mean(read_mask(path) == read_mask(tmp_path / "gpu" / path.name)) > 0.98
