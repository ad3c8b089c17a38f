"""Nothing is lost and nothing is swallowed: what is refused, what two runs at once, a stop or a power cut leave."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SMALL, call, checkpoint_content, contents
from PIL import Image

import evaluate
import generate_labels
import main_deeplab
import validate
from faceparse import errors, files
from faceparse.data.images import read_maker, read_mask, write_label_map, write_picture
from faceparse.data.provenance import check_outputs
from faceparse.errors import InputError, run_script
from faceparse.files import atomic_folder, atomic_path, locked, only_writer

ROOT = Path(main_deeplab.__file__).parent
PREDICT = ("--checkpoint", "model.pt", "--image_dir", "dataset/val/val_image", *SMALL)
MERGE = (
    *("--checkpoint", "model.pt", "--image_dir", "dataset/train/train_image", "--colored_dir", "colored", *SMALL),
    *("--label_dir", "dataset/train/train_mask"),
)
TRAIN = ("--dataset_dir", "dataset", "--batch_size", 4, "--save_every", 1, *SMALL)
RUN = Path("checkpoints/deeplab")


# What is written over.


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path):
    photo = tmp_path / "photos/a.jpg"
    photo.parent.mkdir()
    photo.touch()
    for read in (photo, photo.parent):
        with pytest.raises(InputError, match=r"--output_dir .*: holds the files to read; choose another folder"):
            check_outputs("--output_dir", tmp_path / "photos/../photos", [read])
        check_outputs("--output_dir", tmp_path, [read])


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
    for path in [*Path("dataset/val/val_mask").iterdir()]:
        write_label_map(path, read_mask(path))  # in the mode of predictions
    shutil.copytree("dataset/train/train_mask", "copy")
    write_label_map(Path("out/overlays/val_0000.png"), np.zeros((64, 64), np.uint8))
    before = contents(place)
    for script, flags in (
        (validate, (*PREDICT, "--output_dir", "dataset/val/val_mask")),
        (validate, (*PREDICT, "--output_dir", "out", "--save_visualizations")),
        (generate_labels, (*MERGE, "--output_dir", "copy")),
        (generate_labels, (*MERGE, "--output_dir", "merged", "--colored_dir", "copy")),
    ):
        with pytest.raises(InputError, match=r"0000\.png does not say that this program made it"):
            call(script, *flags)
    assert contents(place) == before
    for _ in range(2):
        call(validate, *PREDICT)
        call(generate_labels, *MERGE, "--output_dir", "merged")


def test_scores_tell_what_made_the_label_maps_and_warn_of_a_mixture(place, capsys):
    def score():
        capsys.readouterr()
        call(evaluate, "--submit_dir", "predictions", "--truth_dir", "dataset/val/val_mask")
        return capsys.readouterr()

    call(validate, *PREDICT)
    digest = subprocess.run(["sha256sum", "model.pt"], capture_output=True, text=True, check=True).stdout[:12]
    maker = f"checkpoint {digest}, image size 32, TTA no"
    assert read_maker("predictions/val_0000.png") == maker
    printed = score()
    assert f"predictions: made by {maker}\n" in printed.out and not printed.err
    torch.save(checkpoint_content(seed=1), "other.pt")
    call(validate, *PREDICT, "--image_dir", "dataset/val/val_image/val_0001.jpg", "--checkpoint", "other.pt", "--tta")
    warning = score().err
    assert warning.startswith(f"warning: predictions: a mixture of label maps, 4 by {maker}; 1 by checkpoint")
    assert "TTA yes" in warning and warning.count("\n") == 1
    for path in Path("predictions").iterdir():
        write_label_map(path, read_mask(path))  # as an older version did
    printed = score()
    assert "made by" not in printed.out and not printed.err


# Resuming.


@pytest.mark.slow
def test_another_truth_starts_best_anew(place, capsys):
    call(main_deeplab, *TRAIN, "--epochs", 2)
    state = torch.load(RUN / "last.pt", weights_only=True)
    torch.save(state | {"best_miou": 0.99}, RUN / "last.pt")
    shutil.copytree("dataset/val/val_mask", "truth")
    (RUN / "log.jsonl").unlink()  # that it is lost does not cost best.pt
    capsys.readouterr()
    call(main_deeplab, *TRAIN, "--epochs", 3, "--resume", "--truth_dir", "dataset/val/val_mask")
    shutil.copytree("dataset", "moved")
    call(main_deeplab, *TRAIN, "--epochs", 4, "--resume", "--dataset_dir", "moved")
    assert "starts anew" not in capsys.readouterr().out
    assert torch.load(RUN / "best.pt", weights_only=True)["epoch"] < 3
    call(main_deeplab, *TRAIN, "--epochs", 5, "--resume", "--truth_dir", "truth")
    assert capsys.readouterr().out.count("the truth was val/val_mask, is truth: best.pt starts anew") == 1
    assert torch.load(RUN / "best.pt", weights_only=True)["epoch"] == 5


def test_other_labels_after_self_distillation(place):
    distil = ("--self_distill_epoch", 1)
    call(main_deeplab, *TRAIN, "--epochs", 2, *distil)
    shutil.copytree("dataset/train/train_mask", "labels")
    with pytest.raises(InputError, match="--label_dir labels: self-distillation has merged the labels of None already"):
        call(main_deeplab, *TRAIN, "--epochs", 3, *distil, "--resume", "--label_dir", "labels")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_the_newest_whole_state_is_resumed(place, capsys, damage):
    call(main_deeplab, *TRAIN, "--epochs", 2)
    whole = (RUN / "last.pt").read_bytes()
    (RUN / "last.pt").unlink()
    if damage != "missing":
        (RUN / "last.pt").write_bytes(whole[: {"empty": 0, "cut": len(whole) // 2}[damage]])
    capsys.readouterr()
    call(main_deeplab, *TRAIN, "--epochs", 2, "--resume")
    printed = capsys.readouterr().out
    assert "resuming from checkpoints/deeplab/previous.pt, the state before it" in printed
    assert "epochs 2 to 2" in printed
    weights = [torch.load(RUN / name, weights_only=True) for name in ("last.pt", "previous.pt")]
    assert [each["epoch"] for each in weights] == [2, 1]
    (RUN / "again.pt").write_bytes(whole)
    expected = torch.load(RUN / "again.pt", weights_only=True)["trained_state_dict"]
    assert all(torch.equal(value, expected[key]) for key, value in weights[0]["trained_state_dict"].items())


# Two runs at once, and what a power cut finds.


def test_the_second_of_two_runs_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from faceparse.files import only_writer\n"
        "with only_writer(sys.argv[1], 'wait'): print('held', flush=True); time.sleep(60)"
    )
    run_dir = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", code, run_dir], cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="run: another run is writing there; wait"), only_writer(run_dir, "wait"):
            pass
        first.kill()
    with only_writer(run_dir, "wait"):
        assert list(run_dir.iterdir()) == []


def test_a_child_does_not_keep_its_parent_s_lock(tmp_path):
    with locked(tmp_path) as free, locked(tmp_path) as free_again:
        assert free and free_again is False
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
    deadline = time.monotonic() + 10  # the child needs a moment
    free = False
    while not free and time.monotonic() < deadline:
        with locked(tmp_path) as free:
            time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert free


def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    path, steps = tmp_path / "last.pt", []
    path.write_text("old")
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
        with atomic_folder(tmp_path / "other"):
            pass  # it leaves the folder that is being built alone
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new"):
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_folder_may_be_empty_and_hold_another_new_one(tmp_path, exists):
    if exists:
        (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as outer, atomic_folder(tmp_path / "out/colored") as inner:
        (outer / "a").touch()
        (inner / "b").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "colored", "out"]


# Errors and stops.


@pytest.fixture
def ended(capsys):
    def run(error):
        """Return the exit status and stderr of a script that ends in an exception."""

        def main():
            raise error

        with pytest.raises(SystemExit) as caught:
            run_script(main)
        return caught.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("a\nb.png: wrong"), "error: a b.png: wrong"),
        (
            OSError(errno.ENOSPC, "No space left on device", "scores.txt"),
            "error: [Errno 28] No space left on device: 'scores.txt'",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "error: [Errno 28] No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "--batch_size"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "--gpu_id"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "--workers"),
        (MemoryError(), "--batch_size"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "not installed (No module named 'x'); pip install"),
    ],
)
def test_bad_input_is_one_line(ended, error, line):
    status, err = ended(error)
    assert status == 2 and err.startswith("error: ") and line in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "bug",
    [
        OSError("a bug"),
        OSError(errno.EBADF, "Bad file descriptor"),
        BrokenPipeError(errno.EPIPE, "of a worker"),
        RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ..."),
        ModuleNotFoundError("No module named 'faceparse.x'", name="faceparse.x"),
    ],
)
def test_a_bug_has_its_traceback(ended, bug):
    with pytest.raises(type(bug)):
        ended(bug)


def test_debugging_shows_the_traceback_of_bad_input(ended, monkeypatch):
    monkeypatch.setenv("FACEPARSE_DEBUG", "1")
    status, err = ended(InputError("mask.png: wrong"))
    assert status == 2 and "Traceback" in err and "in main" in err and err.endswith("error: mask.png: wrong\n")


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_so_in_one_line_and_resumes(place, number, status):
    flags = [str(flag) for flag in (*TRAIN, "--epochs", 400)]
    command = [sys.executable, ROOT / "main_deeplab.py", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        state, deadline = RUN / "last.pt", time.monotonic() + 120
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == status, err
    assert len([line for line in err.splitlines() if "resume" in line]) == 1 and "Traceback" not in err
    done = torch.load(state, weights_only=True)["epoch"]
    call(main_deeplab, *TRAIN, "--epochs", done + 1, "--resume")
    assert not list(place.rglob(".*tmp*"))


def test_a_bomb_is_refused(place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"val_0000\.jpg: has more than 0 million pixels"):
        call(validate, *PREDICT)


def test_a_damaged_log_is_refused_and_no_line_of_it_lost(place):
    call(main_deeplab, *TRAIN, "--epochs", 2)
    log = RUN / "log.jsonl"
    log.write_text("\0" + log.read_text()[1:])
    before = log.read_bytes()
    with pytest.raises(InputError, match=r"log\.jsonl: .*put back the file, or resume without it"):
        call(main_deeplab, *TRAIN, "--epochs", 3, "--resume")
    assert log.read_bytes() == before


def test_a_run_killed_before_its_first_state_starts_again(place):
    call(main_deeplab, *TRAIN, "--epochs", 1)
    before = torch.load(RUN / "best.pt", weights_only=True)["state_dict"]
    (RUN / "last.pt").unlink()
    call(main_deeplab, *TRAIN, "--epochs", 1)
    after = torch.load(RUN / "best.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_log_of_a_run_whose_weights_were_deleted_is_kept(place):
    log = place / "checkpoints/deeplab/log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"epoch": 1, "train_loss": 2.0}\n{"epoch": 2, "train_loss": 1.0}\n')
    before = log.read_bytes()
    with pytest.raises(InputError, match="deeplab: holds a run; another --save_prefix"):
        call(main_deeplab, *TRAIN, "--epochs", 1)
    assert log.read_bytes() == before


def test_a_reader_that_ends_early_is_no_error():
    script = "from faceparse import errors; errors.run_script(lambda: print('line\\n' * 10**5))"
    command = f'"{sys.executable}" -c "{script}" | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line\n141\n", "")


def test_a_renamed_run_continues(place):
    call(main_deeplab, *TRAIN, "--epochs", 1)
    (place / "checkpoints/deeplab").rename(place / "checkpoints/renamed")
    call(main_deeplab, *TRAIN, "--epochs", 2, "--resume", "--save_prefix", "renamed")
    assert (place / "checkpoints/renamed/Deeplab_checkpoint_epoch_2.pt").exists()


def test_numbers_have_their_nouns_and_arguments_the_quotes_of_the_system_s_shell(monkeypatch):
    """Single quotes are no quotes to Windows' cmd."""
    assert [errors.counted(number, "class") for number in (1, 2000)] == ["1 class", "2,000 classes"]
    monkeypatch.setattr(errors, "os", SimpleNamespace(name="posix"))
    assert errors.quoted("my data/it") == "'my data/it'"
    monkeypatch.setattr(errors, "os", SimpleNamespace(name="nt"))
    assert errors.quoted(r"C:\my data\R&D") == r'"C:\my data\R&D"'
