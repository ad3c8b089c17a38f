"""Training from start to end: a run writes its files, can be repeated, survives kills and works on two processes."""

import io
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from itertools import count, islice
from pathlib import Path
from shlex import split
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_flatten

import generate_labels
import main_deeplab
from dataset_utils import find_pairs
from faceparse import errors
from faceparse import files as locking
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import read_maker, read_mask, write_label_map
from faceparse.inference import checkpoints
from faceparse.training import distributed
from faceparse.training import optimisation as precision
from faceparse.training.cuda_graphs import use_cuda_graphs
from faceparse.training.optimisation import AveragedModel, build_optimizer, learning_rate, set_learning_rate
from faceparse.training.state import STATES
from loss import loss_at_epoch
from main_deeplab import require_finite, validate_epoch
from options import generate_labels_parser, train_parser

SCRIPT = Path(main_deeplab.__file__)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
SMALL = split("--image_size 32 --batch_size 4 --workers 0")
# These flags turn on everything that a run keeps from epoch to epoch: the optimiser's state, averaged weights,
# augmentation, repeats, merged labels, Dice.
FULL = [
    *SMALL,
    *split("--epochs 3 --save_every 2 --ema 0.5 --augment_from_epoch 2 --repeat_rare 0.5 --dice_from_epoch 3"),
    *split("--self_distill_epoch 2 --distill_threshold 0.01"),
]
LAST_BIAS = "classifier.bias"
VALIDATED = (2, 3)  # the epochs that FULL validates: every second and the last


def parse(*flags):
    return train_parser("Train.").parse_args([str(flag) for flag in flags])


def train(folder, *flags):
    """Train in this process with `folder` as working directory; return the run's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main_deeplab.main(parse(*flags))
    return Path(folder) / "checkpoints/deeplab"


@pytest.fixture(scope="module")
def reference(sample_dataset, tmp_path_factory):
    """The folder of an uninterrupted run of FULL by the script, seed 0. Tests must not change it."""
    folder = tmp_path_factory.mktemp("reference")
    command = [sys.executable, SCRIPT, "--dataset_dir", sample_dataset, *FULL]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deeplabv3plus_mobilenet_slim: 1,345,059 parameters; 8 training and 5 validation pairs" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["checkpoints"]
    return folder / "checkpoints/deeplab"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files(folder)}


def masks(folder):
    """Return {stem: pixels as bytes}; the files also say what made them."""
    return {path.stem: read_mask(path).tobytes() for path in folder.iterdir()}


def read_log(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def load(path):
    """Return a checkpoint's content without the flags of the run."""
    content = torch.load(path, weights_only=True)
    content.pop("args", None)
    return content


def assert_identical(a, b):
    """Assert equality bit for bit, through nested dicts and lists."""
    (leaves, form), (others, other_form) = tree_flatten(a), tree_flatten(b)
    assert form == other_form
    for one, other in zip(leaves, others, strict=True):
        assert type(one) is type(other)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def assert_same_run(run_dir, reference):
    """Assert equal files and contents, except for times and for hidden files, which a kill leaves."""
    visible = [name for name in files(run_dir) if not Path(name).name.startswith(".")]
    assert visible == files(reference)
    for name in visible:
        if name.endswith(".pt"):
            assert_identical(load(run_dir / name), load(reference / name))
        elif name.startswith("merged_labels"):
            assert (run_dir / name).read_bytes() == (reference / name).read_bytes()
    times = dict.fromkeys(("seconds", "images_per_second", "data_wait"), 0)
    lines = [[{**line, **times} for line in read_log(each)] for each in (run_dir, reference)]
    assert lines[0] == lines[1]


def test_a_run_writes_the_documented_files_and_no_other(reference):
    expected = [f"Deeplab_checkpoint_epoch_{epoch}.pt" for epoch in VALIDATED]
    expected += ["best.pt", "last.pt", "previous.pt", "log.jsonl", "training_loss_plot.png"]
    expected += [f"merged_labels/train_{index:04d}.png" for index in range(8)]
    assert files(reference) == sorted(expected)


def test_log_has_a_line_per_epoch(reference):
    log = read_log(reference)
    always = {"epoch", "learning_rate", "train_loss", "images_per_second", "data_wait", "seconds"}
    assert [line["epoch"] for line in log] == [1, 2, 3]
    for line in log:
        validated = {"val_loss", "mIoU", "macro_F1", "IoU"} if line["epoch"] in VALIDATED else set()
        assert set(line) == always | validated
        assert line["learning_rate"] == learning_rate(parse(*FULL), line["epoch"])
        assert math.isfinite(line["train_loss"]) and line["train_loss"] > 0 and line["seconds"] > 0
        assert line["images_per_second"] > 8 / line["seconds"] and 0 < line["data_wait"] < 1
        if validated:
            assert len(line["IoU"]) == 19 and line["mIoU"] == pytest.approx(np.nanmean(line["IoU"]))


