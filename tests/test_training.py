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
from contextlib import redirect_stdout
from itertools import count, islice
from pathlib import Path
from shlex import split

import numpy as np
import pytest
import torch
from helpers import SMALL, call, contents, parse
from torch.utils._pytree import tree_flatten
from two_processes import in_two_processes

import generate_labels
import main_deeplab
from dataset_utils import find_pairs
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import read_maker, read_mask
from faceparse.errors import InputError
from faceparse.files import locked
from faceparse.inference import checkpoints
from faceparse.training import distributed, optimisation
from faceparse.training.log import write_log
from faceparse.training.optimisation import AveragedModel, build_optimizer, learning_rate, set_learning_rate
from faceparse.training.state import STATES
from main_deeplab import validate_epoch

SCRIPT = Path(main_deeplab.__file__)
CPU = torch.device("cpu")
FOURS = (*SMALL, "--batch_size", 4)
DISTIL = ("--distill_threshold", 0.01, "--unlabelled_threshold", 0.05)
# These flags turn on everything that a run keeps from epoch to epoch: the optimiser's state, averaged weights,
# augmentation, repeats, merged labels, Dice. Epochs 2 and 3 are validated.
FULL = (
    *(*FOURS, *DISTIL, "--self_distill_epoch", 2, "--epochs", 3, "--save_every", 2, "--ema", 0.5),
    *("--augment_from_epoch", 2, "--repeat_rare", 0.5, "--dice_from_epoch", 3),
)
RUN = Path("checkpoints/deeplab")


@pytest.fixture(scope="module")
def full(sample_dataset):
    """FULL with its folders, of which one has no masks."""
    return "--dataset_dir", sample_dataset, *FULL, "--unlabelled_dir", sample_dataset / "test_image"


