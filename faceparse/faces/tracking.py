"""Faces in the frames of a video: searched every few frames, followed in between, and smoothed over time."""

from dataclasses import dataclass

import numpy as np

from faceparse.faces.crops import Crop, crop_of_parts, part_centres, whole_picture
from faceparse.faces.face_parser import ParsedPhoto
from faceparse.faces.looks import Face, without_islands
from faceparse.inference.image_size import round_to_stride

SEARCH_EVERY = 15  # frames
WHOLE_EVERY = 3  # frames; what lies far from a face moves less
FACE_SHARE, WHOLE_SHARE = 0.75, 0.5  # sides at the network, shares of a photograph's: half and a quarter of the time
PATIENCE = 5  # frames in which a face may not be seen before it is given up
STILL, MOVING = 0.3, 0.15  # weight of the new frame in the exponential means; motion that makes it 1, share of the side
SAME_FACE = 0.3  # largest distance from the middle of the crop of a face that is followed, share of its side
# When the parts that the network sees are those of a face; see crops.crop_of_parts.
MIN_PARTS = 3
MAX_MISFIT = 0.05  # share of the crop's side
MAX_SHIFT = 0.35  # of the crop's centre, share of its side
MAX_SCALING = 2.0  # of the crop's side, either way


@dataclass
class Track:
    """A face that is followed: its crop in the next frame, its smoothed log-probabilities, frames without it."""

    face: Face
    crop: Crop
    is_refined: bool = False  # the crop shows another part of the head than `face`, so nothing can be smoothed yet
    misses: int = 0


class FaceTracker:
    """Parses the frames of one video in turn: `tracker(frame)` takes uint8 RGB [H, W, 3] and gives a ParsedPhoto.

    What the network sees in a frame says where the face is in the next one, so following costs no second pass. The
    smoothing happens on the grid of the crop, which moves with the face.
    """

    def __init__(self, parser):
        self.parser, self.tracks, self.frames, self.whole = parser, [], 0, None
        self.face_size = round_to_stride(FACE_SHARE * parser.image_size)
        self.whole_size = round_to_stride(WHOLE_SHARE * parser.image_size)

    def __call__(self, frame):
        self.follow(frame)
        if self.frames % SEARCH_EVERY == 0:
            self.search(frame)
        if self.frames % WHOLE_EVERY == 0 or not self.tracks:
            (whole,) = self.parser.look(frame, [whole_picture(frame.shape)], self.whole_size)
            self.whole = [without_islands(whole, [track.crop for track in self.tracks])]
        self.frames += 1
        faces = sorted((track.face for track in self.tracks), key=lambda face: -face.crop.width)
        return ParsedPhoto(frame, faces, self.parser.class_set, [self.whole, faces])

    def follow(self, frame):
        seen = self.parser.look(frame, [track.crop for track in self.tracks], self.face_size)
        for track, look in zip(self.tracks, seen, strict=True):
            log_probabilities, crop = track.face.log_probabilities, track.crop
            target = refined_crop(look, self.parser.class_set)
            weight = 1.0 if track.is_refined else new_weight(crop, target or crop)
            if target:
                track.crop = blend(crop, target, weight)
            track.is_refined, track.misses = False, 0 if target else track.misses + 1
            smoothed = log_probabilities + weight * (look.log_probabilities - log_probabilities)
            box = moved(track.face.box, crop, track.crop)
            track.face = Face(look.crop, smoothed, box, angle=look.crop.angle)
        # If one face hides another, both tracks end at the one in front. One of them goes.
        tracks, self.tracks = sorted(self.tracks, key=lambda track: track.misses), []
        for track in tracks:
            if track.misses <= PATIENCE and not self.follows(track.crop.x, track.crop.y):
                self.tracks.append(track)

    def search(self, frame):
        new = [each for each in self.parser.detector(frame) if not self.follows(*middle(each.box))]
        for face in self.parser.parse_detections(frame, new, self.face_size):
            crop = refined_crop(face, self.parser.class_set) or face.crop
            self.tracks.append(Track(face, crop, is_refined=crop != face.crop))

    def follows(self, x, y):
        """Tell whether a face whose middle is there is followed already."""
        crops = [track.crop for track in self.tracks]
        return any(np.hypot(x - crop.x, y - crop.y) < SAME_FACE * crop.width for crop in crops)


def refined_crop(look, class_set):
    """Return the crop that the parts seen in a look call for, or None if they are not those of a face."""
    centres = part_centres(look.probabilities, class_set)
    if len(centres) < MIN_PARTS:
        return None
    old = look.crop
    crop, misfit = crop_of_parts(old, centres)
    shift = np.hypot(crop.x - old.x, crop.y - old.y) / old.width
    scaling = crop.width / old.width
    plausible = shift <= MAX_SHIFT and 1 / MAX_SCALING <= scaling <= MAX_SCALING
    return crop if plausible and misfit <= MAX_MISFIT else None


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def turn_between(old, new):
    """Degrees clockwise from one crop's angle to the other's, the short way round."""
    return (new.angle - old.angle + 180) % 360 - 180


def new_weight(old, new):
    """The weight of the new frame, STILL to 1: what rests is smoothed, what moves is followed at once."""
    shift = np.hypot(new.x - old.x, new.y - old.y) / old.width
    growth = abs(new.width / old.width - 1)
    turn = np.radians(abs(turn_between(old, new)))
    return float(STILL + (1 - STILL) * min(1, max(shift, growth, turn) / MOVING))


def blend(old, new, weight):
    """The crop between two, `weight` of the way to the new one."""
    side = old.width + weight * (new.width - old.width)
    x, y = old.x + weight * (new.x - old.x), old.y + weight * (new.y - old.y)
    return Crop(x, y, side, side, old.angle + weight * turn_between(old, new))


def moved(box, old, new):
    """A box (left, top, right, bottom) that moves, grows and turns around with a crop, and stays upright."""
    x, y = middle(box)
    scale = new.width / old.width
    offset = complex(x - old.x, y - old.y) * scale * np.exp(1j * np.radians(turn_between(old, new)))
    x, y = new.x + offset.real, new.y + offset.imag
    half_width, half_height = scale * (box[2] - box[0]) / 2, scale * (box[3] - box[1]) / 2
    return float(x - half_width), float(y - half_height), float(x + half_width), float(y + half_height)
