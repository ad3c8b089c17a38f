"""Photographs as the prediction loop hands them to a network: read ahead by threads, resized, grouped into batches."""

from functools import partial

import numpy as np
import pytest

from faceparse.data.classes import CELEBAMASK
from faceparse.inference.prediction import batches_of_equal_size, predict, read_resized
from faceparse.parallel import in_threads

RANDOM = np.random.default_rng(0)


def random_photo(height, width):
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


class RedAndGreen:
    """A network of two classes whose logits are the colours, and that keeps the shapes of its batches."""

    class_set, image_size = CELEBAMASK, 64

    def __init__(self):
        self.shapes = []

    def coarse_logits(self, photos):
        self.shapes.append(photos.shape)
        assert photos.dtype == np.float32
        return photos[:, :2]


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ((64, 64), (64, 64)),
        ((200, 150), (64, 48)),
        ((30, 40), (48, 64)),
        ((400, 20), (64, 32)),  # at least 32 px, at the cost of the proportions
        ((1, 1), (64, 64)),
        ((64, 55), (64, 48)),  # rounded to a multiple of 16
        ((64, 57), (64, 64)),
    ],
)
def test_photographs_keep_their_proportions_to_eight_px(original, expected):
    index, photo, size = read_resized((7, random_photo(*original)), 64)
    assert (index, size) == (7, original)
    assert photo.dtype == np.uint8 and photo.shape == (*expected, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_group_neighbours_of_one_size_in_order(workers):
    shapes = [(64, 64)] * 3 + [(48, 64)] + [(64, 64)] * 2
    photos = [random_photo(*shape) for shape in shapes]
    items = in_threads(partial(read_resized, image_size=64), enumerate(photos), workers)
    assert [[index for index, _, _ in batch] for batch in batches_of_equal_size(items, 2)] == [[0, 1], [2], [3], [4, 5]]
    network = RedAndGreen()
    options = {"image_size": 64, "batch_size": 2, "workers": workers, "progress": None}
    for position, (index, logits, size) in enumerate(predict(network, photos, **options)):
        assert (index, size) == (position, shapes[position])
        np.testing.assert_allclose(logits, photos[index].transpose(2, 0, 1)[:2] / 255, atol=1e-6)
    assert list(predict(network, [], **options)) == []  # the share of a process may be empty
    assert network.shapes == [(2, 3, 64, 64), (1, 3, 64, 64), (1, 3, 48, 64), (2, 3, 64, 64)]
