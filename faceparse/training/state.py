"""The state of a training run: what its steps change, how it is kept, and what continues it."""

from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from faceparse.data.classes import Targets, read_extra_classes
from faceparse.data.layout import is_within, split_folders
from faceparse.errors import InputError, counted
from faceparse.inference import checkpoints
from faceparse.training import distributed
from faceparse.training.optimisation import AveragedModel, Precision

# The flags that may differ between a run and its --resume.
FREE_ON_RESUME = {
    *("resume", "epochs", "learning_rate", "batch_size", "save_every", "save_visualizations", "save_prefix"),
    *("dataset_dir", "label_dir", "truth_dir", "unlabelled_dir", "extra_dir", "classes", "cache", "gpu_id", "workers"),
    *("cuda_graphs", "pretrained", "load_model_path", "load_not_strict"),
}
STATES = ("last.pt", "previous.pt")  # what --resume reads: the first of them, or the second if that is damaged
STATE_FIELDS = ("args", "epoch", "optimizer", "trained_state_dict", "averaged_steps", "best_miou")


@dataclass
class TrainingState:
    """All that a step of training changes, and the flags `args` of main_deeplab.py."""

    args: Namespace
    model: nn.Module
    ema: AveragedModel | None  # None without --ema
    optimizer: Optimizer
    precision: Precision
    best_miou: float = -1.0  # of best.pt

    @cached_property
    def targets(self):
        """The ids that the masks of --dataset_dir and --extra_dir have in training."""
        return Targets(self.model.class_set, [read_extra_classes(folder) for folder in self.args.extra_dir])

    @property
    def evaluated(self):
        """The network that is validated and saved: the average if there is one."""
        return self.model if self.ema is None else self.ema.module

    def content(self, epoch):
        """Return what every checkpoint of a run holds, `state_dict` that of `evaluated`."""
        content = checkpoints.describe(self.args.model_type, self.model.class_set, self.evaluated.state_dict())
        return content | {"epoch": epoch, "image_size": self.args.image_size}

    def save(self, run_dir, epoch):
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
        checkpoints.save(path, self.content(epoch) | state, keep=before)

    def load(self, path, saved):
        """Continue from what `read_newest` returned."""
        checkpoints.load_weights(self.evaluated, saved["state_dict"], path)
        checkpoints.load_weights(self.model, saved["trained_state_dict"], path)
        if self.ema is not None:
            self.ema.updates = saved["averaged_steps"]
        checkpoints.load_optimizer(self.optimizer, saved["optimizer"], path)
        self.precision.load_state_dict(saved.get("scaler"))
        self.best_miou = saved["best_miou"]


def read_newest(args, run_dir, class_set):
    """Return (path, state) of the newest whole state of a run; InputError as `check_flags`, and if none is whole."""
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
    before, now = (truth_folder(flags) for flags in (saved["args"], vars(args)))
    if not same_folder(before, now):
        saved["best_miou"] = -1.0  # scores on other masks cannot be compared
        if distributed.rank() == 0:
            print(f"the truth was {before}, is {now}: best.pt starts anew")
    return path, saved


def check_flags(args, path, saved):
    """Raise InputError if `saved` is not a state, if the flags would make it another run, or if it is complete."""
    missing = [name for name in STATE_FIELDS if name not in saved]
    if missing:
        way_on = "so it cannot be resumed; --load_model_path starts a new run from it"
        raise InputError(f"{path}: it lacks {', '.join(missing)}, {way_on}")
    before = saved["args"]
    changed = [
        f"--{name} {value} (now {getattr(args, name, None)})"
        for name, value in before.items()
        if name not in FREE_ON_RESUME and value != getattr(args, name, None if value else value)
    ]
    if changed:
        raise InputError(f"{path}: the run began with {', '.join(changed)}; --resume takes the same flags")
    label_dir = before.get("label_dir")
    if 0 < args.self_distill_epoch <= saved["epoch"] and not same_folder(args.label_dir, label_dir):
        reason = f"self-distillation has merged the labels of {label_dir} already"
        raise InputError(
            f"--label_dir {args.label_dir}: {reason}; give the same, or start anew by another --save_prefix"
        )
    if saved["epoch"] >= args.epochs:
        raise InputError(f"{path}: has {counted(saved['epoch'], 'epoch')} already; give more --epochs to continue")
    for name in ("learning_rate", "batch_size", *(["epochs"] if args.schedule == "cosine" else [])):
        was, now = before.get(name), getattr(args, name)
        if now != was and distributed.rank() == 0:
            print(f"--{name} was {was}, is {now}: from here on the run differs from an uninterrupted one")


def truth_folder(flags):
    """Return the folder of the truth, relative to the data set's if it lies in it, since data sets are moved."""
    dataset_dir = flags.get("dataset_dir", "")
    truth_dir = flags.get("truth_dir") or split_folders(dataset_dir, "val")[1]
    if is_within(truth_dir, dataset_dir):
        return Path(truth_dir).resolve().relative_to(Path(dataset_dir).resolve())
    return truth_dir


def same_folder(one, other):
    return one == other or (one and other and Path(one).resolve() == Path(other).resolve())
