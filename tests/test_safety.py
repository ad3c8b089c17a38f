"""Nothing is lost and nothing is swallowed: what is refused, what two runs at once, a stop or a power cut leave."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import MERGE, PREDICT, TRAIN, call, checkpoint_content, contents
from PIL import Image

import evaluate
import generate_labels
import main_deeplab
import validate
from faceparse import files
from faceparse.data.images import read_maker, read_mask, write_label_map, write_picture
from faceparse.data.provenance import check_outputs
from faceparse.errors import InputError, run_script
from faceparse.files import atomic_folder, atomic_path

ROOT = Path(main_deeplab.__file__).parent
RUN = Path("checkpoints/deeplab")


# What is written over.


def test_only_files_that_say_that_they_were_made_here_are_replaced(tmp_path):
    write_label_map(tmp_path / "labels.png", np.zeros((4, 4), np.uint8), made_by="checkpoint 0")
    write_picture(tmp_path / "drawn.jpg", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "faces.json").write_text('{"file": "me.jpg", "faces": [], "shares": {}}')
    check_outputs("--output_dir", tmp_path, [], [path.name for path in tmp_path.iterdir()] + ["new.png"])
    write_label_map(tmp_path / "mask.png", np.zeros((4, 4), np.uint8))
    Image.new("RGB", (4, 4)).save(tmp_path / "photograph.jpg")
    (tmp_path / "annotation.json").write_text('{"shapes": []}')
    (tmp_path / "list.json").write_text("[]")
    for name in ("mask.png", "photograph.jpg", "annotation.json", "list.json"):
        with pytest.raises(InputError, match=f"--output_dir .*: {name} does not say that this program made it; choose"):
            check_outputs("--output_dir", tmp_path, [], ["new.png", name])


def test_masks_are_never_overwritten_and_own_label_maps_are(place):
    for path in Path("dataset/val/val_mask").iterdir():
        write_label_map(path, read_mask(path))  # in the mode of predictions
    shutil.copytree("dataset/val/val_mask", "copy")
    write_label_map(Path("out/overlays/val_0000.png"), np.zeros((64, 64), np.uint8))
    before = contents(place)
    for script, flags in (
        (validate, (*PREDICT, "--output_dir", "dataset/val/val_mask")),
        (validate, (*PREDICT, "--output_dir", "out", "--save_visualizations")),
        (generate_labels, (*MERGE, "--output_dir", "copy")),
        (generate_labels, (*MERGE, "--colored_dir", "copy")),
    ):
        with pytest.raises(InputError, match=r"0000\.png does not say that this program made it"):
            call(script, *flags)
    assert contents(place) == before
    for _ in range(2):
        call(validate, *PREDICT)
        call(generate_labels, *MERGE)


def test_scores_tell_what_made_the_label_maps_and_warn_of_a_mixture(place, capsys):
    def score():
        capsys.readouterr()
        call(evaluate, "--submit_dir", "predictions", "--truth_dir", "dataset/val/val_mask")
        return capsys.readouterr()

    call(validate, *PREDICT)
    digest = hashlib.sha256(Path("model.pt").read_bytes()).hexdigest()[:12]
    maker = f"checkpoint {digest}, image size 32, TTA no"
    assert read_maker("predictions/val_0000.png") == maker
    printed = score()
    assert f"predictions: made by {maker}\n" in printed.out and not printed.err
    torch.save(checkpoint_content(seed=1), "other.pt")
    call(validate, *PREDICT, "--image_dir", "dataset/val/val_image/val_0001.jpg", "--checkpoint", "other.pt", "--tta")
    warning = score().err
    assert warning.startswith(f"warning: predictions: a mixture of label maps, 4 by {maker}; 1 by checkpoint")
    assert "TTA yes" in warning and warning.count("\n") == 1


# Resuming.


@pytest.fixture(scope="module")
def two_epochs(sample_dataset, tmp_path_factory):
    """The folder of a run of two epochs; tests change copies of it."""
    folder = tmp_path_factory.mktemp("two_epochs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call(main_deeplab, *TRAIN, "--dataset_dir", sample_dataset, "--epochs", 2)
    return folder / RUN


@pytest.fixture
def run(place, two_epochs):
    """`place` with a copy of the run of two epochs, RUN."""
    return shutil.copytree(two_epochs, RUN)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 10**6)], ids=["missing", "cut"])
def test_the_newest_whole_state_is_resumed(run, two_epochs, capsys, damage):
    damage(run / "last.pt")
    call(main_deeplab, *TRAIN, "--epochs", 2, "--resume")
    printed = capsys.readouterr().out
    assert f"resuming from {run}/previous.pt, the state before it" in printed and "epochs 2 to 2" in printed
    states = [torch.load(path, weights_only=True) for path in (two_epochs / "last.pt", run / "last.pt")]
    weights, again = (state["trained_state_dict"] for state in states)
    assert states[1]["epoch"] == 2 and all(torch.equal(value, again[key]) for key, value in weights.items())


def test_a_damaged_log_is_refused_and_no_line_of_it_lost(run):
    log = run / "log.jsonl"
    log.write_text("\0" + log.read_text()[1:])
    before = log.read_bytes()
    with pytest.raises(InputError, match=r"log\.jsonl: .*restore the file, or resume without it"):
        call(main_deeplab, *TRAIN, "--epochs", 3, "--resume")
    assert log.read_bytes() == before


# Two runs at once, and what a power cut finds.


def test_a_file_is_whole_and_a_durable_one_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, steps = tmp_path / "last.pt", []
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    replace = Path.replace
    monkeypatch.setattr(files, "sync", lambda each: steps.append(("sync", Path(each).is_dir())))
    monkeypatch.setattr(Path, "replace", lambda a, b: (steps.append(("replace", Path(b).name)), replace(a, b))[1])
    with atomic_path(path, durable=True, keep=tmp_path / "previous.pt") as temporary:
        temporary.write_text("new")
    assert steps == [("sync", False), ("replace", "previous.pt"), ("replace", "last.pt"), ("sync", True)]
    assert path.read_text() == "new" and (tmp_path / "previous.pt").read_text() == "old"


def test_a_new_folder_appears_whole_and_the_remains_of_a_killed_process_vanish(tmp_path):
    remains = tmp_path / ".unfinished_out_1"
    remains.mkdir()
    with atomic_folder(tmp_path / "out", durable=True) as unfinished:
        (unfinished / "a").touch()
        assert not (tmp_path / "out").exists() and not remains.exists()
        with atomic_folder(tmp_path / "out/colored") as inner:
            (inner / "b").touch()  # it leaves the folder that is being built alone
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a", "b", "colored"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Errors and stops.


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("a\nb.png: wrong"), "error: a b.png: wrong"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: [Errno 28] No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "--batch_size"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "--gpu_id"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "--workers"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "(No module named 'x'); install it"),
        (ImportError("libGL.so.1: cannot open shared object file", name="cv2"), "opencv-python-headless"),
    ],
)
def test_bad_input_is_one_line(refusal, error, line):
    assert line in refusal(Mock(side_effect=error))


@pytest.mark.parametrize(
    "bug",
    [
        RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ..."),
        ModuleNotFoundError("No module named 'faceparse.x'", name="faceparse.x"),
    ],
)
def test_a_bug_has_its_traceback(bug):
    with pytest.raises(type(bug)):
        run_script(Mock(side_effect=bug))


@pytest.mark.slow
def test_a_stopped_training_says_so_in_one_line_and_resumes(place):
    with pytest.raises(SystemExit, match="130"):
        run_script(Mock(side_effect=KeyboardInterrupt))
    command = [sys.executable, ROOT / "main_deeplab.py", *map(str, TRAIN), "--epochs", "400"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        state, deadline = RUN / "last.pt", time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 143, err
    assert len([line for line in err.splitlines() if "resume" in line]) == 1 and "Traceback" not in err
    done = torch.load(state, weights_only=True)["epoch"]
    call(main_deeplab, *TRAIN, "--epochs", done + 1, "--resume")
    assert not list(place.rglob(".*tmp*"))
