"""Scenes: people put into pictures with exact truth, and the benchmark that scores them."""

import numpy as np
import pytest

from benchmarks.faces import group_of_side, measure, noses
from benchmarks.scenes import CHANGES, put_into
from faceparse.data.classes import CELEBAMASK, class_set_from_dict
from faceparse.faces.crops import Crop
from faceparse.faces.face_parser import ParsedPhoto
from faceparse.faces.looks import Face, Look
from faceparse.inference.metrics import Scores
from tools.make_sample_dataset import draw_face


def test_a_person_is_put_where_it_should_be():
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


def test_scenes_have_people_of_three_heights():
    photo, mask = draw_face(64, 0, "val", 0)
    for index, height in enumerate((640, 448, 320)):
        scene, truth = CHANGES["scenes"](index, photo, mask)
        assert scene.shape == (960, 1280, 3) and truth.shape == (960, 1280) and len(noses(truth, CELEBAMASK)) == 1
        assert 0.8 * height < np.ptp(np.nonzero(truth)[0]) + 1 <= height


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


@pytest.mark.parametrize("change", ["given", "scenes", "tilted", "moved", "grey"])
def test_a_changed_pair_is_the_same_each_time_and_stays_aligned(change):
    """A photograph whose red is ten times the id still is, away from the borders of parts and of the person."""
    mask = draw_face(64, 0, "val", 0)[1].repeat(8, axis=0).repeat(8, axis=1)
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
