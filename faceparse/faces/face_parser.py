"""Whole photographs parsed from coarse to fine, with each face in a crop of its own: `FaceParser`."""

import os
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.images import read_photo, to_rgb
from faceparse.errors import InputError
from faceparse.faces.crops import cut, whole_picture
from faceparse.faces.detection import MtcnnDetector
from faceparse.faces.looks import Face, Look, combined_labels, combined_probability, crops_between, without_islands
from faceparse.inference.image_size import round_to_stride
from faceparse.inference.networks import load_network
from faceparse.inference.prediction import predict

MAX_ENLARGEMENT = 4  # of small faces: still larger, they are so blurred that hair is lost
PORTRAIT_OVERLAP, PORTRAIT_ANGLE = 0.55, 20.0  # intersection over union of crop and picture; degrees


@dataclass
class ParsedPhoto:
    """A photograph, uint8 RGB [H, W, 3], with its Faces from the largest to the smallest.

    levels: the looks that its maps are made of, see `looks.combined`.
    """

    photo: np.ndarray
    faces: list[Face]
    class_set: object
    levels: list[list[Look]]

    @cached_property
    def labels(self):
        """uint8 class ids [H, W] of the whole photograph."""
        return combined_labels(self.levels, self.photo.shape[:2])

    def probability(self, *names):
        """Probability that a pixel is of one of the classes, float32 [H, W]. Raises InputError for unknown names."""
        return combined_probability(self.levels, self.photo.shape[:2], {self.class_set.id_of(name) for name in names})

    @cached_property
    def nearest(self):
        """The index in `faces` of the face that is nearest, distances in sides of each face's crop: uint16 [H, W]."""
        shape = self.photo.shape[:2]
        y, x = np.ogrid[0.5 : shape[0], 0.5 : shape[1]]
        shortest, nearest = np.full(shape, np.inf, np.float32), np.zeros(shape, np.uint16)
        for index, face in enumerate(self.faces):
            distance = np.hypot(x - face.crop.x, y - face.crop.y, dtype=np.float32) / np.float32(face.crop.width)
            nearest[distance < shortest] = index
            np.minimum(shortest, distance, out=shortest)
        return nearest

    def belongs_to(self, face):
        """Return which pixels are nearer to a face of `faces` than to the others, see `nearest`: bool [H, W]."""
        return self.nearest == [each is face for each in self.faces].index(True)


class FaceParser:
    """Parses photographs: the whole of each, and within it each face that is found.

        parser = FaceParser()
        parsed = parser("me.jpg")              # or a PIL image, or uint8 RGB [H, W, 3]; or a list of them
        parsed.labels                          # uint8 class ids [H, W]
        parsed.probability("hair", "hat")      # float32 [H, W]
        parsed.faces[0].box, parsed.faces[0].angle, parsed.faces[0].probabilities

    checkpoint: a .pt of this project, or an .onnx of export_onnx.py, which needs no torch. image_size: side of a crop
    at the network, px, by default that of its training; less is faster. detector: see detection.py.
    Raises InputError as `load_network` does.
    """

    def __init__(self, checkpoint=SHIPPED_CHECKPOINT, *, gpu_id=0, image_size=None, class_set=None, detector=None):
        self.network = load_network(checkpoint, gpu_id, class_set)
        self.class_set = self.network.class_set
        self.image_size = round_to_stride(image_size or self.network.image_size)
        self.detector = detector or MtcnnDetector()

    def __call__(self, image, whole=False):
        """Return the ParsedPhoto of a photograph, or a list of them for a list; InputError for anything else.

        `whole` takes the picture for a portrait and searches for no face.
        """
        if isinstance(image, (list, tuple)):
            return [self(each, whole) for each in image]
        photo = as_photo(image)
        (all_of_it,) = self.look(photo, [whole_picture(photo.shape)])
        detections = sorted([] if whole else self.detector(photo), key=lambda found: -found.crop.width)
        levels = [[all_of_it]]
        if whole:
            faces = [Face(all_of_it.crop, all_of_it.log_probabilities)]
        elif len(detections) == 1 and is_portrait(detections[0].crop, photo.shape):
            faces = [face_of(detections[0], all_of_it)]
        else:
            crops = [found.crop for found in detections]
            faces = self.parse_detections(photo, detections)
            levels = [[without_islands(all_of_it, crops)]]
            levels += [self.look(photo, between) for between in crops_between(crops, photo.shape)] + [faces]
        return ParsedPhoto(photo, faces, self.class_set, levels)

    def parse_detections(self, photo, detections, image_size=None):
        """Return the Faces of Detections in a photograph; `image_size` as for `look`."""
        looks = self.look(photo, [found.crop for found in detections], image_size)
        return [face_of(found, look) for found, look in zip(detections, looks, strict=True)]

    def look(self, photo, crops, image_size=None):
        """Return the Look at each Crop, a square or the whole picture; `image_size`: longer side at the network, px.

        Without it that is the parser's, but squares become at most MAX_ENLARGEMENT times as large.
        """
        looks = []
        for crop in crops:
            size, picture = image_size or self.image_size, photo
            if crop != whole_picture(photo.shape):
                size = image_size or min(size, round_to_stride(MAX_ENLARGEMENT * crop.width))
                picture = cut(photo, crop, size)
            options = {"image_size": size, "batch_size": 1, "workers": 0, "progress": None}
            ((_, logits, _),) = predict(self.network, [picture], **options)
            looks.append(Look(crop, log_softmax(logits)))
        return looks


def face_of(detection, look):
    return Face(look.crop, look.log_probabilities, detection.box, detection.landmarks, detection.crop.angle)


def log_softmax(logits):
    logits = logits - logits.max(axis=0)
    return logits - np.log(np.exp(logits).sum(axis=0))


def as_photo(image):
    """Return uint8 RGB [H, W, 3] of a path, a PIL image or such an array."""
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(f"an array must be uint8 RGB [H, W, 3]; this one is {image.dtype} {list(image.shape)}")
        return image
    if not isinstance(image, str | os.PathLike):
        raise InputError(f"a photograph is a path, a PIL image or an array; this is of type {type(image).__name__}")
    return read_photo(image)


def is_portrait(crop, shape):
    """Whether a picture [H, W] is nearly the crop: upright, and their overlap is most of both."""
    left, top, right, bottom = replace(crop, angle=0).region(shape)  # turned, it would be the larger square around it
    height, width = shape[:2]
    common = (right - left) * (bottom - top)
    overlap = common / (crop.width * crop.height + width * height - common)
    return abs(crop.angle) <= PORTRAIT_ANGLE and overlap >= PORTRAIT_OVERLAP
