"""Videos and cameras: faces are searched every few frames, followed in between, and smoothed over time."""

import signal
import time
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from faceparse.data.drawing import overlay
from faceparse.errors import InputError
from faceparse.faces.crops import Crop
from faceparse.faces.detection import find_faces
from faceparse.faces.face_parser import Face, ParsedPhoto, refined_crop
from faceparse.files import atomic_path

VIDEO_SUFFIXES = {".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"}
SEARCH_EVERY = 15  # frames
PATIENCE = 5  # frames in which a face may not be seen before it is given up
STILL, MOVING = 0.3, 0.15  # weight of the new frame in the exponential means; motion that makes it 1, share of the side
SAME_FACE = 0.3  # largest distance from the middle of the crop of a face that is followed, share of its side
BROKEN_IN_A_ROW = 100  # frames; then the file has ended


@dataclass
class Track:
    """A face that is followed: its crop in the next frame, its smoothed log-probabilities, frames without it."""

    face: Face
    crop: Crop
    misses: int = 0


class FaceTracker:
    """Parses the frames of one video in turn: `tracker(frame)` takes uint8 RGB [H, W, 3] and gives a ParsedPhoto.

    What the network sees in a frame says where the face is in the next one, so following costs no second pass. The
    smoothing happens on the grid of the crop, which moves with the face.
    """

    def __init__(self, parser):
        self.parser, self.tracks, self.frames = parser, [], 0

    def __call__(self, frame):
        self.follow(frame)
        if self.frames % SEARCH_EVERY == 0:
            self.search(frame)
        self.frames += 1
        faces = sorted((track.face for track in self.tracks), key=lambda face: -face.crop.width)
        return ParsedPhoto(frame, faces, self.parser.class_set)

    def follow(self, frame):
        seen = self.parser.parse_crops(frame, [track.crop for track in self.tracks])
        for track, face in zip(self.tracks, seen, strict=True):
            old = track.face.log_probabilities
            target = refined_crop(face)
            weight = new_weight(track.crop, target or track.crop)
            if target:
                track.crop = blend(track.crop, target, weight)
            track.misses = 0 if target else track.misses + 1
            face.log_probabilities = old + weight * (face.log_probabilities - old)
            face.box = track.face.box
            track.face = face
        # Where one face hides another, both tracks end at the one in front. One of them goes.
        tracks, self.tracks = sorted(self.tracks, key=lambda track: track.misses), []
        for track in tracks:
            if track.misses <= PATIENCE and not self.follows(track.crop.x, track.crop.y):
                self.tracks.append(track)

    def search(self, frame):
        new = [each for each in find_faces(frame) if not self.follows(*middle(each.box))]
        for face in self.parser.parse_detections(frame, new):
            self.tracks.append(Track(face, refined_crop(face) or face.crop))

    def follows(self, x, y):
        """Tell whether a face whose middle is there is followed already."""
        return any(is_near(x, y, track.crop) for track in self.tracks)


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def is_near(x, y, crop):
    """Tell whether a face whose middle is there is the one in the crop."""
    return bool(np.hypot(x - crop.x, y - crop.y) < SAME_FACE * crop.width)


def new_weight(old, new):
    """The weight of the new frame, STILL to 1: what rests is smoothed, what moves is followed at once."""
    shift = np.hypot(new.x - old.x, new.y - old.y) / old.width
    growth = abs(new.width / old.width - 1)
    turn = np.radians(abs((new.angle - old.angle + 180) % 360 - 180))
    return float(STILL + (1 - STILL) * min(1, max(shift, growth, turn) / MOVING))


def blend(old, new, weight):
    """The crop between two, `weight` of the way to the new one."""
    turn = (new.angle - old.angle + 180) % 360 - 180
    side = old.width + weight * (new.width - old.width)
    x, y = old.x + weight * (new.x - old.x), old.y + weight * (new.y - old.y)
    return Crop(x, y, side, side, old.angle + weight * turn)


