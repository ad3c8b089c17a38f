"""Fixtures that several test files share. All tests but those of test_cuda.py run on the CPU, to get equal bits."""

import os

import pytest

os.environ["TEST_GPUS"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")  # for test_cuda.py
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything imports torch

from make_sample_dataset import make_sample_dataset


@pytest.fixture(scope="session")
def sample_dataset(tmp_path_factory):
    """Path of a drawn data set: 8 train and 5 val pairs, 2 test photographs, 64 px. Tests must not change it."""
    return make_sample_dataset(
        tmp_path_factory.mktemp("sample") / "dataset", train=8, val=5, test=2, image_size=64, seed=0
    )
