"""evaluate.py, f1score.py and iouclass.py as a user runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import call
from PIL import Image
from test_metrics import naive_scores

import evaluate
import f1score
import iouclass
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from faceparse.inference.metrics import score_folders
from tools import compare_scores

ROOT = Path(__file__).parent.parent
SCRIPTS = {evaluate: "scores.txt", iouclass: "iou_scores.txt", f1score: "scores_with_f1_precision_recall.txt"}
FLAGS = ("--submit_dir", "submit", "--truth_dir", "truth", "--output_dir", "out")
STEMS = {"0": (8, 8), "portrait of A. B.": (13, 5), "Ünïcode-7": (3, 17), "x.y": (1, 1)}
ABSENT = 14


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders with odd names and sizes: truth in mode P with ignored pixels, predictions in mode L, no class 14."""
    generator = np.random.default_rng(1)
    ids = [index for index in range(19) if index != ABSENT]
    for stem, shape in STEMS.items():
        truth = generator.choice(ids, shape).astype(np.uint8)
        prediction = np.where(generator.random(shape) < 0.6, truth, generator.choice(ids, shape)).astype(np.uint8)
        truth[generator.random(shape) < 0.05] = 255
        write_label_map(tmp_path / f"truth/{stem}.png", truth, palette_of=CELEBAMASK)
        write_label_map(tmp_path / f"submit/{stem}.png", prediction)
    (tmp_path / "submit/overlays").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(folder, stem):
    """Return truth and prediction of the pixels that count."""
    truth, prediction = (np.array(Image.open(folder / f"{name}/{stem}.png")) for name in ("truth", "submit"))
    return truth[truth != 255], prediction[truth != 255]


def test_formats_byte_for_byte(folders, capsys):
    truth, prediction = map(np.concatenate, zip(*(read(folders, stem) for stem in STEMS), strict=True))
    scores = naive_scores(truth, prediction, num_classes=19)  # IoU, precision, recall, F1 [4, 19]
    assert np.flatnonzero(np.isnan(scores[0])).tolist() == [ABSENT]
    iou, precision, recall, f1 = (each[~np.isnan(each)].mean() for each in scores)
    rows = [[f"{value:.4f}".replace("nan", "n/a") for value in each] for each in scores.T]
    ious = [f"Class {index}: IoU = {row[0]}\n" for index, row in enumerate(rows)]
    f1s = [f"Class {i}: Precision = {row[1]}, Recall = {row[2]}, F1-score = {row[3]}\n" for i, row in enumerate(rows)]
    expected = {
        "scores.txt": f"mIOU: {100 * iou}",
        "iou_scores.txt": f"{''.join(ious)}\nMean IoU (mIoU, average across all classes): {iou:.4f}\n",
        "scores_with_f1_precision_recall.txt": (
            f"{''.join(f1s)}\nMacro Precision (average across all classes): {precision:.4f}\n"
            f"Macro Recall (average across all classes): {recall:.4f}\n"
            f"Macro F1-score (average across all classes): {f1:.4f}\n"
        ),
    }
    for script, name in SCRIPTS.items():
        call(script, *FLAGS)
        printed = capsys.readouterr().out
        assert "background" in printed and str(Path("out", name)) in printed
        assert (folders / "out" / name).read_bytes() == expected[name].encode()
    assert sorted(path.name for path in (folders / "out").iterdir()) == sorted(expected)


def test_per_image_metric(folders, capsys):
    means = []
    for truth, prediction in (read(folders, stem) for stem in STEMS):
        f1s = []
        for index in np.unique(truth):
            hits = ((truth == index) & (prediction == index)).sum()
            f1s.append(2 * hits / ((truth == index).sum() + (prediction == index).sum()))
        means.append(np.mean(f1s))
    call(f1score, *FLAGS, "--per_image")
    assert capsys.readouterr().out.endswith(f"averaged over images: {np.mean(means):.4f}\n")


def test_a_comparison_draws_the_same_photographs_for_both(folders, capsys):
    """If the second network alone gets one of two photographs right, a quarter of the draws have only the other."""
    shutil.copytree("submit", "same")
    call(compare_scores, "submit", "same", "--truth_dir", "truth")
    assert capsys.readouterr().out.count("+0.0000      +0.0000, +0.0000       0.0%") == 2
    right, wrong = np.array([[5, 0], [0, 5]]), np.array([[0, 5], [5, 0]])
    before, after = np.stack([right, wrong]), np.stack([right, right])
    found = compare_scores.differences(before, after, draws=4000)
    assert found[0] == pytest.approx([1 - 1 / 3, 0.5])  # half of each class was right: IoU 5 / 15, F1 10 / 20
    assert {*found[:, 1].round(6)} == {0, 0.5, 1}
    assert (found[1:, 1] == 0).mean() == pytest.approx(0.25, abs=0.03)


def set_one_pixel(value, shape=(8, 8)):
    def write(path):
        ids = np.zeros(shape, dtype=np.uint8)
        ids[0, 0] = value
        write_label_map(path, ids)

    return write


@pytest.mark.parametrize(
    ("spoil", "folder", "message"),
    [
        (Path.unlink, "submit", "0.png: has no prediction 0.*"),
        (lambda path: os.truncate(path, 60), "submit", "0.png: not a readable image"),
        (lambda path: os.truncate(path, 60), "truth", "0.png: not a readable image"),
        (set_one_pixel(0, (8, 9)), "submit", "0.png: is 9 x 8 but its truth is 8 x 8"),
        (set_one_pixel(19), "submit", "0.png: holds class id 19"),
        (set_one_pixel(255), "submit", "0.png: holds id 255; predict a class 0 to 18"),
        (set_one_pixel(254), "truth", "0.png: holds class id 254"),
    ],
)
def test_bad_file_ends_in_one_line_and_writes_nothing(folders, refusal, spoil, folder, message):
    spoil(folders / folder / "0.png")
    assert message in refusal(evaluate, *FLAGS)


def test_predictions_without_truth_are_left_out_with_a_line(folders, capsys):
    total, _ = score_folders(folders / "submit", folders / "truth")
    set_one_pixel(0)(folders / "submit/extra.png")
    again, _ = score_folders(folders / "submit", folders / "truth")
    assert (again == total).all() and total.shape == (len(STEMS), 19, 19)
    assert "left out" in capsys.readouterr().err


def test_scoring_loads_no_torch_and_help_no_numpy():
    code = "import sys, f1score, evaluate, iouclass; f1score.f1score_parser('F.'); assert 'numpy' not in sys.modules"
    code += "; import faceparse.inference.metrics; sys.exit(bool({'torch', 'cv2', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
