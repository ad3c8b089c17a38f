"""Faces found in whole photographs, each parsed in a crop of its own and put back: `FaceParser`."""

import os
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.images import read_photo, to_rgb
from faceparse.errors import InputError
from faceparse.faces.crops import crop_of_box, crop_of_parts, cut, part_centres, uncut, whole_picture
from faceparse.faces.detection import SURE, find_faces
from faceparse.inference.networks import load_network
from faceparse.inference.prediction import predict

# When the parts that the network sees are those of a face; see crops.crop_of_parts.
LEAST_PARTS = 3
LARGEST_MISFIT = 0.05  # share of the crop's side
LARGEST_SHIFT = 0.35  # of the crop's centre, share of its side
LARGEST_SCALING = 2.0  # of the crop's side, either way
WEAKEST_PARTS = 4  # where the detector was not sure, or did not see the face at all
PORTRAIT_OVERLAP, PORTRAIT_ANGLE = 0.6, 20.0  # intersection over union of crop and picture; degrees


class Face:
    """One face of a photograph.

    box: (left, top, right, bottom) in px as the detector saw it, None where it did not.
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
        region, inside, channels = uncut(self.log_probabilities, self.crop, shape)
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
        region, inside, channels = uncut(self.log_probabilities, self.crop, shape)
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
    at the network, px, by default that of its training; less is faster. Raises InputError as `load_network` does.
    """

    def __init__(self, checkpoint=SHIPPED_CHECKPOINT, *, gpu_id=0, image_size=None, class_set=None):
        self.network = load_network(checkpoint, gpu_id, class_set)
        self.class_set = self.network.class_set
        self.image_size = image_size or self.network.image_size

    def __call__(self, image, whole=False):
        """Return the ParsedPhoto of a photograph, or a list of them for a list.

        `whole` takes the picture for a portrait and searches for no face. Raises InputError for a file that is no
        photograph, and where dlib is missing.
        """
        if isinstance(image, (list, tuple)):
            return [self(each, whole) for each in image]
        photo = as_photo(image)
        faces = [self.parse_whole(photo)] if whole else self.find_and_parse(photo)
        faces.sort(key=lambda face: -face.crop.width)
        return ParsedPhoto(photo, faces, self.class_set)

    def find_and_parse(self, photo):
        """Return the Faces of a photograph; of one that is cut like the training's portraits, the whole of it."""
        faces, whole = self.parse_detections(photo, find_faces(photo)), None
        if not faces:  # the detector may miss a face that the network sees
            whole = self.parse_whole(photo)
            better = refined_crop(whole, WEAKEST_PARTS)
            faces = self.refine(photo, [(whole, better)] if better else [])
        if len(faces) == 1 and is_portrait(faces[0].crop, photo.shape):
            whole = whole or self.parse_whole(photo)
            whole.box, whole.angle = faces[0].box, faces[0].angle
            return [whole]
        return faces

    def parse_detections(self, photo, detections):
        """Return the Faces of Detections in a photograph, without those that are unsure and turn out to be none."""
        faces = self.parse_crops(photo, [crop_of_box(each.box) for each in detections])
        found = []
        for face, detection in zip(faces, detections, strict=True):
            face.box = detection.box
            is_sure = detection.score >= SURE
            better = refined_crop(face, LEAST_PARTS if is_sure else WEAKEST_PARTS)
            if is_sure or better:
                found.append((face, better))
        return self.refine(photo, found)

    def refine(self, photo, found):
        """Parse once more the faces of [(face, better crop or None)] that have one."""
        better = iter(self.parse_crops(photo, [crop for _, crop in found if crop]))
        faces = []
        for face, crop in found:
            if crop:
                refined = next(better)
                refined.box = face.box
                face = refined
            faces.append(face)
        return faces

    def parse_whole(self, photo):
        return self.parse_arrays([photo], [whole_picture(photo.shape)])[0]

    def parse_crops(self, photo, crops):
        """Return the Face of each Crop of a photograph, without boxes."""
        return self.parse_arrays([cut(photo, crop, self.image_size) for crop in crops], crops)

    def parse_arrays(self, arrays, crops):
        predictions = predict(
            self.network,
            arrays,
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


def refined_crop(face, least_parts=LEAST_PARTS):
    """Return the crop that the parts seen in a face's crop call for, None where they are not those of a face."""
    centres = part_centres(face.probabilities, face.class_set)
    if len(centres) < least_parts:
        return None
    old = face.crop
    crop, misfit = crop_of_parts(old, centres)
    shift = np.hypot(crop.x - old.x, crop.y - old.y) / old.width
    scaling = crop.width / old.width
    plausible = shift <= LARGEST_SHIFT and 1 / LARGEST_SCALING <= scaling <= LARGEST_SCALING
    return crop if plausible and misfit <= LARGEST_MISFIT else None


def is_portrait(crop, shape):
    """Whether a picture [H, W] is nearly the crop: upright, and their overlap is most of both."""
    left, top, right, bottom = replace(crop, angle=0).region(shape)  # turned, it would be the larger square around it
    height, width = shape[:2]
    common = (right - left) * (bottom - top)
    overlap = common / (crop.width * crop.height + width * height - common)
    return abs(crop.angle) <= PORTRAIT_ANGLE and overlap >= PORTRAIT_OVERLAP