@pytest.mark.parametrize("name", ["best.pt", "Deeplab_checkpoint_epoch_2.pt"])
def test_a_checkpoint_rebuilds_the_model_that_was_validated(sample_dataset, reference, name):
    content = load(reference / name)
    model = checkpoints.load_model(reference / name)
    args = parse(*FULL)
    loss, scores = validate_epoch(args, content["epoch"], model, find_pairs(sample_dataset, "val"), torch.device("cpu"))
    line = read_log(reference)[content["epoch"] - 1]
    np.testing.assert_array_equal(scores.iou, line["IoU"])
    assert loss == pytest.approx(line["val_loss"], rel=1e-6)
    if name == "best.pt":
        assert content["mIoU"] == scores.miou == max(line.get("mIoU", -1) for line in read_log(reference))


def test_every_checkpoint_predicts_with_the_averaged_weights(reference):
    last, numbered = load(reference / "last.pt"), load(reference / "Deeplab_checkpoint_epoch_3.pt")
    assert_identical(numbered["state_dict"], last["state_dict"])
    assert not torch.equal(last["state_dict"][LAST_BIAS], last["trained_state_dict"][LAST_BIAS])


@pytest.mark.slow
def test_same_seed_same_bits_and_visualizations_change_nothing(sample_dataset, reference, tmp_path):
    run_dir = train(tmp_path, "--dataset_dir", sample_dataset, *FULL, "--save_visualizations")
    overlays = run_dir / "visualizations"
    assert files(overlays) == [f"val_{index:04d}.png" for index in range(5)]
    shutil.rmtree(overlays)
    assert_same_run(run_dir, reference)


@pytest.mark.slow
def test_reading_from_disk_in_every_epoch_trains_the_same_weights(sample_dataset, tmp_path):
    flags = ["--dataset_dir", sample_dataset, *SMALL, "--epochs", 2]
    in_memory = train(tmp_path, *flags, "--cache", "ram").rename(tmp_path / "ram")
    from_disk = train(tmp_path, *flags, "--cache", "off", "--workers", 2)
    assert_identical(load(from_disk / "last.pt"), load(in_memory / "last.pt"))


def assert_merged_by(checkpoint_path, merged_dir, sample_dataset, out):
    """Assert that `merged_dir` holds what generate_labels.py makes with that checkpoint."""
    flags = ["--checkpoint", checkpoint_path, "--image_dir", sample_dataset / "train/train_image"]
    flags += ["--label_dir", sample_dataset / "train/train_mask", "--output_dir", out / "merged"]
    flags += ["--colored_dir", out / "colored", "--threshold", 0.01, "--image_size", 32, "--batch_size", 4]
    parser = generate_labels_parser("Merge.")
    generate_labels.main(parser.parse_args([str(flag) for flag in [*flags, "--workers", 0]]))
    merged = masks(out / "merged")
    assert masks(merged_dir) == merged
    given = masks(sample_dataset / "train/train_mask")
    assert set(given) == set(merged) and given != merged


def test_self_distillation_in_one_run_merges_as_generate_labels_does(sample_dataset, reference, tmp_path):
    """With a validation at epoch 2 the checkpoint of that epoch is the model that relabels."""
    assert_merged_by(reference / "Deeplab_checkpoint_epoch_2.pt", reference / "merged_labels", sample_dataset, tmp_path)


@pytest.mark.slow
def test_merged_labels_are_what_training_continues_with(sample_dataset, reference, tmp_path):
    flags = ["--dataset_dir", sample_dataset, *FULL]
    without = train(tmp_path, *flags, "--self_distill_epoch", 0).rename(tmp_path / "without")
    unchanged = train(tmp_path, *flags, "--distill_threshold", 1)
    assert_identical(load(unchanged / "last.pt"), load(without / "last.pt"))  # equal labels give an equal training
    losses, others = ([line["train_loss"] for line in read_log(run_dir)] for run_dir in (without, reference))
    assert losses[:2] == others[:2]
    assert losses[2] != others[2]


def train_in_child(folder, flags, dies_before_file):
    """Train, but die by SIGKILL when the n-th file is complete and about to be moved to its place."""
    os.chdir(folder)
    replace, numbers = Path.replace, count(1)

    def replace_or_die(path, target):
        if next(numbers) == dies_before_file:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = replace_or_die
    main_deeplab.main(parse(*flags))


