"""Scenes: people put into pictures with exact truth, and the benchmark that scores them."""

import numpy as np
import pytest

from benchmarks.faces import group_of_side, measure, noses
from benchmarks.scenes import CHANGES
from faceparse.data.classes import CELEBAMASK, class_set_from_dict
from faceparse.data.images import list_images, read_mask, read_photo
from faceparse.faces.crops import Crop
from faceparse.faces.face_parser import ParsedPhoto
from faceparse.faces.looks import Face, Look
from faceparse.inference.metrics import Scores
from tools.make_sample_dataset import draw_scene, make_sample_dataset
from tools.scenes import SCENE_SIZE, put_into


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "sample"
    return make_sample_dataset(folder, train=1, val=1, test=1, image_size=64, seed=0, scenes=3)


def test_a_person_is_put_where_it_shall_be():
    scene, truth = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    photo, mask = np.full((4, 4, 3), 200, np.uint8), np.ones((4, 4), np.uint8)
    mask[:, 2:], mask[0, 0] = 2, 0
    put_into(scene, truth, photo, mask, 4, (12, 7))
    expected = np.zeros((20, 30), np.uint8)
    expected[5:9, 10:14] = mask
    np.testing.assert_array_equal(truth, expected)
    np.testing.assert_array_equal(scene[..., 0], 200 * (expected > 0))
    turned = np.zeros_like(truth)
    put_into(scene, turned, photo, mask, 4, (12, 7), angle=90)  # clockwise: right becomes below
    assert (turned[7:9, 10:14] == 2).all() and (turned == 2).sum() == 8


def test_scenes_have_masks_of_their_size_and_one_person(dataset):
    photos, masks = (list_images(dataset / f"scenes/scene_{kind}") for kind in ("image", "mask"))
    assert list(photos) == list(masks) == ["scene_0000", "scene_0001", "scene_0002"]
    heights = []
    for stem in photos:
        mask = read_mask(masks[stem])
        assert read_photo(photos[stem]).shape[:2] == mask.shape == SCENE_SIZE[::-1]
        assert len(noses(mask, CELEBAMASK)) == 1
        heights.append(np.ptp(np.nonzero(mask)[0]) + 1)
    assert 640 >= heights[0] > 448 >= heights[1] > 320 >= heights[2]
    again, mask = draw_scene(0, 2)
    assert again.shape == (*mask.shape, 3) and (mask == read_mask(masks["scene_0002"])).all()


class Oracle:
    """Takes for faces what the truth says, and another one in the corner; sees nothing in a picture as a whole."""

    class_set = CELEBAMASK

    def __init__(self, mask):
        self.mask = mask

    def __call__(self, photo, whole):
        height, width = self.mask.shape
        one_hot = np.eye(len(CELEBAMASK), dtype=np.float32)[self.mask * (not whole)].transpose(2, 0, 1)
        look = Look(Crop(width / 2, height / 2, width, height), one_hot)
        (x, y), *_ = noses(self.mask, CELEBAMASK)
        face = Face(look.crop, one_hot, box=(x - 9, y - 9, x + 9, y + 9))
        false = Face(Crop(20, 20, 40, 40), one_hot[:, :2, :2], box=(40, 2, 60, 8))
        return ParsedPhoto(photo, [] if whole else [face, false], CELEBAMASK, [[look]])


def test_faces_are_counted_and_scored_in_classes_that_are_merged():
    mask = np.zeros((96, 64), np.uint8)
    mask[10:30, 10:30], mask[60:90, 20:50], mask[60:70, 52:60] = 1, 1, 2  # two people without a nose ...
    mask[15:20, 15:20] = 2  # ... but one has it, and there is a nose alone
    photo, names = (
        np.zeros((96, 64, 3), np.uint8),
        {"names": ["background", "head"], "from": {"head": ["skin", "nose"]}},
    )
    result = measure(Oracle(mask), photo, mask, CELEBAMASK)
    assert (result.found, result.missed, result.false, result.side) == (1, 1, 1, 20)
    assert Scores(result.matrices["found"]).miou == 1 and result.matrices["whole"][1, 0] == (mask == 1).sum()
    merged, ids = class_set_from_dict(names, "test"), [0, 1, 1] + [0] * 253
    truth = (mask > 0).astype(np.uint8)
    assert Scores(measure(Oracle(mask), photo, truth, merged, ids).matrices["found"]).miou == 1
    sides = [group_of_side(side) for side in (0, 31.9, 32, 300)]
    assert sides == ["no box", "box below 32 px", "box from 32 px", "box from 256 px"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_pair_is_the_same_each_time_and_stays_aligned(dataset, change):
    """A photograph whose red is ten times the id still is, away from the borders of parts and of the person."""
    mask = read_mask(dataset / "val/val_mask/val_0000.png").repeat(8, axis=0).repeat(8, axis=1)
    photo = np.repeat(10 * mask[..., None], 3, axis=2)
    changed, truth = CHANGES[change](7, photo, mask)
    again, _ = CHANGES[change](7, photo, mask)
    np.testing.assert_array_equal(changed, again)
    assert changed.shape == (*truth.shape, 3) and changed.dtype == truth.dtype == np.uint8
    person = (truth > 0) & (truth != 255)
    # A flip interchanges the ids of left and right, but not the colours.
    expected = [10 * truth, 10 * np.array(CELEBAMASK.flipped_ids(), dtype=np.uint8)[truth]]
    close = max((np.abs(changed[..., 0].astype(int) - each)[person] < 3).mean() for each in expected)
    assert person.mean() > 0.05 and close > 0.85
