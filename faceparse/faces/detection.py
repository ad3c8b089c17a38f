"""Face detectors. Needs no torch.

A detector is called with a photograph, uint8 RGB [H, W, 3], and returns its Detections, the surest first. It knows best
what its box or landmarks tell of the crop that CelebAMask-HQ's photographers would have cut, so it gives that too.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from faceparse.errors import InputError
from faceparse.faces.crops import Crop


@dataclass(frozen=True)
class Detection:
    """A face: its box (left, top, right, bottom), px, and a first Crop, which the network's parse of it improves.

    A face that the detector is not sure of is kept only if the network sees the parts of a face in the crop.
    """

    box: tuple[float, float, float, float]
    crop: Crop
    is_sure: bool = True


class DlibDetector:
    """dlib's frontal detector, HOG features and a linear classifier, trained as in https://arxiv.org/abs/1502.00046.

    It brings its own weights and gives upright boxes. Calling it raises InputError without dlib.
    """

    MIN_SEARCH, MAX_SEARCH = 320, 1280  # longer side that is searched, px; once enlarged, it shows faces from 40 px on
    SURE, WEAK = 0.0, -0.35  # scores: dlib's own limit, and the one from which on a find may be a face
    # Medians over CelebA's validation portraits.
    BOX_SHARE = 0.607  # width of the box over the side of the crop
    BOX_CENTRE = (0.488, 0.623)  # in the crop

    def __call__(self, photo):
        height, width = photo.shape[:2]
        longer = max(height, width)
        scale = min(max(longer, self.MIN_SEARCH), self.MAX_SEARCH) / longer
        if scale != 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        # dlib reads the memory of an array as it lies, also that of a view such as photo[..., ::-1].
        found, scores, _ = self.hog.run(np.ascontiguousarray(photo), 1, self.WEAK)
        sides = [(each.left(), each.top(), each.right() + 1, each.bottom() + 1) for each in found]
        boxes = [tuple(side / scale for side in each) for each in sides]
        return [Detection(box, self.crop_of(box), score >= self.SURE) for box, score in zip(boxes, scores, strict=True)]

    @functools.cached_property
    def hog(self):
        try:
            import dlib
        except ImportError:
            hint = "pip install -r requirements-faces.txt, or parse the whole picture (--whole)"
            raise InputError(f"finding faces needs dlib; {hint}") from None
        return dlib.get_frontal_face_detector()

    def crop_of(self, box):
        """Return the upright Crop around a box."""
        left, top, right, bottom = box
        side = (right - left) / self.BOX_SHARE
        x, y = (left + right) / 2, (top + bottom) / 2
        return Crop(x + (0.5 - self.BOX_CENTRE[0]) * side, y + (0.5 - self.BOX_CENTRE[1]) * side, side, side)