@pytest.fixture(scope="module")
def reference(full, tmp_path_factory):
    """The folder of an uninterrupted run of FULL, seed 0. Tests must not change it."""
    folder, printed = tmp_path_factory.mktemp("reference"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        call(main_deeplab, *full)
    assert "deeplabv3plus_mobilenet_slim: 1,345,059 parameters; 8 training and 5 validation" in printed.getvalue()
    assert [path.name for path in folder.iterdir()] == ["checkpoints"]
    return folder / RUN


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def copied(reference, here):
    """A working directory with a copy of the reference run."""
    shutil.copytree(reference, RUN)
    return here


def masks(folder):
    """Return {stem: pixels as bytes}; the files also say what made them."""
    return {path.stem: read_mask(path).tobytes() for path in folder.iterdir()}


def read_log(run_dir=RUN):
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
    """Assert equal files and contents, except for times."""
    files, others = contents(run_dir), contents(reference)
    assert files.keys() == others.keys()
    for name in files:
        if name.endswith(".pt"):
            assert_identical(load(run_dir / name), load(reference / name))
        elif name.startswith("merged_labels"):
            assert files[name] == others[name]
    times = dict.fromkeys(("seconds", "images_per_second", "data_wait"), 0)
    lines = [[{**line, **times} for line in read_log(each)] for each in (run_dir, reference)]
    assert lines[0] == lines[1]


def assert_was_validated(checkpoint, line, dataset, flags):
    """Assert that the model of a checkpoint has the scores of a line of the log."""
    model, args = checkpoints.load_model(checkpoint), parse(main_deeplab, *flags)
    loss, scores = validate_epoch(args, line["epoch"], model, find_pairs(dataset, "val"), CPU)
    np.testing.assert_array_equal(scores.iou, line["IoU"])
    assert loss == pytest.approx(line["val_loss"], rel=1e-6) and scores.miou == line["mIoU"]


# A whole run.


def test_a_run_writes_the_documented_files_and_no_other(reference):
    expected = [f"Deeplab_checkpoint_epoch_{epoch}.pt" for epoch in (2, 3)]
    expected += ["best.pt", "last.pt", "previous.pt", "log.jsonl", "training_loss_plot.png"]
    stems = [f"train_{index:04d}" for index in range(8)] + [f"test_{index:04d}" for index in range(2)]
    assert sorted(contents(reference)) == sorted(expected + [f"merged_labels/{stem}.png" for stem in stems])


def test_log_has_a_line_per_epoch(reference):
    log, args = read_log(reference), parse(main_deeplab, *FULL)
    always = {"epoch", "learning_rate", "train_loss", "images_per_second", "data_wait", "seconds"}
    assert [line["epoch"] for line in log] == [1, 2, 3]
    for line in log:
        validated = {"val_loss", "mIoU", "macro_F1", "IoU"} if line["epoch"] > 1 else set()
        assert set(line) == always | validated
        assert line["learning_rate"] == learning_rate(args, line["epoch"])
        assert math.isfinite(line["train_loss"]) and line["train_loss"] > 0 and line["seconds"] > 0
        assert line["images_per_second"] > 8 / line["seconds"] and 0 < line["data_wait"] < 1
        if validated:
            assert len(line["IoU"]) == 19 and line["mIoU"] == pytest.approx(np.nanmean(line["IoU"]))


def test_checkpoints_rebuild_the_averaged_model_that_was_validated(sample_dataset, reference):
    log = read_log(reference)
    for epoch in (2, 3):
        path = reference / f"Deeplab_checkpoint_epoch_{epoch}.pt"
        assert_was_validated(path, log[epoch - 1], sample_dataset, FULL)
    best, last = load(reference / "best.pt"), load(reference / "last.pt")
    assert best["mIoU"] == log[best["epoch"] - 1]["mIoU"] == max(line.get("mIoU", -1) for line in log)
    assert_identical(load(path)["state_dict"], last["state_dict"])
    assert not torch.equal(*(last[name]["classifier.bias"] for name in ("state_dict", "trained_state_dict")))


@pytest.mark.slow
def test_same_seed_same_bits_whatever_reads_the_pairs(full, reference, here, monkeypatch):
    """With pictures of the validation, too, which must change nothing. After relabelling, the merged masks are read."""
    read, given = main_deeplab.read_training_set, []
    monkeypatch.setattr(main_deeplab, "read_training_set", lambda *args: given.append(args[1]) or read(*args))
    call(main_deeplab, *full, "--save_visualizations", "--cache", "off", "--workers", 2)
    folders = [{mask.parent.name for _, _, mask in pairs} for pairs in given]
    assert folders == [{"train_mask"}, {"merged_labels"}] and [len(pairs) for pairs in given] == [8, 10]
    pictures = RUN / "visualizations"
    assert sorted(path.name for path in pictures.iterdir()) == [f"val_{index:04d}.png" for index in range(5)]
    shutil.rmtree(pictures)
    assert_same_run(RUN, reference)


def relabel(sample_dataset, checkpoint):
    """Run generate_labels.py on the training pairs and the photographs without masks; return its `masks`."""
    train = sample_dataset / "train"
    flags = ("--image_dir", train / "train_image", "--label_dir", train / "train_mask", "--threshold", 0.01)
    flags += ("--unlabelled_dir", sample_dataset / "test_image", "--unlabelled_threshold", 0.05, "--batch_size", 4)
    call(generate_labels, "--checkpoint", checkpoint, *flags, *SMALL, "--output_dir", "by_hand", "--colored_dir", "c")
    return masks(Path("by_hand"))


def test_self_distillation_in_one_run_merges_as_generate_labels_does(sample_dataset, reference, here):
    """With a validation at epoch 2 the checkpoint of that epoch is the model that relabels. The files say what made
    them, else they would pass for a data set's own masks, which nothing overwrites."""
    merged = reference / "merged_labels"
    assert masks(merged) == relabel(sample_dataset, reference / "Deeplab_checkpoint_epoch_2.pt")
    assert any(masks(merged)[stem] != given for stem, given in masks(sample_dataset / "train/train_mask").items())
    assert {read_maker(path) for path in merged.iterdir()} == {"self-distillation after epoch 2"}


def test_training_starts_from_the_weights_and_merged_labels_it_is_given(sample_dataset, reference, here, refusal):
    start = ("--dataset_dir", sample_dataset, *FOURS, "--epochs", 1, "--unlabelled_dir", sample_dataset / "test_image")
    assert "--unlabelled_dir: needs --self_distill_epoch, or a --label_dir" in refusal(main_deeplab, *start)
    given = ("--load_model_path", reference / "best.pt", "--label_dir", reference / "merged_labels")
    call(main_deeplab, *start, *given, "--learning_rate", 0)
    before, after = load(reference / "best.pt")["state_dict"], load(RUN / "last.pt")["state_dict"]
    weights = [key for key in before if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(before[key], after[key]) for key in weights)
    assert not torch.equal(before["stride2.0.1.running_mean"], after["stride2.0.1.running_mean"])


@pytest.mark.slow
def test_training_learns(sample_dataset, here):
    # The default network's BatchNorm statistics need more steps than this to follow its weights.
    flags = split("--model_type deeplabv3plus_mobilenet --epochs 9 --ema 0.5 --save_every 1 --schedule constant")
    flags += split("--warmup_epochs 0 --augment none --repeat_rare 0 --dice_weight 0")
    call(main_deeplab, "--dataset_dir", sample_dataset, *FOURS, *flags)
    log = read_log()
    assert log[-1]["train_loss"] < 0.6 * log[0]["train_loss"]
    # On 8 pictures the validation loss soon rises again.
    assert min(line["val_loss"] for line in log) < 0.75 * log[0]["val_loss"]
    assert log[-1]["mIoU"] > 2 * log[0]["mIoU"]


# Resuming and starting over.


def train_in_child(folder, flags, dies_before_file):
    """Train, but die by SIGKILL when the n-th file is complete and about to be moved to its place."""
    os.chdir(folder)
    replace, numbers = Path.replace, count(1)

    def replace_or_die(path, target):
        if next(numbers) == dies_before_file:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = replace_or_die
    call(main_deeplab, *flags)


@pytest.mark.slow
def test_killed_between_files_and_resumed_equals_the_uninterrupted_run(full, reference, here, monkeypatch):
    """It is killed between any two kinds of files. A fork that has imported everything starts fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_training", "torch._dynamo"])
    epochs, has_last = [], []
    moments = (
        2,  # epoch 1 is logged without last.pt, so the run starts again
        6,  # epoch 2 is logged and plotted and has its checkpoint, but no best.pt
        9,  # epoch 2 is complete, two of ten labels are merged
        13,  # all labels are merged and their folder is there, epoch 3 is logged, but nothing more
        None,
    )
    monkeypatch.setenv("PYTHONPATH", f"{SCRIPT.parent}:{Path(__file__).parent}")  # for the server
    for file in moments:
        resume = ["--resume"] if any((RUN / name).exists() for name in STATES) else []
        process = context.Process(target=train_in_child, args=(here, [*full, *resume], file))
        process.start()
        process.join(120)
        assert process.exitcode == (-signal.SIGKILL if file else 0)
        epochs.append(len(read_log()))
        has_last.append((RUN / "last.pt").exists())
    assert epochs == [1, 2, 2, 3, 3] and has_last == [False, True, True, True, True]
    assert_same_run(RUN, reference)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", r"checkpoints/deeplab: holds a run; --resume continues it, another --save_prefix"),
        ("--resume", r"last\.pt: has 3 epochs already; give more --epochs"),
        ("--resume --epochs 4 --ema 0", r"last\.pt: the run began with --ema 0\.5 \(now 0\.0\)"),
        ("--resume --epochs 4 --save_prefix new", r"checkpoints/new/last\.pt: nothing to resume"),
    ],
)
def test_starting_over_and_resuming_another_run_are_refused_and_lose_nothing(full, copied, refusal, flags, message):
    assert re.search(message, refusal(main_deeplab, *full, *flags.split()))


def test_a_second_run_in_the_same_folder_is_refused(sample_dataset, here, refusal):
    RUN.mkdir(parents=True)
    with locked(RUN):  # as a run does
        message = refusal(main_deeplab, "--dataset_dir", sample_dataset, *FOURS)
    assert "checkpoints/deeplab: another run is writing there; wait for its end, or give another" in message


def test_a_finished_run_goes_on(full, copied, reference, refusal, capsys):
    """Also after it diverged, which saves nothing, and with a log whose later lines are of a state that was not saved.
    A log that begins later was lost before."""
    flags, log = (*full, "--resume", "--epochs", 4), RUN / "log.jsonl"
    log.write_text(log.read_text() + '{"epoch": 4, \n')
    message = refusal(main_deeplab, *flags, "--learning_rate", 1e30)
    assert "epoch 4: the training diverged; lower --learning_rate; last.pt holds the state before" in message
    call(main_deeplab, *flags, "--learning_rate", 1e-4)
    assert "--learning_rate was 0.001, is 0.0001" in capsys.readouterr().out
    assert read_log()[:3] == read_log(reference) and [line["epoch"] for line in read_log()[3:]] == [4]
    assert contents(RUN).keys() - contents(reference).keys() == {"Deeplab_checkpoint_epoch_4.pt"}
    log.write_text('{"epoch": 5, "train_loss": 1}\n')
    call(main_deeplab, *full, "--resume", "--epochs", 5)
    assert [line["epoch"] for line in read_log()] == [5]


def test_a_break_in_the_epoch_loop_stops_early(sample_dataset, here, capsys, monkeypatch):
    """Before the first validation, too."""
    run_epochs = main_deeplab.run_epochs
    monkeypatch.setattr(main_deeplab, "run_epochs", lambda *args: islice(run_epochs(*args), 1))
    call(main_deeplab, "--dataset_dir", sample_dataset, *FOURS)
    assert len(read_log()) == 1 and load(RUN / "last.pt")["epoch"] == 1
    assert "macro" not in capsys.readouterr().out


@pytest.mark.slow
def test_fp16_with_a_scaled_loss_resumes_bit_for_bit(sample_dataset, here, monkeypatch):
    """On the CPU in place of a GPU without bf16. The first steps overflow, so the scale is part of the state."""
    monkeypatch.setattr(optimisation, "autocast_dtype", lambda device, float32: torch.float16)
    flags = ["--dataset_dir", sample_dataset, *FOURS, *split("--learning_rate 1e-4 --ema 0.5")]
    flags += split("--schedule constant --warmup_epochs 0")  # else the second epoch would depend on --epochs
    call(main_deeplab, *flags, "--epochs", 2, "--save_prefix", "whole")
    call(main_deeplab, *flags, "--epochs", 1)
    call(main_deeplab, *flags, "--epochs", 2, "--resume")
    last = load(RUN / "last.pt")
    assert_identical(last, load("checkpoints/whole/last.pt") | {"best_miou": last["best_miou"]})
    assert 1 <= last["scaler"]["scale"] < 65536 or last["scaler"]["_growth_tracker"] > 0
    assert all(math.isfinite(line["train_loss"]) for line in read_log())


def test_log_stays_json_if_a_class_has_no_score(tmp_path):
    write_log(tmp_path / "log.jsonl", [{"epoch": 1, "IoU": [math.nan, 0.5]}])
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"epoch": 1, "IoU": [None, 0.5]}


# Several processes.


def train_and_resume(rank, folder, flags):
    os.chdir(folder)
    for more in (["--epochs", 2], ["--epochs", 3, "--resume"]):
        main_deeplab.train(parse(main_deeplab, *flags, *more), CPU, RUN)
        distributed.barrier()  # the first process has saved the state


@pytest.mark.slow
def test_two_processes_train_distil_resume_and_validate_as_one(sample_dataset, here, capfd):
    flags = ("--dataset_dir", sample_dataset, *FOURS, *DISTIL, "--save_every", 1, "--ema", 0.5)
    flags += ("--self_distill_epoch", 1, "--unlabelled_dir", sample_dataset / "test_image")
    RUN.mkdir(parents=True)
    in_two_processes(train_and_resume, here, flags)
    out = capfd.readouterr().out
    assert out.count("epochs 1 to 2") == out.count("pixels changed") == out.count("epochs 3 to 3") == 1
    assert [line["epoch"] for line in read_log()] == [1, 2, 3]
    assert masks(RUN / "merged_labels") == relabel(sample_dataset, RUN / "Deeplab_checkpoint_epoch_1.pt")
    # Two processes share five photographs. Each counts once, and the weights saved are those that were validated.
    for line in read_log():
        assert_was_validated(RUN / f"Deeplab_checkpoint_epoch_{line['epoch']}.pt", line, sample_dataset, flags)


@pytest.mark.slow
def test_a_damaged_photograph_of_one_of_torchruns_processes_ends_all_and_is_one_line(place):
    """The other process waits for this one's gradients, and must neither wait for ever nor print a traceback."""
    os.truncate("dataset/train/train_image/train_0003.jpg", 500)
    command = [sys.executable, *split("-m torch.distributed.run --standalone --nproc_per_node 2"), SCRIPT]
    command += map(str, ["--dataset_dir", "dataset", *FOURS, "--cache", "off"])
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            err = process.communicate(timeout=300)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the launcher alone would leave its processes
            raise
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    # The other process says that it lost the connection, if torchrun does not end it before that.
    others = [line for line in lines if "train_0003.jpg: not a readable image" not in line]
    assert process.returncode == 1 and len(lines) - len(others) == 1 and len(others) <= 1
    assert all(line.startswith("error: process 0: lost the connection") for line in others)
    assert 'main_deeplab.py",' not in err  # no traceback but torchrun's own


# An epoch.


def set_up(sample_dataset, *flags):
    """Return (state, the training set of 8 pairs) for `train_one_epoch`."""
    args = parse(main_deeplab, *FOURS, *flags)
    pairs = find_pairs(sample_dataset, "train")
    state = main_deeplab.build_training(args, CPU, CELEBAMASK)
    return state, main_deeplab.read_training_set(args, pairs, CELEBAMASK, CPU)


def test_an_epoch_trains_by_its_flags(sample_dataset, monkeypatch):
    """At the rate of its warm-up or schedule, augmented from the epoch that the flag names."""
    augment, modes, rates = main_deeplab.augment, [], []
    monkeypatch.setattr(main_deeplab, "augment", lambda *given: modes.append(given[2]) or augment(*given))
    state, training_set = set_up(sample_dataset, *split("--batch_size 8 --learning_rate 0.02 --augment_from_epoch 2"))
    for epoch in (1, 2):
        line = main_deeplab.train_one_epoch(state, epoch, state.model, training_set, CPU)
        rates.append((line["learning_rate"], state.optimizer.param_groups[0]["lr"]))
    assert rates == [(0.01, 0.01), (0.02, 0.02)] and modes == ["none", "full"]


def test_frozen_layers_keep_weights_and_statistics(sample_dataset, refusal):
    state, training_set = set_up(sample_dataset, *split("--batch_size 8 --freeze_early"))
    before = {key: value.clone() for key, value in state.model.state_dict().items()}
    main_deeplab.train_one_epoch(state, 1, state.model, training_set, CPU)
    changed = {key.split(".")[0] for key, value in state.model.state_dict().items() if not value.equal(before[key])}
    assert changed == {"stride16", "aspp", "project4", "decode4", "reduce", "decode2", "classifier"}
    challenge = ("--dataset_dir", sample_dataset, "--freeze_early", "--model_type", "deeplabv3plus_mobilenet")
    assert "--freeze_early: deeplabv3plus_mobilenet cannot" in refusal(main_deeplab, *challenge)


# Optimisation.


@pytest.mark.parametrize(("name", "weight", "bias"), [("adamw", 1 - 0.1 * 0.3, 1), ("adam", 1 - 0.1, 1 - 0.1)])
def test_weight_decay_worked_out(name, weight, bias):
    """Without a gradient of the loss AdamW takes rate times decay off the weights, and leaves 1-d tensors. To Adam the
    decay is a gradient like any other, and the first step down a gradient is the rate."""
    model = torch.nn.Linear(1, 1)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    args = parse(main_deeplab, "--optimizer", name, "--weight_decay", 0.3)
    optimizer = build_optimizer(args, model)
    set_learning_rate(optimizer, 0.1)
    (0 * (model.weight + model.bias)).sum().backward()
    optimizer.step()
    assert (model.weight.item(), model.bias.item()) == pytest.approx((weight, bias))


def test_a_state_with_other_groups_of_parameters_is_refused():
    adam, adamw = (
        build_optimizer(parse(main_deeplab, "--optimizer", name), torch.nn.Linear(1, 1)) for name in ("adam", "adamw")
    )
    with pytest.raises(InputError, match=r"last.pt: the optimiser does not fit .*; --load_model_path"):
        checkpoints.load_optimizer(adamw, adam.state_dict(), "last.pt")


def test_every_group_has_its_share_of_the_learning_rate():
    optimizer = build_optimizer(parse(main_deeplab), torch.nn.Linear(1, 1))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": 0.1})
    set_learning_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.02, 0.002])


