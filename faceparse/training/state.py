"""The state of a training run: what its steps change, how it is kept, and what continues it."""

from argparse import Namespace
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from faceparse.data.layout import is_within, split_folders
from faceparse.errors import InputError, counted
from faceparse.inference import checkpoints
from faceparse.training import distributed
from faceparse.training.optimisation import AveragedModel, Precision
from faceparse.training.teachers import Teachers

# The flags that may differ between a run and its --resume.
FREE_ON_RESUME = {
    "resume",
    "epochs",
    "learning_rate",
    "batch_size",
    "dataset_dir",
    "label_dir",
    "truth_dir",
    "cache",
    "gpu_id",
    "workers",
    "compile",
    "cuda_graphs",
    "save_every",
    "save_steps",
    "save_visualizations",
    "logger",
    "load_model_path",
    "load_not_strict",
    "save_prefix",
    "classes",
    "unlabelled_dir",
    "partial_masks",
}
STATES = ("last.pt", "previous.pt")  # what --resume reads: the first of them, or the second where that is damaged
STATE_FIELDS = {
    "args": dict,
    "epoch": int,
    "optimizer": dict,
    "trained_state_dict": dict,
    "averaged_steps": int,
    "best_miou": float,
}
STEP_FIELDS = {"step": int, "processes": list}  # of a state within an epoch, in which
PROCESS_FIELDS = {"loss_sum": float, "trained_buffers": dict, "buffers": dict}  # each process has these


@contextmanager
def unchanged_buffers(model):
    """Give a model's buffers, which are the statistics of BatchNorm, their values back after the block."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    for buffer, before in buffers:
        buffer.copy_(before)


@dataclass
class TrainingState:
    """All that a step of training changes, its teachers, and the flags `args` of main_deeplab.py."""

    args: Namespace
    model: nn.Module
    ema: AveragedModel | None  # None without --ema
    optimizer: Optimizer
    precision: Precision
    teachers: Teachers | None = None  # these do not change
    best_miou: float = -1.0  # of best.pt

    @property
    def evaluated(self):
        """The network that is validated and saved: the average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def content(self, epoch):
        """Return what every checkpoint of a run holds, `state_dict` that of `evaluated`."""
        content = checkpoints.describe(self.args.model_type, self.model.class_set, self.evaluated.state_dict())
        return content | {"epoch": epoch, "image_size": self.args.image_size}

    def save(self, run_dir, epoch, **within_epoch):
        """Write all that --resume needs; `epoch` is the last that is complete."""
        state = {
            "args": vars(self.args),
            "trained_state_dict": self.model.state_dict(),
            "averaged_steps": 0 if self.ema is None else self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.state_dict(),
            "best_miou": self.best_miou,
        }
        path, before = (run_dir / name for name in STATES)
        checkpoints.save(path, self.content(epoch) | state | within_epoch, keep=before)

    def save_within_epoch(self, run_dir, epoch, step, loss_sum):
        """Write the state after a step. Within an epoch each process has its own losses and BatchNorm statistics."""
        own = {"loss_sum": loss_sum}
        for name, network in (("trained_buffers", self.model), ("buffers", self.evaluated)):
            own[name] = {key: buffer.cpu() for key, buffer in network.named_buffers()}
        processes = distributed.from_all(own)
        if distributed.rank() == 0:
            self.save(run_dir, epoch - 1, step=step, processes=processes)

    def load(self, path, saved):
        """Continue from what `read_newest` returned."""
        checkpoints.load_weights(self.evaluated, saved["state_dict"], path)
        checkpoints.load_weights(self.model, saved["trained_state_dict"], path)
        if self.ema is not None:
            self.ema.updates = saved["averaged_steps"]
        checkpoints.load_optimizer(self.optimizer, saved["optimizer"], path)
        self.precision.load_state_dict(saved.get("scaler"))
        self.best_miou = saved["best_miou"]

    def enter_epoch(self, path, saved):
        """Give this process its own statistics back; return where the epoch continues: first_step and loss_sum."""
        count = len(saved["processes"])
        if count != distributed.world_size() and distributed.rank() == 0:
            before, now = counted(count, "process"), distributed.world_size()
            print(f"{before} before, {now} now: from here on the run differs from an uninterrupted one")
        own = saved["processes"][distributed.rank() % count]
        for network, buffers in ((self.model, own["trained_buffers"]), (self.evaluated, own["buffers"])):
            checkpoints.load_weights(network, network.state_dict() | buffers, path)
        steps_per_saved_step = saved["args"]["batch_size"] / self.args.batch_size  # the batch size may have changed
        return {
            "first_step": int(saved["step"] * steps_per_saved_step),
            "loss_sum": own["loss_sum"] * steps_per_saved_step,
        }


