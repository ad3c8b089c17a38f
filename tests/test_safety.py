"""Nothing is lost and nothing is swallowed: what is refused, what two runs at once, a stop or a power cut leave."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import generate_labels
import main_deeplab
import validate
from faceparse import errors
from faceparse import files as atomic_files
from faceparse import files as locking
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import read_maker, read_mask, write_label_map
from faceparse.errors import InputError, run_script
from faceparse.files import atomic_folder, atomic_path, only_writer
from faceparse.inference import checkpoints
from models import build_model
from options import generate_labels_parser, score_parser, train_parser, validate_parser

SLIM = "deeplabv3plus_mobilenet_slim"
SMALL = ("--image_size", 32, "--workers", 0)
ROOT = Path(main_deeplab.__file__).parent
PARSERS = {
    main_deeplab: train_parser,
    validate: validate_parser,
    generate_labels: generate_labels_parser,
    evaluate: score_parser,
}


def call(script, *flags):
    script.main(PARSERS[script]("Run.").parse_args([str(flag) for flag in flags]))


def content(seed=0, **changes):
    torch.manual_seed(seed)
    return checkpoints.describe(SLIM, CELEBAMASK, build_model(SLIM).state_dict()) | {"image_size": 32} | changes


@pytest.fixture
def place(sample_dataset, tmp_path, monkeypatch):
    """A working directory with dataset/, which a test may damage, and the checkpoint model.pt."""
    shutil.copytree(sample_dataset, tmp_path / "dataset")
    torch.save(content(), tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PREDICT = ("--checkpoint", "model.pt", "--image_dir", "dataset/val/val_image", *SMALL)
MERGE = (
    *("--checkpoint", "model.pt", "--image_dir", "dataset/train/train_image", "--colored_dir", "colored", *SMALL),
    *("--label_dir", "dataset/train/train_mask"),
)
TRAIN = ("--dataset_dir", "dataset", "--batch_size", 4, "--save_every", 1, *SMALL)


# What is read.


@pytest.mark.parametrize("script, flags", [(validate, PREDICT), (main_deeplab, (*TRAIN, "--epochs", 1))])
def test_a_named_pipe_among_the_photographs(place, script, flags):
    photo = place / "dataset/val/val_image/val_0002.jpg"
    photo.unlink()
    os.mkfifo(photo)
    with pytest.raises(InputError, match=r"val_0002\.jpg: not a regular file"):
        call(script, *flags)


def test_a_named_pipe_where_an_output_will_lie(place):
    (place / "predictions").mkdir()
    os.mkfifo(place / "predictions/val_0000.png")
    with pytest.raises(InputError, match=r"val_0000\.png: not a regular file"):
        call(validate, *PREDICT)


def change_tensor(key, change):
    weights = content()["state_dict"]
    return content(state_dict=weights | {key: change(weights[key])})


def with_a_nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float("nan")
    return tensor


@pytest.mark.parametrize(
    "change, reason",
    [
        (with_a_nan, "holds NaN or infinite values"),
        (lambda tensor: tensor / 0, "holds NaN or infinite values"),
        (lambda tensor: tensor.to_sparse(), "is not dense"),
        (lambda tensor: tensor.to("meta"), "is not dense"),
        (lambda tensor: tensor.to(torch.complex64), r"is torch\.complex64, the model's is torch\.float32"),
        (lambda tensor: tensor.long(), r"is torch\.int64, the model's is torch\.float32"),
    ],
)
def test_weights_that_are_none(place, change, reason):
    torch.save(change_tensor("classifier.bias", change), "model.pt")
    with pytest.raises(InputError, match=rf"model\.pt: its tensor classifier\.bias {reason}"):
        call(validate, *PREDICT)


@pytest.mark.parametrize("image_size", ["abc", 0, 31, 1_000_000, 64.0, True, None])
def test_image_size_of_a_checkpoint(place, image_size):
    torch.save(content(image_size=image_size), "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: its image_size is .*; it must be from 32 to 4096"):
        call(validate, "--checkpoint", "model.pt", "--image_dir", "dataset/val/val_image", "--workers", 0)


@pytest.mark.parametrize("flag", [("--image_size", 100_000), ("--workers", 100_000), ("--save_prefix", "")])
def test_flags_beyond_a_bound(flag, capsys):
    with pytest.raises(SystemExit):
        train_parser("Train.").parse_args([str(each) for each in flag])
    assert f"error: argument {flag[0]}" in capsys.readouterr().err


# What is written over.


def test_masks_in_mode_l_are_never_overwritten(place):
    for folder in ("val/val_mask", "train/train_mask"):
        for path in (place / "dataset" / folder).iterdir():
            write_label_map(path, read_mask(path))
    before = {path: path.read_bytes() for path in (place / "dataset").rglob("*.png")}
    with pytest.raises(InputError, match=r"--output_dir dataset/val/val_mask: val_0000\.png is a data set's mask"):
        call(validate, *PREDICT, "--output_dir", "dataset/val/val_mask")
    masks = shutil.copytree("dataset/train/train_mask", "copy")
    with pytest.raises(InputError, match=r"--output_dir copy: train_0000\.png is a data set's mask"):
        call(generate_labels, *MERGE, "--output_dir", masks)
    assert {path: path.read_bytes() for path in (place / "dataset").rglob("*.png")} == before


def test_overlays_take_no_mask_s_place(place):
    mask = Path("out/overlays/val_0000.png")
    write_label_map(mask, np.zeros((64, 64), np.uint8))
    before = mask.read_bytes()
    with pytest.raises(InputError, match=r"--output_dir out/overlays: val_0000\.png was not drawn by this program"):
        call(validate, *PREDICT, "--output_dir", "out", "--save_visualizations")
    assert mask.read_bytes() == before


def test_own_label_maps_are_written_again(place):
    for _ in range(2):
        call(validate, *PREDICT)
        call(generate_labels, *MERGE, "--output_dir", "merged")


def test_scores_tell_what_made_the_label_maps_and_warn_of_a_mixture(place, capsys):
    torch.save(content(seed=1), "other.pt")
    score = (evaluate, "--submit_dir", "predictions", "--truth_dir", "dataset/val/val_mask")
    call(validate, *PREDICT)
    digest = subprocess.run(["sha256sum", "model.pt"], capture_output=True, text=True, check=True).stdout[:12]
    assert read_maker("predictions/val_0000.png") == f"checkpoint {digest}, image size 32, TTA no"
    call(*score)
    printed = capsys.readouterr()
    assert f"predictions: made by checkpoint {digest}, image size 32, TTA no\n" in printed.out and not printed.err
    file = Path("scores.txt").read_bytes()
    for path in Path("predictions").iterdir():
        write_label_map(path, read_mask(path))  # as an older version did
    call(*score)
    printed = capsys.readouterr()
    assert "made by" not in printed.out and not printed.err and Path("scores.txt").read_bytes() == file

    shutil.rmtree("predictions")
    call(validate, *PREDICT)
    one = ("--image_dir", "dataset/val/val_image/val_0001.jpg")
    call(validate, *PREDICT, *one, "--checkpoint", "other.pt", "--tta")
    call(*score)
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: predictions: a mixture of label maps, 4 by checkpoint {digest}, image size 32")
    assert "; 1 by checkpoint" in warning and "TTA yes" in warning and warning.count("\n") == 1


# Resuming.


@pytest.mark.slow
def test_another_truth_starts_best_anew(place, capsys):
    call(main_deeplab, *TRAIN, "--epochs", 2)
    run_dir = place / "checkpoints/deeplab"
    state = torch.load(run_dir / "last.pt", weights_only=True)
    torch.save(state | {"best_miou": 0.99}, run_dir / "last.pt")
    shutil.copytree("dataset/val/val_mask", "truth")
    (run_dir / "log.jsonl").unlink()  # that it is lost does not cost best.pt
    capsys.readouterr()
    call(main_deeplab, *TRAIN, "--epochs", 3, "--resume", "--truth_dir", "dataset/val/val_mask")
    shutil.copytree("dataset", "moved")
    call(main_deeplab, *TRAIN, "--epochs", 4, "--resume", "--dataset_dir", "moved")
    assert "starts anew" not in capsys.readouterr().out
    assert torch.load(run_dir / "best.pt", weights_only=True)["epoch"] < 3
    call(main_deeplab, *TRAIN, "--epochs", 5, "--resume", "--truth_dir", "truth")
    assert capsys.readouterr().out.count("the truth was val/val_mask, is truth: best.pt starts anew") == 1
    assert torch.load(run_dir / "best.pt", weights_only=True)["epoch"] == 5


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
    run_dir = place / "checkpoints/deeplab"
    whole = (run_dir / "last.pt").read_bytes()
    (run_dir / "last.pt").unlink()
    if damage != "missing":
        (run_dir / "last.pt").write_bytes(whole[: {"empty": 0, "cut": len(whole) // 2}[damage]])
    capsys.readouterr()
    call(main_deeplab, *TRAIN, "--epochs", 2, "--resume")
    printed = capsys.readouterr().out
    assert "resuming from checkpoints/deeplab/previous.pt, the state before it" in printed
    assert "epochs 2 to 2" in printed
    weights = [torch.load(run_dir / name, weights_only=True) for name in ("last.pt", "previous.pt")]
    assert [each["epoch"] for each in weights] == [2, 1]
    (run_dir / "again.pt").write_bytes(whole)
    expected = torch.load(run_dir / "again.pt", weights_only=True)["trained_state_dict"]
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
    handle = locking.hold(tmp_path)
    assert locking.hold(tmp_path) is None
    child = os.fork()
    if not child:
        time.sleep(30)
        os._exit(0)
    locking.release(handle)
    deadline = time.monotonic() + 10  # the child needs a moment
    while (handle := locking.hold(tmp_path)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert handle is not None
    locking.release(handle)


def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    path, steps = tmp_path / "last.pt", []
    path.write_text("old")
    replace = Path.replace
    monkeypatch.setattr(atomic_files, "sync", lambda each: steps.append(("sync", Path(each).is_dir())))
    monkeypatch.setattr(Path, "replace", lambda a, b: (steps.append(("replace", Path(b).name)), replace(a, b))[1])
    with atomic_path(path, durable=True, keep=tmp_path / "previous.pt") as temporary:
        temporary.write_text("new")
    assert steps == [("sync", False), ("replace", "previous.pt"), ("replace", "last.pt"), ("sync", True)]
    assert path.read_text() == "new" and (tmp_path / "previous.pt").read_text() == "old"


def test_sync_takes_files_and_folders(tmp_path):
    (tmp_path / "file").touch()
    atomic_files.sync(tmp_path / "file")
    atomic_files.sync(tmp_path)


def test_a_new_folder_appears_whole_and_the_remains_of_a_killed_process_vanish(tmp_path):
    remains = tmp_path / ".unfinished_out_1"
    remains.mkdir()
    with atomic_folder(tmp_path / "out") as unfinished:
        (unfinished / "a").touch()
        assert not (tmp_path / "out").exists() and not remains.exists()
        with atomic_folder(tmp_path / "other"):
            pass  # it leaves the folder that is being built alone
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new/deep"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()


def test_a_new_folder_may_lie_within_another_new_one(tmp_path):
    with atomic_folder(tmp_path / "out") as outer, atomic_folder(tmp_path / "out/colored") as inner:
        (outer / "a").touch()
        (inner / "b").touch()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a", "b", "colored"]


def test_a_file_that_is_open_elsewhere_for_a_moment_is_renamed_after_it(tmp_path, monkeypatch):
    """As by a virus scanner on Windows. Elsewhere the first refusal counts."""
    refusals = [PermissionError(errno.EACCES, "Access is denied")] * 2
    replace = Path.replace

    def refused_twice(source, target):
        if refusals:
            raise refusals.pop()
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", refused_twice)
    for content, patience in ((None, 0.0), ("new", 60.0)):
        monkeypatch.setattr(atomic_files, "PATIENCE", patience)
        try:
            with atomic_path(tmp_path / "file") as temporary:
                temporary.write_text("new")
        except InputError as error:
            assert content is None and "Access is denied" in str(error)
        assert [path.read_text() for path in tmp_path.iterdir()] == [content] * bool(content)


# Errors and stops.


def status_of(main):
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    return ended.value.code


def failing(error):
    def main():
        raise error

    return main


def test_an_os_error_of_a_path_is_one_line_and_one_of_a_bug_has_its_traceback(capsys):
    assert status_of(failing(OSError(errno.ENOSPC, "No space left on device", "scores.txt"))) == 2
    assert capsys.readouterr().err.splitlines() == ["error: [Errno 28] No space left on device: 'scores.txt'"]
    for bug in (OSError("a bug"), OSError(errno.EBADF, "Bad file descriptor"), ChildProcessError(errno.ECHILD, "none")):
        with pytest.raises(OSError, match=str(bug.args[-1])):
            run_script(failing(bug))


def test_debugging_shows_the_traceback_of_bad_input(capsys, monkeypatch):
    monkeypatch.setenv("FACEPARSE_DEBUG", "1")
    assert status_of(failing(InputError("mask.png: wrong"))) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "in main" in err and err.endswith("error: mask.png: wrong\n")


def test_a_message_of_several_lines_becomes_one(capsys):
    assert status_of(failing(InputError("a\nb.png: wrong"))) == 2
    assert capsys.readouterr().err == "error: a b.png: wrong\n"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_waits_for_the_write_under_way(tmp_path, capsys, number, status):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def main():
        with errors.unbroken():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            (tmp_path / "written").touch()
        time.sleep(10)
        (tmp_path / "not reached").touch()

    assert status_of(main) == status
    assert [path.name for path in tmp_path.iterdir()] == ["written"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "resume" in err
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_so_in_one_line_and_resumes(place, number, status):
    flags = [str(flag) for flag in (*TRAIN, "--epochs", 400)]
    command = [sys.executable, ROOT / "main_deeplab.py", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        log, deadline = place / "checkpoints/deeplab/last.pt", time.monotonic() + 120
        while not log.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == status, err
    assert len([line for line in err.splitlines() if "resume" in line]) == 1 and "Traceback" not in err
    done = torch.load(log, weights_only=True)["epoch"]
    call(main_deeplab, *TRAIN, "--epochs", done + 1, "--resume")
    assert not list(place.rglob(".*tmp*"))


def test_a_bomb_is_refused(place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"val_0000\.jpg: has more than 0 million pixels"):
        call(validate, *PREDICT)


def test_label_maps_keep_their_pixels_beside_the_text(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_label_map(tmp_path / "a.png", labels, made_by="checkpoint 0, TTA no")
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), labels)
    assert read_maker(tmp_path / "a.png") == "checkpoint 0, TTA no"


@pytest.mark.parametrize("damage", [lambda text: "", lambda text: text[: len(text) // 3], lambda text: "\0" + text[1:]])
def test_a_damaged_log_is_refused_and_no_line_of_it_lost(place, damage):
    call(main_deeplab, *TRAIN, "--epochs", 2)
    log = place / "checkpoints/deeplab/log.jsonl"
    log.write_text(damage(log.read_text()))
    before = log.read_bytes()
    with pytest.raises(InputError, match=r"log\.jsonl: .*put back the file, or resume without it"):
        call(main_deeplab, *TRAIN, "--epochs", 3, "--resume")
    assert log.read_bytes() == before


def test_a_run_killed_before_its_first_state_starts_again(place):
    call(main_deeplab, *TRAIN, "--epochs", 1, "--save_every", 1)
    run_dir = place / "checkpoints/deeplab"
    before = torch.load(run_dir / "best.pt", weights_only=True)["state_dict"]
    (run_dir / "last.pt").unlink()
    call(main_deeplab, *TRAIN, "--epochs", 1, "--save_every", 1)
    after = torch.load(run_dir / "best.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_log_of_a_run_whose_weights_were_deleted_is_kept(place):
    log = place / "checkpoints/deeplab/log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"epoch": 1, "train_loss": 2.0}\n{"epoch": 2, "train_loss": 1.0}\n')
    before = log.read_bytes()
    with pytest.raises(InputError, match="deeplab: holds a run; another --save_prefix"):
        call(main_deeplab, *TRAIN, "--epochs", 1)
    assert log.read_bytes() == before


def test_what_fails_in_a_folder_that_is_held_is_not_about_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="of_the_user"), only_writer(tmp_path / "run", "wait"):
        (tmp_path / "of_the_user").read_text()
    assert not (tmp_path / "run").exists()


def test_a_reader_that_ends_early_is_no_error():
    script = "from faceparse import errors; errors.run_script(lambda: print('line\\n' * 10**5))"
    command = f'"{sys.executable}" -c "{script}" | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line\n141\n", "")
    # A pipe of another kind is not taken for stdout.
    with pytest.raises(SystemExit, match="2"):
        errors.run_script(lambda: (_ for _ in ()).throw(BrokenPipeError(errno.EPIPE, "of a worker")))


def test_a_missing_package_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_script(lambda: __import__("no_such_package"))
    assert "needs a package that is not installed (No module named 'no_such_package')" in capsys.readouterr().err


def test_a_renamed_run_continues(place):
    call(main_deeplab, *TRAIN, "--epochs", 1)
    (place / "checkpoints/deeplab").rename(place / "checkpoints/renamed")
    call(main_deeplab, *TRAIN, "--epochs", 2, "--resume", "--save_prefix", "renamed")
    assert (place / "checkpoints/renamed/Deeplab_checkpoint_epoch_2.pt").exists()


@pytest.mark.parametrize("external", ["../secret", "/etc/passwd"])
def test_a_network_that_names_data_outside_its_folder(tmp_path, external):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from faceparse.inference.onnx_network import OnnxNetwork

    weights = onnx.TensorProto(name="w", dims=[1], data_type=1, data_location=1)
    weights.external_data.add(key="location", value=external)
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("photos", "logits")]
    node = onnx.helper.make_node("Add", ["photos", "w"], ["logits"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:], [weights]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(bytes(4))
    (tmp_path / "folder/model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"model\.onnx: not a readable ONNX file"):
        OnnxNetwork(tmp_path / "folder/model.onnx")