def test_the_challenges_own_command_line():
    args = parse(main_deeplab, *split("--batch_size 32 --epochs 400 --learning_rate 0.001 --gpu_id 2"))
    assert (args.batch_size, args.epochs, args.learning_rate, args.gpu_id) == (32, 400, 0.001, 2)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ("--epochs 100", {1: 1, 26: 0.85355339059, 51: 0.5, 76: 0.14644660941, 100: 0.000246719817}),
        ("--schedule constant --warmup_epochs 1", {1: 0.5, 2: 1, 3: 1, 400: 1}),
        ("--epochs 12 --warmup_epochs 2", {1: 1 / 3, 2: 2 / 3, 3: 1, 8: 0.5, 12: 0.02447174185}),
    ],
)
def test_schedules_against_worked_out_rates(flags, rates):
    args = parse(main_deeplab, "--learning_rate", 1, "--warmup_epochs", 0, *flags.split())
    assert {epoch: learning_rate(args, epoch) for epoch in rates} == pytest.approx(rates, rel=1e-8)


def test_warm_restarts_are_those_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    expected = []
    for _ in range(160):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    args = parse(main_deeplab, "--learning_rate", 0.01, "--schedule", "warm_restarts", "--warmup_epochs", 0)
    assert [learning_rate(args, epoch) for epoch in range(1, 161)] == pytest.approx(expected, rel=1e-9)


def test_averaged_weights_worked_out():
    model = torch.nn.BatchNorm1d(2)
    averaged = AveragedModel(model, decay=0.9)
    ema = averaged.module
    for value, updates, expected in (
        (3.0, 0, 3),  # the first update copies
        (3.0, 5, 2.2),  # decay 6 / 15: 0.4 * 1 + 0.6 * 3
        (3.0, 1000, 1.2),  # decay 0.9, the limit
    ):
        for module, fill in ((model, value), (ema, 1.0)):
            module.weight.data.fill_(fill)
            module.running_mean.fill_(fill)
        averaged.updates = updates
        averaged.update()
        assert ema.weight.tolist() == ema.running_mean.tolist() == pytest.approx([expected] * 2)
        assert model.weight.tolist() == [3, 3] and averaged.updates == updates + 1
    assert not ema.weight.requires_grad
