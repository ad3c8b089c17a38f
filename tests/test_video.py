"""Videos: following, smoothing, broken frames, and what parse_faces.py writes of a clip."""

import signal
import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import parse_faces
from faceparse.data.classes import ClassSet
from faceparse.data.images import read_photo
from faceparse.errors import InputError, Stopped
from faceparse.faces import video
from faceparse.faces.crops import Crop
from faceparse.faces.face_parser import Face, FaceParser
from faceparse.faces.video import FaceTracker, Frames, blend, is_near, new_weight, parse_video, show_webcam
from options import parse_faces_parser
from tools.scenes import draw_backdrop

ASTRONAUT = Path(__file__).parents[1] / "assets/astronaut.jpg"
CLASS_SET = ClassSet(("background", "skin"), ((0, 0, 0), (255, 0, 0)))


def portrait_at(x, y, side=150, size=(320, 240)):
    """A drawn room with the portrait, upper left corner at (x, y)."""
    frame = draw_backdrop(np.random.default_rng(0), size)
    frame[y : y + side, x : x + side] = cv2.resize(read_photo(ASTRONAUT), (side, side), interpolation=cv2.INTER_AREA)
    return frame


def write_clip(path, frames, rate=12):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def read_clip(path):
    capture = cv2.VideoCapture(str(path))
    return list(Frames(capture)), capture.get(cv2.CAP_PROP_FPS)


@pytest.fixture(scope="module")
def parser():
    pytest.importorskip("dlib")
    return FaceParser(image_size=256)


@pytest.mark.slow
def test_a_clip_becomes_an_overlay_of_its_rate_and_length(parser, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video, "SEARCH_EVERY", 4)
    frames = [portrait_at(40 + 6 * index, 50) for index in range(8)]
    write_clip(tmp_path / "mein Clip.mp4", frames)
    monkeypatch.setattr("faceparse.faces.face_parser.FaceParser", lambda *_, **__: parser)
    args = parse_faces_parser("Run.").parse_args([str(tmp_path), "--output_dir", str(tmp_path / "out")])
    parse_faces.main(args)
    stderr = capsys.readouterr().err
    assert "8 frames, 8 with faces, 0 broken" in stderr and "the sound is left out" in stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mein Clip_overlay.mp4"]
    overlays, rate = read_clip(tmp_path / "out/mein Clip_overlay.mp4")
    assert len(overlays) == 8 and rate == pytest.approx(12) and overlays[0].shape == (240, 320, 3)
    for before, after in zip(frames, overlays, strict=True):
        assert np.abs(after.astype(int) - before).max(axis=2).mean() > 10  # the face is coloured


@pytest.mark.slow
def test_a_moving_face_is_followed_between_searches(parser, monkeypatch):
    searches = []
    find_faces = video.find_faces
    monkeypatch.setattr(video, "find_faces", lambda frame: searches.append(1) or find_faces(frame))
    tracker = FaceTracker(parser)
    for index in range(8):
        parsed = tracker(portrait_at(40 + 5 * index, 50 + 2 * index))
    assert len(searches) == 1 and len(parsed.faces) == 1
    alone = parser(portrait_at(75, 64)).faces[0].crop
    followed = parsed.faces[0].crop
    assert np.hypot(followed.x - alone.x, followed.y - alone.y) < 0.1 * alone.width  # it moved by a quarter of that
    for _ in range(video.PATIENCE + 1):
        parsed = tracker(draw_backdrop(np.random.default_rng(0), (320, 240)))
    assert parsed.faces == []


class NoisyParser:
    """Sees a face whose probabilities are drawn anew in each frame."""

    class_set = CLASS_SET

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def face(self, crop):
        logits = self.rng.normal(0, 1, (2, 16, 16)).astype(np.float32)
        return Face(crop, logits, CLASS_SET)

    def parse_crops(self, _frame, crops):
        return [self.face(crop) for crop in crops]

    def parse_detections(self, _frame, detections):
        return [self.face(Crop(20, 20, 32, 32)) for _ in detections]


def test_smoothing_lets_fewer_pixels_change(monkeypatch):
    finds = [SimpleNamespace(box=(10, 10, 30, 30))]
    monkeypatch.setattr(video, "find_faces", lambda _: finds)
    frame, changes = np.zeros((40, 40, 3), np.uint8), {}
    for smooth in (True, False):
        if not smooth:
            monkeypatch.setattr(video, "STILL", 1.0)  # the new frame alone
        tracker = FaceTracker(NoisyParser())
        labels = [tracker(frame).labels for _ in range(5)]
        changes[smooth] = np.mean([(a != b).mean() for a, b in pairwise(labels)])
        assert len(tracker.tracks) == 1
        face = tracker.tracks[0].face
        np.testing.assert_array_equal(face.probabilities.argmax(axis=0), face.labels)
    assert changes[True] < 0.7 * changes[False]


def test_blending_takes_the_short_way_round():
    old, new = Crop(0, 0, 10, 10, 170), Crop(4, 8, 20, 20, -170)
    middle = blend(old, new, 0.5)
    assert (middle.x, middle.y, middle.width, middle.height) == (2, 4, 15, 15) and middle.angle % 360 == 180
    assert blend(old, new, 1).angle % 360 == 190
    assert new_weight(old, old) == pytest.approx(video.STILL) and new_weight(old, new) == pytest.approx(1)


class FakeCapture:
    """A cv2.VideoCapture of 2 x 2 frames; None is a broken one."""

    def __init__(self, frames, promised=None):
        self.frames, self.promised, self.released = list(frames), len(frames) if promised is None else promised, False

    def get(self, _):
        return self.promised

    def read(self):
        frame = self.frames.pop(0) if self.frames else None
        return frame is not None, frame

    def release(self):
        self.released = True