@pytest.mark.slow
def test_killed_between_files_and_resumed_equals_the_uninterrupted_run(sample_dataset, reference, tmp_path):
    """It is killed between any two kinds of files. A fork that has imported everything starts fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["main_deeplab"])
    run_dir, epochs, has_last = tmp_path / "checkpoints/deeplab", [], []
    moments = (
        2,  # epoch 1 is logged without last.pt, so the run starts again
        6,  # epoch 2 is logged and plotted and has its checkpoint, but no best.pt
        6,  # the last.pt of epoch 1 became previous.pt, and there is no new one
        9,  # epoch 2 is complete, two of eight labels are merged
        11,  # all labels are merged and their folder is there, epoch 3 is logged, but nothing more
        4,  # epoch 3 has its checkpoint, but neither best.pt nor last.pt holds it
        None,
    )
    for file in moments:
        resume = ["--resume"] if any((run_dir / name).exists() for name in STATES) else []
        flags = ["--dataset_dir", sample_dataset, *FULL, *resume]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])  # for the server, which the first process starts
            process = context.Process(target=train_in_child, args=(tmp_path, flags, file))
            process.start()
        process.join(120)
        assert process.exitcode == (-signal.SIGKILL if file else 0)
        epochs.append(len(read_log(run_dir)))
        has_last.append((run_dir / "last.pt").exists())
    assert epochs == [1, 2, 2, 2, 3, 3, 3] and has_last == [False, True, False, True, True, True, True]
    assert_same_run(run_dir, reference)
    assert files(run_dir) == files(reference)  # no temporary file is left


# Tests of resuming and starting over.


def refusal(capsys, folder, *flags):
    """Return the one line on stderr with which main_deeplab refuses to run."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        errors.run_script(lambda: train(folder, *flags))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def copied(reference, tmp_path):
    """A working directory with a copy of the reference run."""
    shutil.copytree(reference, tmp_path / "checkpoints/deeplab")
    return tmp_path


def test_resume_without_a_run_is_refused(sample_dataset, tmp_path, capsys):
    message = refusal(capsys, tmp_path, "--dataset_dir", sample_dataset, *FULL, "--resume")
    assert "checkpoints/deeplab/last.pt: nothing to resume" in message
    assert files(tmp_path) == []


def test_start_over_or_resume_of_a_finished_run_is_refused_and_loses_nothing(sample_dataset, copied, capsys):
    before = contents(copied)
    message = refusal(capsys, copied, "--dataset_dir", sample_dataset, *FULL)
    assert "checkpoints/deeplab: holds a run; --resume continues it, another --save_prefix" in message
    assert "has 3 epochs already" in refusal(capsys, copied, "--dataset_dir", sample_dataset, *FULL, "--resume")
    assert contents(copied) == before


def test_the_log_matters_up_to_the_state_that_is_resumed(sample_dataset, copied):
    """The state is of epoch 3. Later lines are of a state that was not saved, or of one after the log was lost."""
    flags, log = ["--dataset_dir", sample_dataset, *FULL, "--epochs", 4, "--resume"], "checkpoints/deeplab/log.jsonl"
    before = (copied / log).read_text()
    (copied / log).write_text(f'{before}{{"epoch": 4, \n')
    assert [line["epoch"] for line in read_log(train(copied, *flags))] == [1, 2, 3, 4]
    (copied / log).write_text('{"epoch": 5, "train_loss": 1}\n')
    flags[flags.index(4)] = 5
    assert [line["epoch"] for line in read_log(train(copied, *flags))] == [5]


def test_a_state_of_an_earlier_version_continues_as_it_began(sample_dataset, tmp_path, capsys, monkeypatch):
    """It has other names for flags, some that are gone, no teachers, and one group of parameters, all with decay."""
    flags = ["--dataset_dir", sample_dataset, *SMALL, "--dice_all_classes", "--weight_decay", 0.5]
    with monkeypatch.context() as patch:
        patch.setattr(main_deeplab, "build_optimizer", partial(build_optimizer, decay_all=True))
        run_dir = train(tmp_path, *flags, "--epochs", 1)
    old = torch.load(run_dir / "last.pt", weights_only=True)
    (group,) = old["optimizer"]["param_groups"]
    del old["args"]["teacher"], old["args"]["dice_all_classes"], group["lr_scale"]
    old["args"] |= {"dice_present_only": False, "compile": True, "sync_batchnorm": False, "doubtful": []}
    torch.save(old, run_dir / "last.pt")
    train(tmp_path, *flags, "--epochs", 2, "--resume")
    last = load(run_dir / "last.pt")["optimizer"]
    assert [last["param_groups"][0][name] for name in ("weight_decay", "params")] == [0.5, group["params"]]
    assert last["state"][0]["step"] == 2 * old["optimizer"]["state"][0]["step"]
    for change, complaint in (
        ({"teacher": ["a.pt"]}, "the run began with --teacher"),
        ({"dice_present_only": True}, "the run began with --dice_all_classes False (now True)"),
        ({"sync_batchnorm": True}, "the run began with --sync_batchnorm True (now None)"),
    ):
        torch.save(old | {"args": old["args"] | change}, run_dir / "last.pt")
        assert complaint in refusal(capsys, tmp_path, *flags, "--epochs", 3, "--resume")
    torch.save(old | {"step": 7}, run_dir / "last.pt")
    assert "it was saved within an epoch" in refusal(capsys, tmp_path, *flags, "--epochs", 3, "--resume")


