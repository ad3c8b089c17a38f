"""The drawn data set: layout, determinism, classes, left and right, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceparse.data.classes import CELEBAMASK
from faceparse.errors import InputError
from tools import make_sample_dataset as sample


def files(root):
    """Return {path relative to root: bytes} of all files below root."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


def masks(root, split):
    return [np.array(Image.open(path)) for path in sorted((root / split / f"{split}_mask").iterdir())]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small data set: two pairs a split, 64 px."""
    return sample.make_sample_dataset(
        tmp_path_factory.mktemp("made") / "sample", train=2, val=2, test=1, image_size=64, seed=0
    )


def test_layout_holds_pairs_of_the_same_stem_and_nothing_else(dataset):
    expected = {"test_image/test_0000.jpg"}
    for split in ("train", "val"):
        for index in range(2):
            expected.add(f"{split}/{split}_image/{split}_{index:04d}.jpg")
            expected.add(f"{split}/{split}_mask/{split}_{index:04d}.png")
    assert set(files(dataset)) == expected
    assert [path.name for path in dataset.parent.iterdir()] == ["sample"]  # no temporary folder is left


def test_photographs_are_rgb_and_masks_are_palette_pngs_of_class_ids(dataset):
    for path in dataset.rglob("*.jpg"):
        with Image.open(path) as photo:
            assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (64, 64))
    for path in dataset.rglob("*.png"):
        with Image.open(path) as mask:
            assert (mask.format, mask.mode, mask.size) == ("PNG", "P", (64, 64))
            assert mask.getpalette()[: 3 * len(CELEBAMASK)] == [
                channel for colour in CELEBAMASK.colours for channel in colour
            ]
            assert np.array(mask).max() < len(CELEBAMASK)


@pytest.mark.parametrize("size", [32, 64, 101])
@pytest.mark.parametrize("split", ["train", "val"])
def test_two_pictures_hold_all_classes_whatever_the_seed(split, size):
    for seed in range(10):
        ids = {int(i) for index in (0, 1) for i in np.unique(sample.draw_face(size, seed, split, index)[1])}
        assert ids == set(range(len(CELEBAMASK))), f"seed {seed}"


def test_left_is_the_subjects_own(dataset):
    for split in ("train", "val"):
        for left, right in CELEBAMASK.left_right_pairs:
            means = [
                np.mean([np.nonzero(m == i)[1].mean() for m in masks(dataset, split) if i in m]) for i in (left, right)
            ]
            assert means[0] > means[1], f"{split}: class {left} lies left of class {right}"


def test_mask_lies_exactly_over_the_photograph():
    """Each part has a colour, so moving the mask by a single pixel makes the colours within its classes vary more."""

    def variation_within_classes(photo, mask):
        parts = [photo[mask == i].astype(float) for i in np.unique(mask)]
        return sum(((part - part.mean(axis=0)) ** 2).sum() for part in parts)

    for index in range(6):
        photo, mask = sample.draw_face(128, 0, "val", index)
        in_place = variation_within_classes(photo, mask)
        for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            assert variation_within_classes(photo, np.roll(mask, shift, axis=(0, 1))) > in_place, (index, shift)


def test_same_seed_same_bytes_and_another_seed_other_pictures(dataset, tmp_path):
    again = sample.make_sample_dataset(tmp_path / "again", train=2, val=2, test=1, image_size=64, seed=0)
    assert files(again) == files(dataset)
    other = files(sample.make_sample_dataset(tmp_path / "other", train=2, val=2, test=1, image_size=64, seed=1))
    assert all(other[name] != content for name, content in files(dataset).items())


def test_a_picture_does_not_depend_on_the_counts(dataset, tmp_path):
    more = files(sample.make_sample_dataset(tmp_path / "more", train=3, val=4, test=2, image_size=64, seed=0))
    assert files(dataset).items() < more.items()


def test_splits_differ():
    faces = [sample.draw_face(64, 0, split, 0)[0] for split in sample.FOLDERS]
    assert not np.array_equal(faces[0], faces[1])
    assert not np.array_equal(faces[1], faces[2])


def test_refuses_a_folder_with_something_in_it_and_leaves_it_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match=r"--output_dir .* an empty folder"):
        sample.make_sample_dataset(tmp_path, train=2, val=2, test=1, image_size=64, seed=0)
    assert files(tmp_path) == {"mine.txt": b"keep"}


def test_fills_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    sample.make_sample_dataset(tmp_path / "empty", train=1, val=1, test=1, image_size=32, seed=0)
    assert len(files(tmp_path / "empty")) == 5


def test_refuses_pictures_too_small_for_all_parts(tmp_path):
    with pytest.raises(InputError, match="--image_size 31"):
        sample.make_sample_dataset(tmp_path / "small", train=2, val=2, test=1, image_size=31, seed=0)


def test_writes_nothing_when_it_fails_half_way(tmp_path, monkeypatch):
    def full_disk(path, mask, palette_of):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample, "write_label_map", full_disk)
    with pytest.raises(OSError, match="No space left"):
        sample.make_sample_dataset(tmp_path / "sample", train=2, val=2, test=1, image_size=64, seed=0)
    assert not list(tmp_path.iterdir())