class Frames:
    """The frames of an opened cv2.VideoCapture as uint8 RGB [H, W, 3]; `broken` counts those that were skipped.

    `expected` is the number of frames that the file promises, 0 where it promises none.
    """

    def __init__(self, capture):
        self.capture, self.broken = capture, 0
        self.expected = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self):
        tried = failed = 0
        # A broken frame and the end look the same; what is broken lies before a frame that can be read, or before the
        # number of frames that the file promises.
        while failed < BROKEN_IN_A_ROW:
            is_read, frame = self.capture.read()
            tried += 1
            if is_read:
                self.broken, failed = self.broken + failed, 0
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            elif tried > self.expected:
                break
            else:
                failed += 1
        self.broken += failed


def open_video(source):
    """Return a cv2.VideoCapture of a path or a camera's number; InputError where it cannot be opened."""
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    if not capture.isOpened():
        is_camera = isinstance(source, int)
        raise InputError(f"--webcam {source}: no such camera" if is_camera else f"{source}: not a readable video")
    return capture


def parse_video(parser, path, output_path):
    """Write the overlay of a video as MP4, at its rate and without sound.

    Returns {"frames", "with_faces", "broken", "frames_per_second" of the work}. Raises InputError for a file that is
    no video and where the output cannot be written. Memory does not grow with the length.
    """
    capture = open_video(path)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1000 else 25.0  # files without a rate
        frames, tracker, with_faces, writer, start = Frames(capture), FaceTracker(parser), 0, None, time.perf_counter()
        with atomic_path(output_path) as temporary:
            try:
                bar = tqdm(frames, path.name, frames.expected or None, unit="frame", leave=False, disable=None)
                for frame in bar:
                    if writer is None:
                        writer = open_writer(temporary, rate, frame.shape)
                    parsed = tracker(frame)
                    with_faces += bool(parsed.faces)
                    writer.write(cv2.cvtColor(draw(parsed), cv2.COLOR_RGB2BGR))
            finally:
                if writer is not None:
                    writer.release()
            if writer is None:
                raise InputError(f"{path}: holds no frame that can be read")
            if not cv2.VideoCapture(str(temporary)).read()[0]:  # OpenCV does not say that a disk is full
                raise InputError(f"{output_path}: cannot be written whole; is the disk full?")
    finally:
        capture.release()
    seconds = time.perf_counter() - start
    return {
        "frames": tracker.frames,
        "with_faces": with_faces,
        "broken": frames.broken,
        "frames_per_second": tracker.frames / seconds,
    }


def open_writer(path, rate, shape):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (shape[1], shape[0]))
    if not writer.isOpened():
        raise InputError(f"{path}: cannot be written as MP4; is OpenCV built without FFmpeg?")
    return writer


def draw(parsed):
    return overlay(parsed.photo, parsed.labels, class_set=parsed.class_set)


def show_webcam(parser, number):
    """Show a camera's overlay and its frames a second in a window, until it is closed, or until q, Esc or Ctrl-C."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # ten lines where there is no camera
    capture, title = open_video(number), "faces (q ends)"
    tracker, per_second, before = FaceTracker(parser), 0.0, time.perf_counter()
    try:
        for frame in Frames(capture):
            picture = cv2.cvtColor(draw(tracker(frame)), cv2.COLOR_RGB2BGR)
            now = time.perf_counter()
            per_second, before = 0.9 * per_second + 0.1 / max(now - before, 1e-6), now
            cv2.putText(picture, f"{per_second:.1f} frames/s", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255,) * 3, 2)
            try:
                cv2.imshow(title, picture)
                key = cv2.waitKey(1) & 0xFF
                if key in (ord("q"), 27) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
                    break
            except cv2.error:
                raise InputError("--webcam: this OpenCV cannot show a window (opencv-python-headless?)") from None
        if not tracker.frames:
            raise InputError(f"--webcam {number}: gives no picture; is it in use, or not allowed to this program?")
    except KeyboardInterrupt as stop:
        if getattr(stop, "number", signal.SIGINT) != signal.SIGINT:
            raise
        # Ctrl-C is a usual end, too.
    finally:
        capture.release()
        with suppress(cv2.error):
            cv2.destroyAllWindows()
