"""Fixtures that several test files share.

All tests but those of test_cuda.py run on the CPU, and in one thread, because the number of threads may change the last
bits. Their pictures are so small that more threads would only wait for each other.
"""

import os

import pytest

# Before anything imports torch. Processes that the tests start inherit these.
os.environ.setdefault("TEST_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))  # for test_cuda.py
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"

from tools.make_sample_dataset import make_sample_dataset


@pytest.fixture(scope="session")
def sample_dataset(tmp_path_factory):
    """Path of a drawn data set: 8 train and 5 val pairs, 2 test photographs, 64 px. Tests must not change it."""
    return make_sample_dataset(
        tmp_path_factory.mktemp("sample") / "dataset", train=8, val=5, test=2, image_size=64, seed=0
    )