def test_a_break_in_the_epoch_loop_stops_early(sample_dataset, tmp_path, capsys, monkeypatch):
    """Before the first validation, too."""
    run_epochs = main_deeplab.run_epochs
    monkeypatch.setattr(main_deeplab, "run_epochs", lambda *args: islice(run_epochs(*args), 1))
    run_dir = train(tmp_path, "--dataset_dir", sample_dataset, *SMALL)
    assert len(read_log(run_dir)) == 1 and load(run_dir / "last.pt")["epoch"] == 1
    assert "macro" not in capsys.readouterr().out


def test_more_epochs_go_on_after_the_last(sample_dataset, copied, reference):
    run_dir = train(copied, "--dataset_dir", sample_dataset, *FULL, "--epochs", 4, "--resume")
    log = read_log(run_dir)
    assert log[:3] == read_log(reference) and [line["epoch"] for line in log] == [1, 2, 3, 4]
    assert {"Deeplab_checkpoint_epoch_4.pt"} == set(files(run_dir)) - set(files(reference))


def test_weights_that_are_not_finite_are_not_saved():
    """The last step of an epoch may spoil them after its loss was computed."""
    model = torch.nn.BatchNorm2d(3)
    state = SimpleNamespace(model=model)
    require_finite(state, 1.0, 2)
    model.running_var[1] = math.inf
    with pytest.raises(errors.InputError, match=r"epoch 2: the training diverged; .*; last\.pt holds"):
        require_finite(state, 1.0, 2)


@pytest.mark.slow
def test_a_run_that_diverged_goes_on_with_a_lower_rate(sample_dataset, copied, capsys):
    flags, before = ["--dataset_dir", sample_dataset, *FULL, "--epochs", 4, "--resume"], contents(copied)
    message = refusal(capsys, copied, *flags, "--learning_rate", 1e30)
    assert "epoch 4: the training diverged; lower --learning_rate; last.pt holds the state before" in message
    assert contents(copied) == before
    run_dir = train(copied, *flags, "--learning_rate", 1e-4)
    assert "--learning_rate was 0.001, is 0.0001" in capsys.readouterr().out
    assert [line["epoch"] for line in read_log(run_dir)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--model_type", "deeplabv3plus_mobilenet"),
        ("--ema", 0.0),
        ("--weight_decay", 0.1),
    ],
)
def test_resume_as_another_run_is_refused_and_loses_nothing(sample_dataset, copied, capsys, flag, value):
    before = contents(copied)
    flags = ["--dataset_dir", sample_dataset, *FULL, "--epochs", 4, "--resume", flag, value]
    message = refusal(capsys, copied, *flags)
    assert "checkpoints/deeplab/last.pt" in message and f"{flag} " in message and f"now {value}" in message
    assert contents(copied) == before


def test_log_stays_json_where_a_class_has_no_score(sample_dataset, tmp_path):
    """In a validation on background alone, classes that are neither true nor predicted score null, not NaN."""
    for index in range(5):
        write_label_map(tmp_path / f"truth/val_{index:04d}.png", np.zeros((64, 64), dtype=np.uint8))
    run_dir = train(tmp_path, "--dataset_dir", sample_dataset, *SMALL, "--epochs", 1, "--truth_dir", tmp_path / "truth")
    line = json.loads((run_dir / "log.jsonl").read_text(), parse_constant=pytest.fail)
    scored = [iou for iou in line["IoU"] if iou is not None]
    assert 0 < len(scored) < 19 and line["mIoU"] == pytest.approx(np.mean(scored))


# Tests with two processes.


def launch_two(folder, *flags, script=SCRIPT, status=0):
    """Train in two processes; return what they print: output, or errors where another `status` than 0 is expected."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with subprocess.Popen(
        [*command, script, *map(str, flags)],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as launcher:
        try:
            out, err = launcher.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(launcher.pid, signal.SIGKILL)  # the launcher alone would leave its processes
            raise
    assert launcher.returncode == status, err
    assert "FutureWarning" not in err
    return err if status else out


@pytest.mark.slow
def test_two_processes_train_distil_resume_and_validate_as_one(sample_dataset, tmp_path):
    flags = ["--dataset_dir", sample_dataset, *SMALL, *split("--save_every 1 --ema 0.5 --distill_threshold 0.01")]
    flags += ["--self_distill_epoch", 1]
    out = launch_two(tmp_path, *flags, "--epochs", 2)
    assert out.count("8 training and 5") == out.count("pixels changed") == 1  # only one of them prints
    out = launch_two(tmp_path, *flags, "--epochs", 3, "--resume")
    assert out.count("epochs 3 to 3") == 1
    run_dir = tmp_path / "checkpoints/deeplab"
    assert [line["epoch"] for line in read_log(run_dir)] == [1, 2, 3]
    assert_merged_by(run_dir / "Deeplab_checkpoint_epoch_1.pt", run_dir / "merged_labels", sample_dataset, tmp_path)
    # Two processes share five photographs. Each counts once, and the weights saved are those that were validated.
    for line in read_log(run_dir):
        model = checkpoints.load_model(run_dir / f"Deeplab_checkpoint_epoch_{line['epoch']}.pt")
        args = parse(*SMALL, "--batch_size", 2)
        loss, scores = validate_epoch(
            args, line["epoch"], model, find_pairs(sample_dataset, "val"), torch.device("cpu")
        )
        np.testing.assert_array_equal(scores.iou, line["IoU"])
        assert loss == pytest.approx(line["val_loss"], rel=1e-6)


FAILING = """
import main_deeplab
from faceparse.training import distributed
from faceparse import errors
from options import train_parser