@pytest.mark.parametrize(
    ("readable", "promised", "broken"),
    [("xxx", 3, 0), ("x.x", 3, 1), (".x..x", 5, 3), ("xx", 3, 1), ("xxx", 0, 0), ("", 0, 0), ("xxxx", 2, 0)],
)
def test_broken_frames_are_skipped_and_counted(readable, promised, broken):
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[..., 0] = 255  # OpenCV's order is BGR
    frames = Frames(FakeCapture([blue if each == "x" else None for each in readable], promised))
    read = list(frames)
    assert len(read) == readable.count("x") and frames.broken == broken
    assert all((frame == (0, 0, 255)).all() for frame in read)


def test_what_is_no_video_is_refused_and_nothing_written(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="not a readable video"):
        parse_video(None, tmp_path / "clip.mp4", tmp_path / "out/clip_overlay.mp4")
    assert not (tmp_path / "out").exists()


def test_the_webcam_is_shown_until_q(monkeypatch):
    shown, keys = [], iter([-1, ord("q")])
    capture = FakeCapture([np.zeros((40, 200, 3), np.uint8)] * 5)
    monkeypatch.setattr(video, "open_video", lambda number: capture)
    monkeypatch.setattr(video, "find_faces", lambda _: [])
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1)
    show_webcam(NoisyParser(), 0)
    assert len(shown) == 2 and shown[0].any() and capture.released  # the rate is written into the picture


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_webcam_as_usual_and_sigterm_does_not(monkeypatch, number):
    def stop(_):
        raise Stopped if number == signal.SIGTERM else KeyboardInterrupt

    monkeypatch.setattr(video, "open_video", lambda _: FakeCapture([np.zeros((40, 200, 3), np.uint8)]))
    monkeypatch.setattr(video, "find_faces", stop)
    with pytest.raises(Stopped) if number == signal.SIGTERM else nullcontext():
        show_webcam(NoisyParser(), 0)


def test_a_camera_that_gives_no_picture(monkeypatch):
    """As one that another program uses, on Windows."""
    monkeypatch.setattr(video, "open_video", lambda number: FakeCapture([]))
    with pytest.raises(InputError, match="--webcam 0: gives no picture"):
        show_webcam(NoisyParser(), 0)


def test_a_missing_camera():
    if sys.platform != "linux":
        pytest.skip("elsewhere asking for a camera may open a dialogue")
    with pytest.raises(InputError, match="--webcam 99: no such camera"):
        show_webcam(NoisyParser(), 99)


class TwoFaces(NoisyParser):
    """Finds two faces of different sizes in every search; `places` are the crops around them, the smaller one first."""

    places = Crop(12, 12, 16, 16), Crop(28, 28, 24, 24)

    def parse_detections(self, _frame, detections):
        return [self.face(crop) for crop in self.places[: len(detections)]]


def test_the_larger_of_two_followed_faces_comes_first(monkeypatch):
    """So that it covers the smaller one, as in photographs, in the frame of the search and in those after it."""
    finds = [SimpleNamespace(box=(8, 8, 16, 16)), SimpleNamespace(box=(24, 24, 32, 32))]
    monkeypatch.setattr(video, "find_faces", lambda _: finds)
    tracker = FaceTracker(TwoFaces())
    for _ in range(3):
        parsed = tracker(np.zeros((40, 40, 3), np.uint8))
        assert [face.crop.width for face in parsed.faces] == [24, 16]


def test_two_tracks_of_one_face_become_one(monkeypatch):
    """As where a face passes before another: what is seen in both crops is the face in front."""
    finds = [SimpleNamespace(box=(8, 8, 16, 16)), SimpleNamespace(box=(24, 24, 32, 32))]
    monkeypatch.setattr(video, "find_faces", lambda _: finds)
    monkeypatch.setattr(video, "refined_crop", lambda face: face.crop)
    tracker, frame = FaceTracker(TwoFaces()), np.zeros((40, 40, 3), np.uint8)
    assert len(tracker(frame).faces) == len(tracker(frame).faces) == 2
    monkeypatch.setattr(video, "refined_crop", lambda face: TwoFaces.places[1])
    assert [len(tracker(frame).faces) for _ in range(3)] == [1, 1, 1]


def test_a_find_is_the_followed_face_up_to_three_tenths_of_its_side_away():
    crop = Crop(100, 100, 40, 40)
    for x, y, near in ((111, 100, True), (113, 100, False), (100, 89, True), (100, 87, False), (109, 109, False)):
        assert is_near(x, y, crop) == near


@pytest.mark.parametrize(("promised", "rate"), [(12, 12), (0, 25), (90000, 25)])
def test_a_clip_keeps_its_rate_and_one_without_gets_25(tmp_path, monkeypatch, promised, rate):
    """FakeCapture gives one number for the rate and for the frames, of which three are there, one of them broken."""
    frame = np.zeros((32, 48, 3), np.uint8)
    capture = FakeCapture([frame, None, frame], promised)
    monkeypatch.setattr(video, "BROKEN_IN_A_ROW", 3)
    monkeypatch.setattr(video, "open_video", lambda path: capture)
    monkeypatch.setattr(video, "find_faces", lambda _: [])
    done = parse_video(NoisyParser(), tmp_path / "a.mov", tmp_path / "a.mp4")
    written, its_rate = read_clip(tmp_path / "a.mp4")
    readable = 1 if promised == 0 else 2  # without a promise what cannot be read is the end
    assert len(written) == done["frames"] == readable and done["with_faces"] == 0
    assert its_rate == pytest.approx(rate) and written[0].shape == (32, 48, 3) and capture.released
