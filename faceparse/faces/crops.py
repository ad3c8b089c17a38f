"""Square crops around faces, as the network was trained on them: cut out of a photograph, and back into it.

Positions are in px of the photograph from its upper left corner, so that (0.5, 0.5) is the middle of the first pixel;
positions in a crop are shares of its sides, from 0 to 1. Needs no torch.
"""

from dataclasses import dataclass, replace
from math import atan2, cos, degrees, hypot, radians, sin

import cv2
import numpy as np

# Where the parts lie in CelebAMask-HQ's crops: means of the centres in the 700 training masks with left and right
# corrected, as shares of the side. The mouth is the opening with both lips.
MEAN_PARTS = {
    "l_eye": (0.622, 0.479),
    "r_eye": (0.380, 0.478),
    "l_brow": (0.626, 0.415),
    "r_brow": (0.373, 0.415),
    "nose": (0.500, 0.577),
    "mouth": (0.500, 0.749),
}
CLASSES_OF_PARTS = {"mouth": ("mouth", "i_mouth", "u_lip", "l_lip")}  # the others are a class each


@dataclass(frozen=True)
class Crop:
    """A rectangle of a photograph: centre and sides in px, turned clockwise by `angle` degrees. May reach beyond it."""

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0

    def to_photo(self, points):
        """Positions in the crop, shares of its sides [N, 2], to px of the photograph [N, 2]."""
        turn = radians(self.angle)
        rotation = np.array([[cos(turn), sin(turn)], [-sin(turn), cos(turn)]])  # for rows: points @ rotation
        return (np.asarray(points) - 0.5) * (self.width, self.height) @ rotation + (self.x, self.y)

    def matrix(self, size, origin=(0, 0)):
        """The map [2, 3] from pixels of the crop at `size`, (width, height), to those of a photograph cut at `origin`.

        As OpenCV wants it: whole numbers are the middles of pixels.
        """
        corners = self.to_photo([(0, 0), (1, 0), (0, 1)]) - origin
        along = np.stack([(corners[1] - corners[0]) / size[0], (corners[2] - corners[0]) / size[1]], axis=1)
        start = corners[0] + along @ (0.5, 0.5) - 0.5
        return np.concatenate([along, start[:, None]], axis=1)

    def region(self, shape):
        """The smallest upright rectangle (left, top, right, bottom), in whole px, of what lies in a picture [H, W]."""
        corners = self.to_photo([(0, 0), (1, 0), (0, 1), (1, 1)])
        limits = shape[1], shape[0]
        low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, limits)
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int), 0, limits)
        return (*low.tolist(), *high.tolist())


def crop_of_landmarks(landmarks):
    """The crop of CelebA-HQ around five landmarks [5, 2], px, in the order of `detection.Detection`.

    Karras et al., 2018, https://arxiv.org/abs/1710.10196, appendix C. If the face is turned so far that the eyes lie
    close together, the distance from the eyes to the mouth decides.
    """
    eye, other_eye, _, corner, other_corner = (complex(*point) for point in landmarks)
    eyes, mouth = (eye + other_eye) / 2, (corner + other_corner) / 2
    between, down = other_eye - eye, mouth - eyes
    across = between - 1j * down  # both point along the picture's upper side
    half = max(2 * abs(between), 1.8 * abs(down))
    centre = eyes + 0.1 * down
    angle = degrees(atan2(across.imag, across.real))
    return Crop(centre.real, centre.imag, 2 * half, 2 * half, angle)


def whole_picture(shape):
    """The crop that is all of a picture [H, W]."""
    height, width = shape[:2]
    return Crop(width / 2, height / 2, width, height)


def cut(photo, crop, size):
    """Return the crop of a photograph, uint8 RGB [H, W, 3], as [size, size, 3]; outside, the border is repeated."""
    left, top, right, bottom = crop.region(photo.shape)
    if left >= right or top >= bottom:
        raise ValueError(f"{crop} lies outside the photograph")
    photo, crop = photo[top:bottom, left:right], replace(crop, x=crop.x - left, y=crop.y - top)
    scale = size / crop.width
    if scale < 1:  # the warp takes single pixels, so what is made smaller must be averaged first
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        scale_x, scale_y = width / photo.shape[1], height / photo.shape[0]
        photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        crop = Crop(crop.x * scale_x, crop.y * scale_y, size, size, crop.angle)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = crop.matrix((size, size))
    return cv2.warpAffine(photo, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def paste_back(channels, crop, shape):
    """Resample maps on a crop's grid where the crop lies in a picture: the way back of `cut`.

    channels: float32 [C, h, w]; shape: of the picture, [H, W]. Returns the region (left, top, right, bottom), bool
    [bottom - top, right - left], true inside the crop, and a generator of the C maps of that shape: one at a time,
    because all of them may not fit into memory.
    """
    left, top, right, bottom = region = crop.region(shape)
    size = (right - left, bottom - top)
    h, w = channels.shape[1:]
    if not all(size):
        return region, np.zeros(size[::-1], bool), iter([np.zeros(size[::-1], np.float32)] * len(channels))
    to_grid = cv2.invertAffineTransform(crop.matrix((w, h), (left, top)))

    def warp(grid, interpolation, border):
        return cv2.warpAffine(grid, to_grid, size, flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=border)

    inside = warp(np.ones((h, w), np.uint8), cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) > 0
    return region, inside, (warp(channel, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE) for channel in channels)


def part_centres(probabilities, class_set, min_share=3e-4):
    """Find which of MEAN_PARTS fill `min_share` of a crop of probabilities [C, h, w]: {name: (x, y)}, shares."""
    h, w = probabilities.shape[1:]
    centres = {}
    for part in MEAN_PARTS:
        ids = class_set.subject_ids(*CLASSES_OF_PARTS.get(part, (part,)))
        weights = probabilities[ids].sum(axis=0)
        weights = np.where(weights > 0.5, weights, 0)
        total = weights.sum()
        if total >= min_share * h * w:
            x = weights.sum(axis=0) @ (np.arange(w) + 0.5) / (w * total)
            y = weights.sum(axis=1) @ (np.arange(h) + 0.5) / (h * total)
            centres[part] = (float(x), float(y))
    return centres


def crop_of_parts(crop, centres):
    """The crop in which the parts, {name: (x, y)} in `crop`, lie nearest to MEAN_PARTS, and how far off they lie then.

    The distance is the root of the mean square, as a share of the side. The least-squares similarity transform, with
    positions as complex numbers: z -> a z + b, the angle and scale being those of a. Needs two parts at least.
    """
    found = crop.to_photo(list(centres.values())) @ (1, 1j)
    mean = np.array([MEAN_PARTS[name] for name in centres]) @ (1, 1j)
    mean_spread = mean - mean.mean()
    a = np.vdot(mean_spread, found - found.mean()) / np.vdot(mean_spread, mean_spread)
    centre = a * (0.5 + 0.5j - mean.mean()) + found.mean()
    side = hypot(a.real, a.imag)
    misfit = np.sqrt(np.mean(np.abs(a * mean_spread - (found - found.mean())) ** 2)) / max(side, 1e-9)
    return Crop(centre.real, centre.imag, side, side, degrees(atan2(a.imag, a.real))), float(misfit)