def augment(*args):
    if distributed.rank() == 1:
        raise errors.InputError("photograph 7 is damaged")
    return given(*args)

given, main_deeplab.augment = main_deeplab.augment, augment
errors.run_script(lambda: main_deeplab.main(train_parser("Train.").parse_args()))
"""


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_and_is_one_line(sample_dataset, tmp_path):
    """The other process waits for this one's gradients, and must neither wait for ever nor print a traceback."""
    (tmp_path / "failing.py").write_text(FAILING)
    flags = ["--dataset_dir", sample_dataset, *SMALL, "--epochs", 1]
    err = launch_two(tmp_path, *flags, script=tmp_path / "failing.py", status=1)
    errors_printed = [line for line in err.splitlines() if line.startswith("error: ")]
    assert errors_printed.count("error: photograph 7 is damaged") == 1
    # The other process says that it lost the connection, if torchrun does not end it before that.
    others = [line for line in errors_printed if "photograph" not in line]
    assert all(line.startswith("error: process 0: lost the connection") for line in others) and len(others) <= 1
    assert 'failing.py",' not in err  # no traceback but torchrun's own


def test_a_process_waits_for_the_others_for_minutes_but_not_for_hours(monkeypatch):
    started = []
    monkeypatch.setattr(distributed, "is_launched", lambda: True)
    monkeypatch.setattr(
        distributed.dist, "init_process_group", lambda *_, **options: started.append(options["timeout"])
    )
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    with distributed.process_group(torch.device("cpu")):
        assert 10 * 60 <= started[0].total_seconds() <= 60 * 60


def test_a_mask_without_labels_does_not_count_in_the_validation_loss(sample_dataset, tmp_path):
    args, device, pairs = parse(*SMALL), torch.device("cpu"), find_pairs(sample_dataset, "val")
    model = main_deeplab.build_training(args, device, CELEBAMASK).model
    write_label_map(tmp_path / "ignored.png", np.full((64, 64), 255, np.uint8))
    more = [*pairs, ("ignored", pairs[0][1], tmp_path / "ignored.png")]
    losses = [validate_epoch(args, 1, model, each, device)[0] for each in (pairs, more, more[-1:])]
    assert losses == [pytest.approx(losses[1], rel=1e-6), losses[1], 0]


def test_slurms_variables_start_no_process_group(monkeypatch):
    for name, value in {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    with distributed.process_group(torch.device("cpu")):
        assert not distributed.is_distributed() and distributed.rank() == 0


def test_a_process_without_photographs_of_its_own_validates(sample_dataset):
    """With fewer photographs than processes a share is empty."""
    options = main_deeplab.prediction_options(parse(*SMALL), None)
    assert list(main_deeplab.predict(None, [], **options)) == []


# Tests of single parts.


def test_an_epoch_trains_by_its_flags(sample_dataset, monkeypatch):
    """At the rate of its warm-up or schedule, augmented from the epoch that the flag names."""
    flags = split("--batch_size 8 --learning_rate 0.02 --augment_from_epoch 2")
    args, device, modes = parse(*SMALL, *flags), torch.device("cpu"), []
    augment = main_deeplab.augment
    monkeypatch.setattr(main_deeplab, "augment", lambda *given: modes.append(given[2]) or augment(*given))
    state = main_deeplab.build_training(args, device, CELEBAMASK)
    training_set = main_deeplab.read_training_set(args, find_pairs(sample_dataset, "train"), CELEBAMASK, device)
    rates = []
    for epoch in (1, 2):
        line = main_deeplab.train_one_epoch(state, epoch, state.model, training_set, device)
        rates.append((line["learning_rate"], state.optimizer.param_groups[0]["lr"]))
    assert rates == [(0.01, 0.01), (0.02, 0.02)] and modes == ["none", "full"]


@pytest.mark.parametrize(
    ("name", "weight", "bias"), [("adamw", 1 - 0.1 * 0.3, 1), ("adam", 1 - 0.1, 1 - 0.1), ("old", 1 - 0.1 * 0.3, 0.97)]
)
def test_weight_decay_worked_out(name, weight, bias):
    """Without a gradient of the loss AdamW takes rate times decay off the weights, and leaves 1-d tensors. To Adam the
    decay is a gradient like any other, and the first step down a gradient is the rate. States of earlier versions have
    decay on all tensors."""
    model = torch.nn.Linear(1, 1)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    args = parse("--optimizer", "adam" if name == "adam" else "adamw", "--weight_decay", 0.3)
    optimizer = build_optimizer(args, model, decay_all=name == "old")
    set_learning_rate(optimizer, 0.1)
    (0 * (model.weight + model.bias)).sum().backward()
    optimizer.step()
    assert (model.weight.item(), model.bias.item()) == pytest.approx((weight, bias))


def test_every_group_has_its_share_of_the_learning_rate():
    optimizer = build_optimizer(parse(), torch.nn.Linear(1, 1))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": 0.1})
    set_learning_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.02, 0.002])


