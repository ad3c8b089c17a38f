"""Where a training's log goes besides log.jsonl: TensorBoard, or Weights & Biases. A further logger goes here.

Their packages are optional, in requirements-loggers.txt, and imported only where they are asked for.
"""

import importlib
import math

from faceparse.errors import InputError, first_line

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def import_logger(kind):
    """Return the module of a logger; InputError where its package is missing."""
    try:
        return importlib.import_module(PACKAGES[kind])
    except ImportError:
        raise InputError(f"--logger {kind}: the package is missing; pip install {kind}") from None


def open_logger(kind, run_dir, log, first_epoch, flags, class_set):
    """Return a function that sends a line of the log to the logger; it does nothing where `kind` is None.

    log: the earlier lines of a resumed run, which continues with `first_epoch`; flags: {name: value} of the run.
    """
    if kind is None:
        return lambda line: None
    send = {"tensorboard": open_tensorboard, "wandb": open_wandb}[kind](run_dir, log, first_epoch, flags, class_set)
    return lambda line: send(scalars(line, class_set), line["epoch"])


def open_tensorboard(run_dir, log, first_epoch, flags, class_set):
    """Write into RUN/tensorboard; of a resumed run, what was written for the epochs to come is hidden."""
    writer = import_logger("tensorboard").SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_epoch)
    writer.add_text("flags", "\n".join(f"    {name}: {value}" for name, value in flags.items()), first_epoch)

    def send(values, epoch):
        for name, value in values.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    return send


def open_wandb(run_dir, log, first_epoch, flags, class_set):
    """Start a run of this name; a resumed run is a new one in the same group, which gets the earlier lines too."""
    try:
        run = import_logger("wandb").init(
            project="face-parser", name=run_dir.name, group=run_dir.name, dir=str(run_dir), config=flags
        )
    except InputError:
        raise
    except Exception as error:  # no account, no connection: wandb has many errors
        raise InputError(f"--logger wandb: {first_line(error)}; WANDB_MODE=offline needs no account") from None
    for line in log:
        run.log(scalars(line, class_set), step=line["epoch"])
    return lambda values, epoch: run.log(values, step=epoch)


def scalars(line, class_set):
    """Return {name: number} of a line of the log, with an entry for each class's IoU and none for what has no value."""
    values = {name: value for name, value in line.items() if name not in ("epoch", "IoU")}
    values |= {f"IoU/{name}": iou for name, iou in zip(class_set.names, line.get("IoU", []), strict=False)}
    return {name: value for name, value in values.items() if value is not None and not math.isnan(value)}
