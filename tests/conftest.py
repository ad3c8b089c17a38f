"""Fixtures that several test files share.

All tests but those of test_cuda.py run on the CPU, and in one thread, because the number of threads may change the last
bits. Their pictures are so small that more threads would only wait for each other. The fixtures import what they need,
because the process that hands out the tests reads this file too, and would load PyTorch for nothing.
"""

import os
import shutil
from pathlib import Path

import pytest

# Before anything imports torch. Processes that the tests start inherit these.
os.environ.setdefault("TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))  # for test_cuda.py
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"  # which pymatting sets for torch, too

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def sample_dataset(tmp_path_factory):
    """Path of a drawn data set: 8 train and 5 val pairs, 2 test photographs, 64 px. Tests must not change it."""
    from tools.make_sample_dataset import make_sample_dataset

    return make_sample_dataset(
        tmp_path_factory.mktemp("sample") / "dataset", train=8, val=5, test=2, image_size=64, seed=0
    )


@pytest.fixture(scope="session", autouse=True)
def no_plots():
    """Without the plot of the losses after each validation, half of a small run's time. test_plot_runs.py draws it."""
    import main_deeplab

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_deeplab, "draw_runs", lambda path, runs: path.touch())
        yield


@pytest.fixture
def place(sample_dataset, tmp_path, monkeypatch):
    """A working directory with dataset/, which a test may damage, and the checkpoint model.pt."""
    import torch
    from helpers import checkpoint_content

    shutil.copytree(sample_dataset, tmp_path / "dataset")
    torch.save(checkpoint_content(), tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(capsys, tmp_path, monkeypatch):
    from helpers import call, contents, the_error

    from faceparse.errors import run_script

    def refused(script, *flags):
        """Run a script's main as its command line does; return the line of its error, whose exit status is 2.

        `script` may be any function without arguments. No file of the working directory may appear or change.
        """
        if Path.cwd() == ROOT:  # which may hold gigabytes, a virtual environment for one
            monkeypatch.chdir(tmp_path)
        before = contents(Path.cwd())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_script(script if callable(script) else lambda: call(script, *flags))
        assert ended.value.code == 2
        assert contents(Path.cwd()) == before
        return the_error(capsys.readouterr().err)

    return refused