def test_the_challenges_own_command_line_and_an_odd_size():
    args = parse(*split("--batch_size 32 --epochs 400 --learning_rate 0.001 --gpu_id 2 --image_size 500"))
    assert (args.batch_size, args.epochs, args.learning_rate, args.gpu_id) == (32, 400, 0.001, 2)
    assert args.image_size == 512  # sides are multiples of 16


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        # Half of the peak in the middle of each cycle: 5 of 10, 10 of 20, 20 of 40 epochs done.
        ("--schedule warm_restarts", {6: 0.5, 21: 0.5, 51: 0.5, 10: 0.02447174185, 3: 0.90450849719}),
        ("--epochs 100", {1: 1, 26: 0.85355339059, 51: 0.5, 76: 0.14644660941, 100: 0.000246719817}),
        ("--schedule constant --warmup_epochs 1", {1: 0.5, 2: 1, 3: 1, 400: 1}),
        (
            "--schedule warm_restarts --warmup_epochs 4",
            {1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8, 5: 1, 10: 0.5, 15: 1, 25: 0.5, 35: 1},
        ),
        ("--epochs 12 --warmup_epochs 2", {1: 1 / 3, 2: 2 / 3, 3: 1, 8: 0.5, 12: 0.02447174185}),
        ("--epochs 3 --warmup_epochs 5", {1: 1 / 6, 3: 0.5}),
    ],
)
def test_schedules_against_worked_out_rates(flags, rates):
    args = parse("--learning_rate", 1, "--warmup_epochs", 0, *flags.split())
    assert {epoch: learning_rate(args, epoch) for epoch in rates} == pytest.approx(rates, rel=1e-8)


def test_warm_restarts_are_those_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    expected = []
    for _ in range(160):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    args = parse("--learning_rate", 0.01, "--schedule", "warm_restarts", "--warmup_epochs", 0)
    assert [learning_rate(args, epoch) for epoch in range(1, 161)] == pytest.approx(expected, rel=1e-9)


def test_averaged_weights_worked_out():
    model = torch.nn.BatchNorm1d(2)
    averaged = AveragedModel(model, decay=0.9)
    ema = averaged.module

    def update_from(value, updates):
        """Set model and average to `value` and 1, and the number of earlier updates; then update once."""
        for module, fill in ((model, value), (ema, 1.0)):
            module.weight.data.fill_(fill)
            module.running_mean.fill_(fill)
        averaged.updates = updates
        averaged.update()

    update_from(3.0, updates=0)  # The first update copies.
    assert ema.weight.tolist() == ema.running_mean.tolist() == [3, 3]
    update_from(3.0, updates=5)  # decay 6 / 15: 0.4 * 1 + 0.6 * 3
    assert ema.weight.tolist() == ema.running_mean.tolist() == pytest.approx([2.2, 2.2])
    update_from(3.0, updates=1000)  # decay 0.9, the limit
    assert ema.weight.tolist() == pytest.approx([1.2, 1.2])
    assert model.weight.tolist() == [3, 3]
    assert not ema.weight.requires_grad
    assert averaged.updates == 1001


@pytest.mark.slow
def test_unlabelled_photographs_join_after_self_distillation(sample_dataset, tmp_path):
    """In one run, and by hand through generate_labels.py: the same labels, the same weights."""
    flags = [*SMALL, "--save_every", 1, "--unlabelled_dir", sample_dataset / "test_image"]
    unlabelled = [path.stem for path in (sample_dataset / "test_image").iterdir()]
    for folder in ("alone", "by_hand", "refused"):
        (tmp_path / folder).mkdir()
    start = ["--dataset_dir", sample_dataset, *flags]
    sure = ["--unlabelled_threshold", 0.05]
    alone = train(tmp_path / "alone", *start, "--epochs", 2, "--self_distill_epoch", 1, *sure)
    labels = masks(alone / "merged_labels")
    assert len(labels) == 8 + len(unlabelled) and labels.keys() > set(unlabelled)

    shutil.copy(alone / "Deeplab_checkpoint_epoch_1.pt", tmp_path / "a.pt")
    command = ["--checkpoint", tmp_path / "a.pt", "--image_dir", sample_dataset / "train/train_image"]
    command += ["--label_dir", sample_dataset / "train/train_mask", "--output_dir", tmp_path / "merged"]
    command += ["--colored_dir", tmp_path / "colored", *flags[-2:], *sure]
    command += ["--batch_size", 4, "--workers", 0]
    generate_labels.main(generate_labels_parser("G.").parse_args([str(each) for each in command]))
    assert masks(tmp_path / "merged") == labels

    by_hand = ["--epochs", 1, "--load_model_path", tmp_path / "a.pt", "--label_dir", tmp_path / "merged"]
    run_dir = train(tmp_path / "by_hand", *start, *by_hand)
    assert len(read_log(run_dir)) == 1
    with pytest.raises(errors.InputError, match="--unlabelled_dir: needs --self_distill_epoch, or a --label_dir"):
        train(tmp_path / "refused", *start, "--epochs", 1)


