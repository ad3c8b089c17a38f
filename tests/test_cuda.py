"""Where there is a CUDA GPU: training and prediction run on it. In processes of their own, as conftest.py hides it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from shlex import split

import numpy as np
import pytest

from image_io import list_images, read_mask
from options import SHIPPED_CHECKPOINT

pytestmark = pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs a CUDA GPU")
ROOT = Path(__file__).parents[1]


def run(script, folder, *flags, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | environment
    command = [sys.executable, ROOT / script, *map(str, flags)]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cache", ["gpu", "ram", "off"])
def test_trains_and_resumes_on_the_gpu(sample_dataset, tmp_path, cache):
    flags = ["--dataset_dir", sample_dataset, "--cache", cache, "--image_size", 64, "--batch_size", 4, "--workers", 1]
    flags += split("--augment full --augment_from_epoch 1 --ema 0.9 --repeat_rare 0.25 --dice_from_epoch 1")
    run("main_deeplab.py", tmp_path, *flags, "--epochs", 1)
    run("main_deeplab.py", tmp_path, *flags, "--epochs", 2, "--resume")
    lines = (tmp_path / "checkpoints/deeplab/log.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all(json.loads(line)["peak_gib"] > 0 for line in lines)


def test_predicts_on_the_gpu_what_the_cpu_predicts(sample_dataset, tmp_path):
    flags = ("--checkpoint", ROOT / SHIPPED_CHECKPOINT, "--image_dir", sample_dataset / "val/val_image")
    run("validate.py", tmp_path, *flags, "--output_dir", "gpu")
    run("validate.py", tmp_path, *flags, "--output_dir", "cpu", CUDA_VISIBLE_DEVICES="")
    for path in list_images(tmp_path / "cpu").values():
        assert np.mean(read_mask(path) == read_mask(tmp_path / "gpu" / path.name)) > 0.98
