"""The log of a training run, a JSON line an epoch, and its plot."""

import json
import math

from faceparse.data.drawing import plot
from faceparse.errors import InputError
from faceparse.files import atomic_path


def draw_runs(path, runs):
    """Draw {name: log}, losses and validation mIoU of all epochs, a colour a run, and write the picture to `path`."""
    with plot(path, ncols=2, figsize=(12, 5)) as (_, (losses, scores)):
        for index, (name, log) in enumerate(runs.items()):
            validated = [line for line in log if "mIoU" in line]
            colour = f"C{index}"
            for axes, lines, value, style in (
                (losses, log, "train_loss", "-"),
                (losses, validated, "val_loss", ".--"),  # the dots show runs that were validated once
                (scores, validated, "mIoU", ".-"),
            ):
                # JSON has no NaN: what diverged is null, and leaves a gap.
                values = [math.nan if line[value] is None else line[value] for line in lines]
                label = "" if value == "val_loss" else name
                axes.plot([line["epoch"] for line in lines], values, style, color=colour, label=label)
        losses.set(xlabel="epoch", ylabel="loss: training, validation dashed")
        scores.set(xlabel="epoch", ylabel="validation mIoU")
        losses.legend()


def parsed_epoch(text):
    """Return the dict of a log's line, None if it is not that of an epoch. In it None stands for NaN."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or type(line.get("epoch")) is not int:
        return None
    names = ("train_loss", "mIoU", "val_loss") if "mIoU" in line else ("train_loss",)
    return line if all(isinstance(line.get(name, ""), int | float | None) for name in names) else None


def read_log(path, last_epoch=math.inf):
    """Return the lines up to `last_epoch`, which is resumed; what was logged after it was not saved.

    A missing file has no lines, nor has one that begins later. Raises InputError if a line up to there is damaged or
    missing; with an infinite `last_epoch` the last line may be cut off.
    """
    if not path.exists():
        return []
    way_on = "" if math.isinf(last_epoch) else "; restore the file, or resume without it"
    lines, texts = [], path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, text in enumerate(texts, start=1):
        line = parsed_epoch(text)
        if line is None:
            if math.isinf(last_epoch) and number == len(texts) and not text.endswith("}"):
                break
            raise InputError(f"{path}: line {number} is not an epoch's log entry{way_on}")
        if line["epoch"] <= last_epoch:
            lines.append(line)
        if line["epoch"] >= last_epoch:
            return lines
    if not math.isinf(last_epoch):
        raise InputError(f"{path}: lacks epoch {last_epoch}{way_on}")
    return lines


def write_log(path, log):
    """Write null for NaN, which JSON does not have. A class absent from the whole set has NaN as its IoU."""
    log = json.loads(json.dumps(log), parse_constant=lambda nan: None)
    with atomic_path(path, durable=True) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in log))
