"""Fixtures that several test files share. No test uses a GPU: they demand equal bits, which only the CPU gives."""

import os

import pytest

os.environ["TEST_GPUS"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")  # for test_cuda.py, which is the exception
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything imports torch

from make_sample_dataset import make_sample_dataset


@pytest.fixture(scope="session")
def sample_dataset(tmp_path_factory):
    """Path of a drawn data set: 8 train and 5 val pairs, 2 test photographs, 64 px. Read it, never change it."""
    return make_sample_dataset(
        tmp_path_factory.mktemp("sample") / "dataset", train=8, val=5, test=2, image_size=64, seed=0
    )
