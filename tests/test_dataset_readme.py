"""What dataset/README.md tells users to write works as it stands."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import color_visualization
import f1score
import main_deeplab
import validate
from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.images import read_mask
from faceparse.training.log import read_log
from options import check_dataset_parser, color_parser, f1score_parser, train_parser, validate_parser
from tools import check_dataset

TEXT = (Path(__file__).parents[1] / "dataset/README.md").read_text(encoding="utf-8")


def block(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.slow
def test_an_own_set_of_four_classes_trains(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, shape, high, suffix in (("image", (32, 32, 3), 256, "jpg"), ("mask", (32, 32), 4, "png")):
            folder = tmp_path / f"dataset_own/{split}/{split}_{kind}"
            folder.mkdir(parents=True)
            for stem in "12":
                Image.fromarray(rng.integers(0, high, shape, dtype=np.uint8)).save(folder / f"{stem}.{suffix}")
    (tmp_path / "dataset_own/classes.json").write_text(block("json")[0])
    monkeypatch.chdir(tmp_path)
    check, train, predict, score, colour = (line.split()[2:] for line in block("bash")[1].splitlines())
    check_dataset.main(check_dataset_parser("Check.").parse_args(check))
    small = ["--image_size", "32", "--epochs", "1", "--save_every", "1", "--batch_size", "2", "--workers", "0"]
    main_deeplab.main(train_parser("Train.").parse_args([*train, *small]))
    assert "mIoU" in read_log(tmp_path / "checkpoints/own/log.jsonl", last_epoch=1)[0]
    (from_shipped,) = (line.split()[2:] for line in block("bash")[2].replace("\\\n", "").splitlines())
    shutil.copy(SHIPPED_CHECKPOINT, tmp_path)
    main_deeplab.main(train_parser("Train.").parse_args([*from_shipped, *small]))
    assert "left out" in capsys.readouterr().out
    validate.main(validate_parser("Predict.").parse_args(predict))
    f1score.main(f1score_parser("Score.").parse_args(score))
    assert Path("scores_with_f1_precision_recall.txt").read_text().count("Class ") == 4
    color_visualization.main(color_parser("Colour.").parse_args(colour))
    assert Path("own.png").exists()


def test_colours_become_class_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.array([[[0, 0, 0], [0, 255, 0], [9, 9, 9]]], np.uint8)).save("coloured.png")
    exec(block("python")[0], {})
    assert read_mask("mask.png").tolist() == [[0, 2, 255]]
