"""Crops: cutting out and putting back, against hand-worked positions and a naive loop."""

import numpy as np
import pytest

from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.faces.crops import MEAN_PARTS, Crop, crop_of_parts, cut, part_centres, paste_back, whole_picture
from faceparse.faces.looks import Look
from faceparse.faces.tracking import refined_crop

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_positions_in_a_turned_crop():
    crop = Crop(100, 50, 20, 40, angle=90)  # clockwise: its right points down, its bottom to the left
    np.testing.assert_allclose(crop.to_photo([(0.5, 0.5), (1, 0.5), (0.5, 1)]), [(100, 50), (100, 60), (80, 50)])
    assert crop.region((200, 200)) == (80, 40, 120, 60)
    assert crop.region((45, 90)) == (80, 40, 90, 45)
    # An eighth of a turn: the corners of a square of 40 px lie 20 * sqrt(2) px, 28.3, left, right, above and below.
    assert Crop(100, 100, 40, 40, 45).region((300, 300)) == (71, 71, 129, 129)
    np.testing.assert_allclose(whole_picture(PHOTO.shape).to_photo([(0, 0), (1, 1)]), [(0, 0), (64, 48)])


def test_cutting_at_whole_pixels_copies_them():
    np.testing.assert_array_equal(cut(PHOTO, Crop(30, 20, 16, 16), 16), PHOTO[12:28, 22:38])
    # A quarter turn clockwise: the crop's upper left corner is the upper right one of the square.
    np.testing.assert_array_equal(cut(PHOTO, Crop(30, 20, 16, 16, 90), 16), np.rot90(PHOTO[12:28, 22:38], 1))


def test_what_lies_outside_repeats_the_border():
    crop = cut(PHOTO, Crop(0, 0, 16, 16), 16)
    np.testing.assert_array_equal(crop[8:, 8:], PHOTO[:8, :8])
    assert (crop[:8, :8] == PHOTO[0, 0]).all()


@pytest.mark.parametrize("angle", [0, 30, -115])
def test_putting_back_is_bilinear_interpolation_of_the_grid(angle):
    crop, channels = Crop(33, 25, 30, 30, angle), RNG.random((2, 6, 6), dtype=np.float32)
    (left, top, right, bottom), inside, maps = paste_back(channels, crop, PHOTO.shape[:2])
    maps = np.stack(list(maps))
    assert maps.shape == (2, bottom - top, right - left) and inside.shape == maps.shape[1:]
    turn = np.radians(angle)
    for y in range(top, bottom):
        for x in range(left, right):
            dx, dy = x + 0.5 - crop.x, y + 0.5 - crop.y
            u = (np.cos(turn) * dx + np.sin(turn) * dy) / crop.width + 0.5
            v = (-np.sin(turn) * dx + np.cos(turn) * dy) / crop.height + 0.5
            if min(u, v, 1 - u, 1 - v) < 0.02:  # at the border rounding decides
                continue
            assert inside[y - top, x - left] == (0 <= u <= 1 and 0 <= v <= 1)
            if inside[y - top, x - left]:
                column, row = np.clip(u * 6 - 0.5, 0, 5), np.clip(v * 6 - 0.5, 0, 5)
                i, j = min(int(row), 4), min(int(column), 4)
                a, b = row - i, column - j
                square = channels[:, i : i + 2, j : j + 2]
                expected = np.array([1 - a, a]) @ square @ np.array([1 - b, b])
                # OpenCV rounds positions to 1/32 of a pixel.
                np.testing.assert_allclose(maps[:, y - top, x - left], expected, atol=0.05)


def draw_parts(positions, class_set=CELEBAMASK, size=200):
    """Probabilities [C, size, size] with a square of certainty around each position."""
    probabilities = np.zeros((len(class_set), size, size), np.float32)
    for name, (x, y) in positions.items():
        class_name = "u_lip" if name == "mouth" else name
        if class_set is LAPA and "_" in name:  # its left is the viewer's
            class_name = {"l": "r", "r": "l"}[name[0]] + name[1:]
        row, column = round(y * size), round(x * size)
        probabilities[class_set.names.index(class_name), row - 3 : row + 3, column - 3 : column + 3] = 1
    return probabilities


@pytest.mark.parametrize("class_set", [CELEBAMASK, LAPA])
def test_parts_are_found_where_they_are_drawn(class_set):
    centres = part_centres(draw_parts(MEAN_PARTS, class_set), class_set)
    assert centres.keys() == MEAN_PARTS.keys()
    for name, position in centres.items():
        np.testing.assert_allclose(position, MEAN_PARTS[name], atol=0.003)


def test_the_crop_of_parts_is_that_in_which_they_lie_as_on_average():
    first, true = Crop(100, 90, 80, 80), Crop(110, 85, 96, 96, 25)
    in_photo = true.to_photo(list(MEAN_PARTS.values()))
    centres = dict(zip(MEAN_PARTS, (in_photo - (60, 50)) / 80, strict=True))  # the corner of `first` is (60, 50)
    crop, misfit = crop_of_parts(first, centres)
    assert (crop.x, crop.y, crop.width, crop.height, crop.angle) == pytest.approx((110, 85, 96, 96, 25))
    assert misfit == pytest.approx(0, abs=1e-9)
    centres["nose"] = (0.9, 0.1)
    assert crop_of_parts(first, centres)[1] > 0.05


UPPER_PARTS = {name: np.array(position) for name, position in MEAN_PARTS.items() if name != "mouth"}


@pytest.mark.parametrize("away", [0.0, 0.05, 0.09, 0.13, 0.2])
def test_a_better_crop_needs_the_parts_where_those_of_faces_are(away):
    """Least squares by numpy for the turn, scale and shift; what remains may be 0.05 of the side."""
    parts = UPPER_PARTS | {"nose": UPPER_PARTS["nose"] + (0, away)}
    (x, y), (u, v) = np.array(list(UPPER_PARTS.values())).T, np.array(list(parts.values())).T
    ones, zeros = np.ones(5), np.zeros(5)
    system = np.block([[np.stack([x, -y, ones, zeros], axis=1)], [np.stack([y, x, zeros, ones], axis=1)]])
    solution, *_ = np.linalg.lstsq(system, np.concatenate([u, v]), rcond=None)
    squares = ((system @ solution - np.concatenate([u, v])) ** 2).sum() / 5
    misfit = np.sqrt(squares) / np.hypot(*solution[:2])
    assert abs(misfit - 0.05) > 0.004  # else rounding to whole pixels could decide
    look = Look(Crop(500, 400, 200, 200), np.log(draw_parts(parts) + 1e-6))
    assert (refined_crop(look, CELEBAMASK) is None) == (misfit > 0.05)


@pytest.mark.parametrize(("x", "y"), [(32, 24), (4, 20), (60, 40), (30, 0)])
def test_reducing_averages_what_is_there(x, y):
    """A crop of 32 px at a quarter of its size; its pixels outside the photograph repeat those at the border."""
    rows, columns = np.arange(y - 16, y + 16), np.arange(x - 16, x + 16)
    within = ((rows >= 0) & (rows < 48))[:, None] & ((columns >= 0) & (columns < 64))
    square = PHOTO[rows.clip(0, 47)[:, None], columns.clip(0, 63)]
    expected = square.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    inside = within.reshape(8, 4, 8, 4).all(axis=(1, 3))
    assert 16 < inside.sum() <= 64
    assert np.abs(cut(PHOTO, Crop(x, y, 32, 32), 8) - expected)[inside].max() <= 1
