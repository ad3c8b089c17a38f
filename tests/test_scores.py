"""evaluate.py, f1score.py and iouclass.py as a user runs them."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import evaluate
import f1score
import iouclass
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from faceparse.errors import InputError, run_script
from faceparse.inference.metrics import score_folders
from options import f1score_parser, score_parser

ROOT = Path(__file__).parent.parent
SCRIPTS = {
    evaluate: "scores.txt",
    iouclass: "iou_scores.txt",
    f1score: "scores_with_f1_precision_recall.txt",
}
STEMS = {"0": (8, 8), "portrait of A. B.": (13, 5), "Ünïcode-7": (3, 17), "x.y": (1, 1)}
ABSENT = 14


@pytest.fixture
def folders(tmp_path):
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
    return tmp_path


def flags(folder):
    return [f"--submit_dir={folder / 'submit'}", f"--truth_dir={folder / 'truth'}", f"--output_dir={folder / 'out'}"]


def run_as_command(script, folder):
    command = [sys.executable, str(ROOT / f"{script.__name__}.py"), *flags(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def naive_counts(folder):
    """Count the pixels of each class in both, in the truth and in the prediction by a loop over files and classes."""
    counts = np.zeros((3, 19), dtype=int)
    for stem in STEMS:
        truth = np.array(Image.open(folder / f"truth/{stem}.png"))
        prediction = np.array(Image.open(folder / f"submit/{stem}.png"))
        for index in range(19):
            is_true, is_predicted = truth == index, (prediction == index) & (truth != 255)
            counts[:, index] += [(is_true & is_predicted).sum(), is_true.sum(), is_predicted.sum()]
    return counts


def test_formats_byte_for_byte(folders):
    hits, in_truth, in_prediction = naive_counts(folders)
    ious, precisions, recalls, f1s = [], [], [], []
    iou_lines, f1_lines = [], []
    for index in range(19):
        if index == ABSENT:
            iou_lines.append(f"Class {index}: IoU = n/a\n")
            f1_lines.append(f"Class {index}: Precision = n/a, Recall = n/a, F1-score = n/a\n")
            continue
        ious.append(hits[index] / (in_truth[index] + in_prediction[index] - hits[index]))
        precisions.append(hits[index] / in_prediction[index])
        recalls.append(hits[index] / in_truth[index])
        f1s.append(2 * precisions[-1] * recalls[-1] / (precisions[-1] + recalls[-1]))
        iou_lines.append(f"Class {index}: IoU = {ious[-1]:.4f}\n")
        f1_lines.append(
            f"Class {index}: Precision = {precisions[-1]:.4f}, Recall = {recalls[-1]:.4f}, F1-score = {f1s[-1]:.4f}\n"
        )
    iou_lines.append(f"\nMean IoU (mIoU, average across all classes): {np.mean(ious):.4f}\n")
    f1_lines.append(f"\nMacro Precision (average across all classes): {np.mean(precisions):.4f}\n")
    f1_lines.append(f"Macro Recall (average across all classes): {np.mean(recalls):.4f}\n")
    f1_lines.append(f"Macro F1-score (average across all classes): {np.mean(f1s):.4f}\n")
    expected = {
        "scores.txt": f"mIOU: {100 * np.mean(ious)}",
        "iou_scores.txt": "".join(iou_lines),
        "scores_with_f1_precision_recall.txt": "".join(f1_lines),
    }
    for script, name in SCRIPTS.items():
        done = run_as_command(script, folders)
        assert (done.returncode, done.stderr) == (0, "")
        assert "background" in done.stdout and str(folders / "out" / name) in done.stdout
        assert (folders / "out" / name).read_bytes() == expected[name].encode()
    assert sorted(path.name for path in (folders / "out").iterdir()) == sorted(expected)


def test_per_image_metric(folders, capsys):
    means = []
    for stem in STEMS:
        truth = np.array(Image.open(folders / f"truth/{stem}.png"))
        prediction = np.array(Image.open(folders / f"submit/{stem}.png"))[truth != 255]
        truth = truth[truth != 255]
        f1s = []
        for index in np.unique(truth):
            hits = ((truth == index) & (prediction == index)).sum()
            f1s.append(2 * hits / ((truth == index).sum() + (prediction == index).sum()))
        means.append(np.mean(f1s))
    f1score.main(f1score_parser("F1.").parse_args([*flags(folders), "--per_image"]))
    assert capsys.readouterr().out.endswith(f"averaged over images: {np.mean(means):.4f}\n")


def test_published_lines():
    """The lines have the format that the challenge solution published."""
    means = {"miou": 0.73981, "macro_precision": 0.84704, "macro_recall": 0.81882, "macro_f1": 0.82837}
    published = SimpleNamespace(iou=[0.92521], precision=[0.96281], recall=[0.95954], f1=[0.96109], **means)
    assert evaluate.format_file(published) == "mIOU: 73.981"
    assert iouclass.format_file(published) == (
        "Class 0: IoU = 0.9252\n\nMean IoU (mIoU, average across all classes): 0.7398\n"
    )
    assert f1score.format_file(published) == (
        "Class 0: Precision = 0.9628, Recall = 0.9595, F1-score = 0.9611\n\n"
        "Macro Precision (average across all classes): 0.8470\n"
        "Macro Recall (average across all classes): 0.8188\n"
        "Macro F1-score (average across all classes): 0.8284\n"
    )


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


def make_rgb(path):
    Image.new("RGB", (8, 8)).save(path)


def resize(path):
    write_label_map(path, np.zeros((8, 9), dtype=np.uint8))


def fill(value):
    def write(path):
        write_label_map(path, np.full((8, 8), value, dtype=np.uint8))

    return write


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_prediction_ends_each_script_with_status_2(folders, script):
    remove(folders / "submit/0.png")
    done = run_as_command(script, folders)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "0.png: has no prediction 0.*" in done.stderr
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "folder", "message"),
    [
        (truncate, "submit", "0.png: not a readable image"),
        (truncate, "truth", "0.png: not a readable image"),
        (make_rgb, "submit", "0.png: a mask has one channel"),
        (resize, "submit", "0.png: is 9 x 8 but its truth is 8 x 8"),
        (fill(19), "submit", "0.png: holds class id 19"),
        (fill(255), "submit", "0.png: holds id 255"),
        (fill(254), "truth", "0.png: holds class id 254"),
    ],
)
def test_bad_file_ends_in_one_line_and_writes_nothing(folders, capsys, spoil, folder, message):
    spoil(folders / folder / "0.png")
    with pytest.raises(SystemExit, match="2"):
        run_script(lambda: evaluate.main(score_parser("IoU.").parse_args(flags(folders))))
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err
    assert not (folders / "out").exists()


def test_all_ignored_truth_is_an_error(tmp_path):
    write_label_map(tmp_path / "truth/a.png", np.full((4, 4), 255, dtype=np.uint8))
    write_label_map(tmp_path / "submit/a.png", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(InputError, match="nothing to score"):
        score_folders(tmp_path / "submit", tmp_path / "truth")


def test_predictions_without_truth_are_left_out_with_a_line(folders, capsys):
    total, _ = score_folders(folders / "submit", folders / "truth")
    fill(0)(folders / "submit/extra.png")
    again, _ = score_folders(folders / "submit", folders / "truth")
    assert (again == total).all()
    assert "left out" in capsys.readouterr().err


def test_scoring_loads_no_torch():
    heavy = "{'torch', 'cv2', 'matplotlib'}"
    code = f"import sys, f1score, evaluate, iouclass; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_loads_no_numpy():
    code = "import sys, f1score, evaluate, iouclass; f1score.f1score_parser('F.'); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_single_pixel_without_a_class_in_a_prediction_is_refused(tmp_path):
    """Also where the truth is ignored: 255 is for truths alone."""
    ids = np.zeros((4, 4), dtype=np.uint8)
    ids[0, 0] = 255
    for folder in ("truth", "submit"):
        write_label_map(tmp_path / folder / "a.png", ids)
    with pytest.raises(InputError, match=r"submit.a\.png: holds id 255; predict a class 0 to 18"):
        score_folders(tmp_path / "submit", tmp_path / "truth")
