"""Looks at a photograph, from the whole of it to single faces, and how they make one map. Needs no torch."""

from dataclasses import dataclass, replace
from math import ceil, hypot, log

import cv2
import numpy as np

from faceparse.faces.crops import Crop, paste_back

MARGIN = 0.1  # of a look's side, over which it fades into what the coarser looks behind it show
STEP = 3.0  # largest ratio of the sides of two looks, one behind the other
ISLAND = 0.05  # of the largest piece of people: a smaller one without a face is none
ISLAND_EDGE = 2  # cells around it in which people are likely, too
NEAR = 0.3  # of the side: a look between so close to another one shows nothing new


@dataclass
class Look:
    """What the network says of a crop: log-probabilities, float32 [C, h, w], on a grid over it."""

    crop: Crop
    log_probabilities: np.ndarray

    @property
    def probabilities(self):
        """float32 [C, h, w] on the crop's grid, by class id."""
        probabilities = np.exp(self.log_probabilities)
        return probabilities / probabilities.sum(axis=0)  # what was smoothed over frames does not sum to 1

    @property
    def labels(self):
        """uint8 class ids [h, w] on the crop's grid. `ParsedPhoto.labels` has the photograph's own size."""
        return self.log_probabilities.argmax(axis=0).astype(np.uint8)

    @property
    def confidence(self):
        """The mean probability, over the pixels outside the background, of the class that they were given."""
        foreground = self.labels > 0
        return float(self.probabilities.max(axis=0)[foreground].mean()) if foreground.any() else 0.0


@dataclass
class Face(Look):
    """The look at a face: the detector's box (left, top, right, bottom) and landmarks, px; angle, degrees clockwise."""

    box: tuple[float, float, float, float] | None = None
    landmarks: tuple[tuple[float, float], ...] = ()
    angle: float = 0.0


def without_islands(whole, crops):
    """Return the Look at a whole picture with background in place of small pieces of people that hold no face.

    Networks see hair and clothes in clutter. `crops`: those of the faces, whose middles lie within their people.
    """
    height, width = whole.labels.shape
    people = (whole.labels > 0).astype(np.uint8)
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(people, connectivity=4)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    is_island = np.append(False, areas < ISLAND * areas.max(initial=0))
    for crop in crops:
        x, y = int(crop.x / whole.crop.width * width), int(crop.y / whole.crop.height * height)
        is_island[pieces[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]] = False
    islands = is_island[pieces]
    side = 2 * ISLAND_EDGE + 1
    emptied = cv2.dilate(islands.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
    emptied &= islands | (pieces == 0)
    background = np.where(np.arange(len(whole.log_probabilities)) == 0, 0, log(1e-3)).astype(np.float32)
    return Look(whole.crop, np.where(emptied, background[:, None, None], whole.log_probabilities))


def crops_between(crops, shape):
    """Return the squares to look at between faces' crops and the whole picture [H, W]: lists, from coarse to fine.

    So no look shows a person at less than a STEPth of the scale of the next one.
    """
    ratios = [max(1, max(shape[:2]) / crop.width) for crop in crops]
    counts = [ceil(log(ratio, STEP)) - 1 for ratio in ratios]
    levels = []
    for power in range(max(counts, default=0), 0, -1):
        level = []
        for crop, count in zip(crops, counts, strict=True):
            wide = replace(crop, width=crop.width * STEP**power, height=crop.height * STEP**power)
            if count >= power and not any(is_near(wide, other) for other in level):
                level.append(wide)
        levels.append(level)
    return levels


def is_near(crop, other):
    reach = NEAR * min(crop.width, other.width)
    return hypot(crop.x - other.x, crop.y - other.y) < reach and abs(crop.width - other.width) < reach


def fading(shape):
    """Return the weight of a look on its grid [h, w]: 1 inside, falling to 0 at the border over MARGIN."""
    edges = [(np.arange(n) + 0.5) / n for n in shape]
    down, across = (np.minimum(edge, 1 - edge) / MARGIN for edge in edges)
    return np.minimum(down[:, None], across).clip(0, 1).astype(np.float32)


def combined(levels, shape):
    """Yield the log-probability, float32 [H, W], of one class after the other, up to a constant for each pixel.

    levels: lists of Looks, from coarse to fine; the first holds one look at the whole picture [H, W]. The value of a
    pixel is a weighted mean over the looks that see it. A finer look takes the place of a coarser one but for its
    margin. If looks of one level overlap, the surer one decides: it has the most to say in a mean of logarithms.
    """
    (whole,), *finer = levels
    _, _, channels = paste_back(whole.log_probabilities, whole.crop, shape)
    placed = [place(looks, shape) for looks in finer if looks]
    for values in channels:
        for behind, parts in placed:
            values *= behind
            for region, weight, maps in parts:
                values[region] += weight * next(maps)
        yield values


def place(looks, shape):
    """Return the share that stays of coarser looks, float32 [H, W], and (region, weight, maps) of each look."""
    total, parts = np.zeros(shape, np.float32), []
    for look in looks:
        channels = np.concatenate([fading(look.log_probabilities.shape[1:])[None], look.log_probabilities])
        (left, top, right, bottom), inside, maps = paste_back(channels, look.crop, shape)
        weight, region = next(maps) * inside, (slice(top, bottom), slice(left, right))
        total[region] += weight
        parts.append((region, weight, maps))
    for region, weight, _ in parts:
        weight /= np.maximum(total[region], 1)
    return 1 - np.minimum(total, 1), parts


def combined_labels(levels, shape):
    """Return class ids, uint8 [H, W]: the class of the largest value of `combined` for each pixel."""
    channels = combined(levels, shape)
    largest, labels = next(channels), np.zeros(shape, np.uint8)
    for index, channel in enumerate(channels, start=1):
        labels[channel > largest] = index
        np.maximum(largest, channel, out=largest)
    return labels


def combined_probability(levels, shape, ids):
    """Return the probability that a pixel is of one of the classes `ids`, float32 [H, W]."""
    total, chosen = np.zeros((2, *shape), np.float32)
    for index, channel in enumerate(combined(levels, shape)):
        probability = np.exp(channel)
        total += probability
        if index in ids:
            chosen += probability
    return chosen / total
