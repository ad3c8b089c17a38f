"""What dataset/README.md tells users to write works as it stands."""

import re
import shlex
import shutil
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers import SLIM_WEIGHTS, SMALL, call
from PIL import Image

from faceparse.data.images import read_mask
from faceparse.training.log import read_log

TEXT = (Path(__file__).parents[1] / "dataset/README.md").read_text(encoding="utf-8")


def block(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.slow
def test_an_own_set_of_four_classes_trains(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split, (kind, shape, high) in product(("train", "val"), (("image", (32, 32, 3), 256), ("mask", (32, 32), 4))):
        folder = tmp_path / f"dataset_own/{split}/{split}_{kind}"
        folder.mkdir(parents=True)
        for stem in "12":
            Image.fromarray(rng.integers(0, high, shape, dtype=np.uint8)).save(folder / f"{stem}.png")
    (tmp_path / "dataset_own/classes.json").write_text(block("json")[0])
    shutil.copy(SLIM_WEIGHTS, tmp_path)
    monkeypatch.chdir(tmp_path)
    small = ("--epochs", 1, "--batch_size", 2, *SMALL)
    for line in "".join(block("bash")[1:3]).replace("\\\n", "").splitlines():
        name, *flags = shlex.split(line.removeprefix("python ").removeprefix("-m "))
        script = import_module(name.removesuffix(".py"))
        call(script, *flags, *(small if name == "main_deeplab.py" else ()))
    assert "mIoU" in read_log(tmp_path / "checkpoints/own/log.jsonl", last_epoch=1)[0]
    assert Path("checkpoints/own_from_shipped/best.pt").exists() and Path("own.png").exists()
    assert Path("scores_with_f1_precision_recall.txt").read_text().count("Class ") == 4


def test_colours_become_class_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.array([[[0, 0, 0], [0, 255, 0], [9, 9, 9]]], np.uint8)).save("coloured.png")
    exec(block("python")[0], {})
    assert read_mask("mask.png").tolist() == [[0, 2, 255]]