def test_training_starts_from_the_weights_it_is_given(sample_dataset, reference, tmp_path):
    start, flags = reference / "best.pt", split("--epochs 1 --learning_rate 0")
    run_dir = train(tmp_path, "--dataset_dir", sample_dataset, *SMALL, *flags, "--load_model_path", start)
    before, after = load(start)["state_dict"], load(run_dir / "last.pt")["state_dict"]
    weights = [key for key in before if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(before[key], after[key]) for key in weights)
    assert not torch.equal(before["stride2.0.1.running_mean"], after["stride2.0.1.running_mean"])


@pytest.mark.slow
def test_training_learns(sample_dataset, tmp_path):
    # The default network's BatchNorm statistics need more steps than this to follow its weights.
    flags = split("--model_type deeplabv3plus_mobilenet --epochs 9 --ema 0.5 --save_every 1 --schedule constant")
    flags += split("--warmup_epochs 0 --augment none --repeat_rare 0 --dice_weight 0")
    log = read_log(train(tmp_path, "--dataset_dir", sample_dataset, *SMALL, *flags))
    assert log[-1]["train_loss"] < 0.6 * log[0]["train_loss"]
    # On 8 pictures the validation loss soon rises again.
    assert min(line["val_loss"] for line in log) < 0.75 * log[0]["val_loss"]
    assert log[-1]["mIoU"] > 2 * log[0]["mIoU"]


@pytest.mark.slow
def test_fp16_with_a_scaled_loss_resumes_bit_for_bit(sample_dataset, tmp_path, monkeypatch):
    """On the CPU in place of a GPU without bf16. The first steps overflow, so the scale is part of the state."""
    monkeypatch.setattr(precision, "autocast_dtype", lambda device, float32: torch.float16)
    flags = ["--dataset_dir", sample_dataset, *SMALL, *split("--learning_rate 1e-4 --ema 0.5 --save_every 1")]
    flags += split("--schedule constant --warmup_epochs 0")  # else the second epoch would depend on --epochs
    whole = train(tmp_path, *flags, "--epochs", 2).rename(tmp_path / "whole")
    train(tmp_path, *flags, "--epochs", 1)
    resumed = train(tmp_path, *flags, "--epochs", 2, "--resume")
    last = load(resumed / "last.pt")
    assert_identical(last, load(whole / "last.pt"))
    assert 1 <= last["scaler"]["scale"] < 65536 or last["scaler"]["_growth_tracker"] > 0
    assert all(math.isfinite(line["train_loss"]) for line in read_log(resumed))


def test_a_step_that_overflows_changes_no_weight():
    stepping = precision.Precision(torch.device("cpu"))
    stepping.scaler = torch.amp.GradScaler("cpu")
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight], fused=True)
    stepping.step((weight * float("inf")).sum(), optimizer)
    assert weight.tolist() == [1, 1] and stepping.state_dict()["scale"] == 32768
    stepping.step(weight.sum(), optimizer)
    assert weight.tolist() == pytest.approx([0.999, 0.999])  # the first step of Adam is the learning rate


