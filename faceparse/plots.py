"""Plots by matplotlib: drawn without a screen, written whole."""

from contextlib import contextmanager
from pathlib import Path

from faceparse.atomic_files import atomic_path
from faceparse.errors import InputError

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot_name(flag, path):
    """Raise InputError, which names `flag`, for a name that tells no format of plots."""
    if Path(path).suffix not in SUFFIXES:
        raise InputError(f"{flag} {path}: must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


@contextmanager
def plot(*paths, dpi=120, **subplots):
    """Yield what plt.subplots(**subplots) returns; when the block has drawn on it, write it to each path."""
    import matplotlib  # here, because it takes long to load

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(layout="constrained", **subplots)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    try:
        yield figure, axes
        for path in paths:
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=dpi)
    finally:
        plt.close(figure)
