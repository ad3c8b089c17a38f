"""The drawn data set: layout, determinism, classes, left and right, and what it refuses."""

import numpy as np
import pytest
from helpers import contents
from PIL import Image

from faceparse.data.classes import CELEBAMASK
from tools import make_sample_dataset as sample

KINDS = (("image", ".jpg"), ("mask", ".png"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small data set: two pairs a split, 64 px."""
    return sample.make_sample_dataset(
        tmp_path_factory.mktemp("made") / "sample", train=2, val=2, test=1, image_size=64, seed=0
    )


def test_pairs_of_the_same_stem_rgb_and_palette_pngs_of_class_ids(dataset):
    names = [f"{split}/{split}_{{}}/{split}_{index:04d}" for split in ("train", "val") for index in range(2)]
    photos, paths = ({f"{name.format(kind)}{suffix}" for name in names} for kind, suffix in KINDS)
    assert set(contents(dataset)) == {"test_image/test_0000.jpg"} | photos | paths
    for name in contents(dataset):
        with Image.open(dataset / name) as image:
            expected = ("PNG", "P", (64, 64)) if name in paths else ("JPEG", "RGB", (64, 64))
            assert (image.format, image.mode, image.size) == expected
            if name in paths:
                assert image.getpalette()[: 3 * 19] == [channel for colour in CELEBAMASK.colours for channel in colour]
                assert np.array(image).max() < 19


@pytest.mark.parametrize("size", [32, 101])
def test_two_pictures_hold_all_classes_whatever_the_seed(size):
    for seed in range(10):
        ids = {int(i) for index in (0, 1) for i in np.unique(sample.draw_face(size, seed, "train", index)[1])}
        assert ids == set(range(len(CELEBAMASK))), f"seed {seed}"


def test_left_is_the_subjects():
    for index in range(3):
        mask = sample.draw_face(64, 0, "val", index)[1]
        for pair in CELEBAMASK.left_right_pairs:
            left, right = (np.nonzero(mask == class_id)[1] for class_id in pair)
            assert not (left.size and right.size) or left.mean() > right.mean(), (index, pair)


def test_a_picture_depends_on_the_seed_alone_not_on_the_counts(dataset, tmp_path):
    more = contents(sample.make_sample_dataset(tmp_path / "more", train=3, val=4, test=2, image_size=64, seed=0))
    assert contents(dataset).items() < more.items()
    assert not np.array_equal(*(sample.draw_face(64, 0, split, 0)[0] for split in ("train", "val")))
    other = contents(sample.make_sample_dataset(tmp_path / "other", train=2, val=2, test=1, image_size=64, seed=1))
    assert all(other[name] != content for name, content in contents(dataset).items())
