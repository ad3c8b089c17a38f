"""Faces found in whole photographs, each parsed in a crop of its own and put back: `FaceParser`."""

import os
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.images import read_photo, to_rgb
from faceparse.errors import InputError
from faceparse.faces.crops import crop_of_parts, cut, part_centres, paste_back, whole_picture
from faceparse.faces.detection import Detection, DlibDetector
from faceparse.inference.image_size import round_to_stride
from faceparse.inference.networks import load_network
from faceparse.inference.prediction import predict

# When the parts that the network sees are those of a face; see crops.crop_of_parts.
MIN_PARTS = 3
MAX_MISFIT = 0.05  # share of the crop's side
MAX_SHIFT = 0.35  # of the crop's centre, share of its side
MAX_SCALING = 2.0  # of the crop's side, either way
MIN_PARTS_UNSURE = 4  # if the detector was not sure, or did not see the face at all
PORTRAIT_OVERLAP, PORTRAIT_ANGLE = 0.6, 20.0  # intersection over union of crop and picture; degrees


class Face:
    """One face of a photograph.

    box: (left, top, right, bottom) in px as the detector saw it, None if it did not.
    angle: by which the face is turned, in degrees clockwise.
    crop: the `Crop` that was parsed.
    log_probabilities: float32 [C, h, w] on a grid over the crop.
    """

    def __init__(self, crop, log_probabilities, class_set):
        self.box, self.angle, self.crop = None, crop.angle, crop
        self.log_probabilities, self.class_set = log_probabilities, class_set

    @property
    def probabilities(self):
        """float32 [C, h, w] on the crop's grid, by class id."""
        probabilities = np.exp(self.log_probabilities)
        return probabilities / probabilities.sum(axis=0)  # what was smoothed over frames does not sum to 1

    @cached_property
    def labels(self):
        """uint8 class ids [h, w] on the crop's grid. `ParsedPhoto.labels` has the photograph's own size."""
        return self.log_probabilities.argmax(axis=0).astype(np.uint8)

    @property
    def confidence(self):
        """The mean probability, over the pixels that are no background, of the class that they were given."""
        foreground = self.labels > 0
        return float(self.probabilities.max(axis=0)[foreground].mean()) if foreground.any() else 0.0

    def labels_in(self, shape):
        """Class ids where the crop lies in a picture [H, W]: the region, uint8 ids of its size, 0 outside the crop."""
        region, inside, channels = paste_back(self.log_probabilities, self.crop, shape)
        largest = next(channels)
        labels = np.zeros(inside.shape, np.uint8)
        for index, channel in enumerate(channels, start=1):
            labels[channel > largest] = index
            np.maximum(largest, channel, out=largest)
        return region, labels * inside

    def probability_in(self, shape, ids):
        """Summed probability of class `ids`, and that of the background, where the crop lies in a picture [H, W].

        Returns the region and two float32 maps of its size; outside the crop all is background.
        """
        region, inside, channels = paste_back(self.log_probabilities, self.crop, shape)
        total, chosen, background = np.zeros((3, *inside.shape), np.float32)
        for index, channel in enumerate(channels):
            probability = np.exp(channel)
            total += probability
            if index in ids:
                chosen += probability
            if index == 0:
                background = probability
        total[~inside], chosen[~inside], background[~inside] = 1, 0, 1
        return region, chosen / total, background / total


@dataclass
class ParsedPhoto:
    """A photograph, uint8 RGB [H, W, 3], with its faces from the largest to the smallest."""

    photo: np.ndarray
    faces: list[Face]
    class_set: object

    @cached_property
    def labels(self):
        """uint8 class ids [H, W] of the whole photograph: larger faces over smaller ones, background elsewhere."""
        labels = np.zeros(self.photo.shape[:2], np.uint8)
        for face in reversed(self.faces):
            (left, top, right, bottom), ids = face.labels_in(labels.shape)
            np.copyto(labels[top:bottom, left:right], ids, where=ids > 0)
        return labels

    def probability(self, *names):
        """Probability that a pixel is of one of the classes, float32 [H, W]. Raises InputError for unknown names."""
        ids = {self.class_set.id_of(name) for name in names}
        of_background = 0 in ids
        result = np.full(self.photo.shape[:2], float(of_background), np.float32)
        for face in reversed(self.faces):
            (left, top, right, bottom), chosen, background = face.probability_in(result.shape, ids - {0})
            behind = result[top:bottom, left:right]
            behind *= background  # what lies behind shows where this face's crop is background
            behind += chosen
        return result