@pytest.mark.parametrize("bf16", [True, False])
def test_gpus_without_bf16_use_fp16_and_cpus_float32(monkeypatch, bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    gpu = torch.device("cuda")
    assert precision.autocast_dtype(gpu) is (torch.bfloat16 if bf16 else torch.float16)
    assert precision.autocast_dtype(gpu, float32=True) is precision.autocast_dtype(torch.device("cpu")) is None


def test_trying_the_largest_step_leaves_no_trace():
    """Else runs on GPUs would depend on it. It reaches Dice, though the first epoch has none."""
    args, device = parse(*SMALL, "--dice_from_epoch", 7), torch.device("cpu")
    state = main_deeplab.build_training(args, device, CELEBAMASK)
    model = state.model
    before, random_state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    shapes, losses = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            main_deeplab, "loss_at_epoch", lambda args, epoch: losses.append(epoch) or loss_at_epoch(args, epoch)
        )
        model.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
        main_deeplab.try_largest_step(state, model, 8, device)
    assert shapes == [(4, 19, 32, 32)] and losses == [7]
    assert_identical(dict(model.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_shows_loss_pace_and_time_left(sample_dataset, tmp_path, monkeypatch):
    """One step an epoch: the loss shown is the epoch's. Of three epochs, two are left after the first step."""
    shown = []

    class Bar(main_deeplab.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **(options | {"disable": False, "file": io.StringIO()}))

        def set_postfix_str(self, text):
            shown.append(text)

        format_interval = staticmethod(lambda seconds: f"{seconds:.6f} s")

    monkeypatch.setattr(main_deeplab, "tqdm", Bar)
    run_dir = train(
        tmp_path, "--dataset_dir", sample_dataset, *SMALL, *split("--batch_size 8 --epochs 3 --repeat_rare 0")
    )
    for epoch, (text, line) in enumerate(zip(shown, read_log(run_dir), strict=True), 1):
        loss, pace, left = re.fullmatch(r"loss (\S+), (\S+) images/s, (\S+) s left for all epochs", text).groups()
        assert loss == f"{line['train_loss']:.4f}"
        assert float(pace) * float(left) == pytest.approx(8 * (3 - epoch), rel=0.05)


@pytest.fixture
def small_network(monkeypatch):
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())  # asks the driver
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def test_graphs_are_replayed_for_batches_of_their_shape_and_leave_the_statistics(small_network, monkeypatch):
    def capture(model, batches):
        forward = model.forward
        forward(*batches)  # PyTorch warms up, which changes the statistics
        assert model.training and not torch.is_autocast_cache_enabled()
        model.forward = lambda batch: "replayed"

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    before = {key: value.clone() for key, value in small_network.state_dict().items()}
    use_cuda_graphs(small_network, precision.Precision(torch.device("cpu")), (2, 3, 8, 8))
    torch.testing.assert_close(small_network.state_dict(), before)
    assert small_network(torch.zeros(2, 3, 8, 8)) == "replayed"
    assert small_network(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 6, 6)


def test_where_no_graph_can_be_made_one_line_says_so(small_network, monkeypatch):
    def broken(model, batches):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand a long explanation")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", broken)
    with pytest.raises(errors.InputError) as caught:
        use_cuda_graphs(small_network, precision.Precision(torch.device("cpu")), (2, 3, 8, 8))
    reason = "CUDA error: operation not permitted when stream is capturing"
    assert str(caught.value) == f"--cuda_graphs: does not work here ({reason}); leave it out"


def test_best_is_the_checkpoint_of_the_highest_score_and_the_first_of_equals(tmp_path, monkeypatch):
    monkeypatch.setattr(main_deeplab, "draw_runs", lambda *_: None)
    state, log = main_deeplab.build_training(parse(*SMALL), torch.device("cpu"), CELEBAMASK), []
    for epoch, (miou, best) in enumerate([(0.3, (1, 0.3)), (0.5, (2, 0.5)), (0.4, (2, 0.5)), (0.5, (2, 0.5))], 1):
        log.append({"epoch": epoch, "train_loss": 1.0, "mIoU": miou})
        main_deeplab.save_epoch(state, tmp_path, log)
        content = load(tmp_path / "best.pt")
        assert (content["epoch"], content["mIoU"]) == best
        assert load(tmp_path / "last.pt")["best_miou"] == best[1]


def test_a_second_run_in_the_same_folder_is_refused(sample_dataset, tmp_path, capsys):
    run_dir = tmp_path / "checkpoints/deeplab"
    run_dir.mkdir(parents=True)
    with locking.locked(run_dir):  # as a run does
        message = refusal(capsys, tmp_path, "--dataset_dir", sample_dataset, *SMALL, "--epochs", 1)
    assert (
        "checkpoints/deeplab: another run is writing there; wait for its end, or give another --save_prefix" in message
    )
    assert files(run_dir) == []


def test_merged_labels_say_what_made_them(reference):
    """Else they would pass for a data set's own masks, which nothing overwrites and whose classes nothing checks."""
    assert {read_maker(path) for path in (reference / "merged_labels").iterdir()} == {"self-distillation after epoch 2"}


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(sample_dataset, monkeypatch):
    """Eight photographs are two steps of four."""
    args, device, losses = parse(*SMALL, "--repeat_rare", 0), torch.device("cpu"), iter([1.0, 4.0])
    state = main_deeplab.build_training(args, device, CELEBAMASK)
    training_set = main_deeplab.read_training_set(args, find_pairs(sample_dataset, "train"), CELEBAMASK, device)
    monkeypatch.setattr(
        main_deeplab, "loss_at_epoch", lambda *_: lambda logits, masks, taught: 0 * logits.sum() + next(losses)
    )
    line = main_deeplab.train_one_epoch(state, 1, state.model, training_set, device)
    assert line["train_loss"] == pytest.approx((1 + 4) / 2)


def test_forgotten_classes_of_a_data_set_are_refused(sample_dataset, tmp_path, capsys):
    shutil.copytree(sample_dataset, tmp_path / "data")
    (tmp_path / "data/classes.json").write_text(json.dumps({"names": ["background", "face"]}))
    message = refusal(capsys, tmp_path, "--dataset_dir", tmp_path / "data", *SMALL)
    assert f"{tmp_path / 'data'}: has other classes; give --classes {tmp_path / 'data/classes.json'}" in message
