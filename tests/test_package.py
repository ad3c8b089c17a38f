"""The package as others install it: without PyTorch and without the repository, with the shipped network inside."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceparse import PACKAGED_NETWORK, SHIPPED_CHECKPOINT
from faceparse.data.images import read_mask, read_photo
from faceparse.inference.networks import load_network

ROOT = Path(__file__).parents[1]
PORTRAIT = ROOT / "assets/astronaut.jpg"


def test_the_packaged_network_is_the_shipped_checkpoint():
    """Its weights are the checkpoint's, in float16 both; the graphs round differently."""
    packaged, shipped = (load_network(path) for path in (PACKAGED_NETWORK, SHIPPED_CHECKPOINT))
    photo = read_photo(PORTRAIT).transpose(2, 0, 1)[None].astype(np.float32) / 255
    labels = [network.coarse_logits(photo).argmax(axis=1) for network in (packaged, shipped)]
    assert (packaged.class_set, packaged.image_size) == (shipped.class_set, shipped.image_size)
    assert (labels[0] != labels[1]).mean() < 1e-3


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of a new environment in which nothing but the wheel and what it needs is installed."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would pack what modules an earlier build left there
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 6e6
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, *pip[1:], "install", wheel], check=True)
    return python


@pytest.mark.package
@pytest.mark.slow  # so that -m "not slow" leaves it out too
def test_the_installed_command_parses_a_portrait(installed, tmp_path):
    def run(*arguments):
        return subprocess.run([installed, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("-m", "faceparse", PORTRAIT, "--cutout", "hair")
    assert done.returncode == 0, done.stderr
    assert run("-c", "import torch").returncode != 0
    labels = read_mask(tmp_path / "parsed/astronaut.png")
    with Image.open(tmp_path / "parsed/astronaut_hair.png") as cutout:
        assert (np.array(cutout)[..., 3] > 127)[labels == 13].mean() > 0.9
    code = "from faceparse import FaceParser; import sys; print(len(FaceParser()(sys.argv[1]).faces))"
    assert run("-c", code, PORTRAIT).stdout == "1\n"
    done = run("-m", "faceparse", PORTRAIT, "--checkpoint", SHIPPED_CHECKPOINT, "--output_dir", "other")
    assert done.returncode == 2 and "a .pt needs the repository" in done.stderr and done.stderr.count("\n") == 1