class FaceParser:
    """Finds and parses the faces of photographs.

        parser = FaceParser()
        parsed = parser("me.jpg")              # or a PIL image, or uint8 RGB [H, W, 3]; or a list of them
        parsed.labels                          # uint8 class ids [H, W]
        parsed.probability("hair", "hat")      # float32 [H, W]
        parsed.faces[0].box, parsed.faces[0].angle, parsed.faces[0].probabilities

    checkpoint: a .pt of this project, or an .onnx of export_onnx.py, which needs no torch. image_size: side of a crop
    at the network, px, by default that of its training; less is faster. detector: see detection.py; by default dlib's.
    Raises InputError as `load_network` does.
    """

    def __init__(self, checkpoint=SHIPPED_CHECKPOINT, *, gpu_id=0, image_size=None, class_set=None, detector=None):
        self.network = load_network(checkpoint, gpu_id, class_set)
        self.class_set = self.network.class_set
        self.image_size = round_to_stride(image_size or self.network.image_size)
        self.detector = detector or DlibDetector()

    def __call__(self, image, whole=False):
        """Return the ParsedPhoto of a photograph, or a list of them for a list.

        `whole` takes the picture for a portrait and searches for no face. Raises InputError for a file that is no
        photograph, and as the detector does.
        """
        if isinstance(image, (list, tuple)):
            return [self(each, whole) for each in image]
        photo = as_photo(image)
        faces = self.parse_crops(photo, [whole_picture(photo.shape)]) if whole else self.find_and_parse(photo)
        faces.sort(key=lambda face: -face.crop.width)
        return ParsedPhoto(photo, faces, self.class_set)

    def find_and_parse(self, photo):
        """Return the Faces of a photograph; of one that is cut like the training's portraits, the whole of it."""
        all_of_it = whole_picture(photo.shape)
        faces = self.parse_detections(photo, self.detector(photo))
        if not faces:  # the detector may miss a face that the network sees
            faces = self.parse_detections(photo, [Detection(None, all_of_it, is_sure=False)])
        if len(faces) == 1 and is_portrait(faces[0].crop, photo.shape):
            (portrait,) = self.parse_crops(photo, [all_of_it])
            portrait.box, portrait.angle = faces[0].box, faces[0].angle
            return [portrait]
        return faces

    def parse_detections(self, photo, detections):
        """Return the Faces of Detections in a photograph, without those that are unsure and turn out to be none."""
        faces = []
        firsts = self.parse_crops(photo, [each.crop for each in detections])
        for face, detection in zip(firsts, detections, strict=True):
            better = refined_crop(face, MIN_PARTS if detection.is_sure else MIN_PARTS_UNSURE)
            if better:
                (face,) = self.parse_crops(photo, [better])
            if better or detection.is_sure:
                face.box = detection.box
                faces.append(face)
        return faces

    def parse_crops(self, photo, crops):
        """Return the Face of each Crop of a photograph, without boxes. A crop is square, or the whole picture."""
        all_of_it = whole_picture(photo.shape)
        predictions = predict(
            self.network,
            [photo if crop == all_of_it else cut(photo, crop, self.image_size) for crop in crops],
            image_size=self.image_size,
            batch_size=self.network.batch_size,
            workers=0,
            progress=None,
        )
        return [
            Face(crop, log_softmax(logits), self.class_set)
            for crop, (_, logits, _) in zip(crops, predictions, strict=True)
        ]


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


def refined_crop(face, min_parts=MIN_PARTS):
    """Return the crop that the parts seen in a face's crop call for, or None if they are not those of a face."""
    centres = part_centres(face.probabilities, face.class_set)
    if len(centres) < min_parts:
        return None
    old = face.crop
    crop, misfit = crop_of_parts(old, centres)
    shift = np.hypot(crop.x - old.x, crop.y - old.y) / old.width
    scaling = crop.width / old.width
    plausible = shift <= MAX_SHIFT and 1 / MAX_SCALING <= scaling <= MAX_SCALING
    return crop if plausible and misfit <= MAX_MISFIT else None


def is_portrait(crop, shape):
    """Whether a picture [H, W] is nearly the crop: upright, and their overlap is most of both."""
    left, top, right, bottom = replace(crop, angle=0).region(shape)  # turned, it would be the larger square around it
    height, width = shape[:2]
    common = (right - left) * (bottom - top)
    overlap = common / (crop.width * crop.height + width * height - common)
    return abs(crop.angle) <= PORTRAIT_ANGLE and overlap >= PORTRAIT_OVERLAP
