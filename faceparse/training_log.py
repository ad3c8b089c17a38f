"""The log of a training run, a JSON line an epoch, and its plot."""

import json
import math

from faceparse.atomic_files import atomic_path


def save_plot(path, log):
    """Plot the losses and the validation mIoU of all epochs to an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, left = plt.subplots(figsize=(8, 5))
    validated = [line for line in log if "mIoU" in line]
    left.plot([line["epoch"] for line in log], [line["train_loss"] for line in log], label="training loss")
    left.plot([line["epoch"] for line in validated], [line["val_loss"] for line in validated], label="validation loss")
    left.set(xlabel="epoch", ylabel="loss")
    right = left.twinx()
    right.plot(
        [line["epoch"] for line in validated], [line["mIoU"] for line in validated], "k--", label="validation mIoU"
    )
    right.set(ylabel="mIoU", ylim=(0, 1))
    figure.legend(loc="upper center", ncols=3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def read_log(path, last_epoch):
    """Return the lines up to `last_epoch`. An interrupted run may have logged an epoch that it did not save."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:  # the line was cut off while it was written
            break
    return [line for line in lines if line["epoch"] <= last_epoch]


def without_nan(value):
    """Replace NaN, which JSON does not have, by None. A class absent from the whole set has NaN as its IoU."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_log(path, log):
    with atomic_path(path, durable=True) as temporary:
        temporary.write_text("".join(json.dumps(without_nan(line)) + "\n" for line in log))
