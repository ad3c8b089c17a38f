"""Faces in photographs: dlib's detector of HOG features, which brings its own weights. Needs no torch.

It is trained as in King, 2015, https://arxiv.org/abs/1502.00046.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from faceparse.errors import InputError

INSTALL_HINT = "pip install -r requirements-faces.txt"
# The longer side that is searched, px. Searched once enlarged, it shows faces from 40 px on.
SMALLEST_SEARCH, LARGEST_SEARCH = 320, 1280
SURE, WEAK = 0.0, -0.35  # scores: dlib's own limit, and the one from which on a find may be a face


@dataclass(frozen=True)
class Detection:
    """A face's box (left, top, right, bottom), in px, and its score; below SURE the network has to confirm it."""

    box: tuple[float, float, float, float]
    score: float


@functools.cache
def detector():
    try:
        import dlib
    except ImportError:
        raise InputError(f"finding faces needs dlib; {INSTALL_HINT}, or parse the whole picture (--whole)") from None
    return dlib.get_frontal_face_detector()


def find_faces(photo):
    """Return the Detections in uint8 RGB [H, W, 3], the surest first. Raises InputError where dlib is missing."""
    height, width = photo.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, SMALLEST_SEARCH), LARGEST_SEARCH) / longer
    if scale != 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    # dlib reads the memory of an array as it lies, also that of a view such as photo[..., ::-1].
    boxes, scores, _ = detector().run(np.ascontiguousarray(photo), 1, WEAK)
    return [
        Detection(tuple(side / scale for side in (box.left(), box.top(), box.right() + 1, box.bottom() + 1)), score)
        for box, score in zip(boxes, scores, strict=True)
    ]