def read_newest(args, run_dir, class_set):
    """Return (path, state) of the newest whole state of a run; InputError as `check_flags`, and where none is whole."""
    path, before = (run_dir / name for name in STATES)
    try:
        content = checkpoints.unpickle(path)
    except InputError as error:
        if not before.exists():
            raise
        if distributed.rank() == 0:
            print(f"{error}; resuming from {before}, the state before it")
        path, content = before, None
    saved = checkpoints.read_checkpoint(path, class_set, content)
    check_flags(args, path, saved)
    forget_score_on_other_truth(args, saved)
    return path, saved


def check_flags(args, path, saved):
    """Raise InputError where `saved` is no state, where the flags would make it another run, or it is complete."""
    wrong = lacking(saved, STATE_FIELDS)
    if "step" in saved:
        wrong += lacking(saved, STEP_FIELDS)
        wrong += [name for each in saved.get("processes") or () for name in lacking(each, PROCESS_FIELDS)]
    if wrong:
        raise InputError(
            f"{path}: not written by this version of main_deeplab.py, lacks {', '.join(sorted(set(wrong)))}"
        )
    changed = [
        f"--{name} {value} (now {getattr(args, name, None)})"
        for name, value in ({"teacher": []} | saved["args"]).items()  # older states had none
        if name not in FREE_ON_RESUME and value != getattr(args, name, None)
    ]
    if changed:
        raise InputError(f"{path}: the run began with {', '.join(changed)}; --resume takes the same flags")
    label_dir = saved["args"].get("label_dir")
    if 0 < args.self_distill_epoch <= saved["epoch"] and not same_folder(args.label_dir, label_dir):
        raise InputError(
            f"--label_dir {args.label_dir}: self-distillation has merged the labels of {label_dir} already; give the "
            "same, or start a new run by another --save_prefix"
        )
    if saved["epoch"] >= args.epochs:
        raise InputError(f"{path}: has {counted(saved['epoch'], 'epoch')} already; give more --epochs to continue")
    for name in ("learning_rate", "batch_size", *(["epochs"] if args.schedule == "cosine" else [])):
        before, now = saved["args"].get(name), getattr(args, name)
        if now != before and distributed.rank() == 0:
            print(f"--{name} was {before}, is {now}: from here on the run differs from an uninterrupted one")


def forget_score_on_other_truth(args, saved):
    """Where a state was validated on other masks, its best score cannot be compared with those to come."""
    before, now = (truth_folder(flags) for flags in (saved["args"], vars(args)))
    if not same_folder(before, now):
        saved["best_miou"] = -1.0
        if distributed.rank() == 0:
            print(f"the truth was {before}, is {now}: best.pt starts anew")


def lacking(content, fields):
    """Return the names of {name: type} that a value from a file lacks."""
    return [
        name
        for name, kind in fields.items()
        if not isinstance(content, dict) or not isinstance(content.get(name), kind)
    ]


def truth_folder(flags):
    """Return the folder of the truth, relative to the data set's where it lies in it, since data sets are moved."""
    dataset_dir = flags.get("dataset_dir", "")
    truth_dir = flags.get("truth_dir") or split_folders(dataset_dir, "val")[1]
    if is_within(truth_dir, dataset_dir):
        return Path(truth_dir).resolve().relative_to(Path(dataset_dir).resolve())
    return truth_dir


def same_folder(one, other):
    return one == other or (one and other and Path(one).resolve() == Path(other).resolve())
