"""Videos: following, smoothing, broken frames, and what parse_faces.py writes of a clip."""

import os
import subprocess
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import call
from PIL import Image

import parse_faces
from benchmarks.scenes import draw_backdrop
from faceparse.data.classes import ClassSet
from faceparse.data.images import read_maker, read_mask, read_photo, write_label_map
from faceparse.errors import InputError
from faceparse.faces import tracking, video
from faceparse.faces.command import write_frame
from faceparse.faces.crops import Crop, whole_picture
from faceparse.faces.detection import Detection
from faceparse.faces.face_parser import FaceParser
from faceparse.faces.looks import Face, Look
from faceparse.faces.tracking import FaceTracker, moved
from faceparse.faces.video import Frames, open_video, parse_frames

ASTRONAUT = Path(__file__).parents[1] / "assets/astronaut.jpg"
CLASS_SET = ClassSet(("background", "skin"), ((0, 0, 0), (255, 0, 0)))
BLANK = np.zeros((40, 40, 3), np.uint8)


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
    with open_video(path) as frames:
        return list(frames), frames.rate


@pytest.fixture(scope="module")
def parser():
    return FaceParser(image_size=384)


@pytest.mark.slow
def test_a_clip_becomes_an_overlay_of_its_rate_and_length(parser, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "SEARCH_EVERY", 4)
    frames = [portrait_at(40 + 6 * index, 50) for index in range(8)]
    write_clip(tmp_path / "mein Clip.mp4", frames)
    monkeypatch.setattr("faceparse.faces.face_parser.FaceParser", lambda *_, **__: parser)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: None)
    call(parse_faces, tmp_path, "--output_dir", tmp_path / "out")
    stderr = capsys.readouterr().err
    assert "8 frames, 8 with faces, 0 broken" in stderr and "without sound" in stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mein Clip_overlay.mp4"]
    overlays, rate = read_clip(tmp_path / "out/mein Clip_overlay.mp4")
    assert len(overlays) == 8 and rate == pytest.approx(12) and overlays[0].shape == (240, 320, 3)
    for before, after in zip(frames, overlays, strict=True):
        assert np.abs(after.astype(int) - before).max(axis=2).mean() > 10  # the face is coloured


@pytest.mark.slow
def test_a_moving_face_is_followed_between_searches(parser):
    tracker = FaceTracker(parser)
    first, *_, parsed = [tracker(portrait_at(40 + 5 * index, 50 + 2 * index)) for index in range(8)]
    alone = parser(portrait_at(75, 64)).faces[0]
    followed = parsed.faces[0]
    near = 0.1 * alone.crop.width
    assert len(parsed.faces) == 1
    assert np.hypot(followed.crop.x - alone.crop.x, followed.crop.y - alone.crop.y) < near
    np.testing.assert_allclose(followed.box, alone.box, atol=near)
    assert not np.allclose(first.faces[0].box, alone.box, atol=2 * near)  # it moved by a quarter of the crop
    for _ in range(tracking.PATIENCE + 1):
        parsed = tracker(draw_backdrop(np.random.default_rng(0), (320, 240)))
    assert parsed.faces == []


def test_a_box_moves_grows_and_turns_with_the_crop():
    """A quarter turn clockwise and twice the size: what was 6 px to the right of the middle is 12 px below it."""
    old, new = Crop(20, 20, 40, 40, 350), Crop(50, 60, 80, 80, 80)
    assert moved((22, 18, 30, 22), old, new) == pytest.approx((42, 68, 58, 76))


class NoisyParser:
    """Finds faces in the crops of `places` in every search, and sees probabilities drawn anew in each frame."""

    class_set, image_size = CLASS_SET, 64

    def __init__(self, *places):
        self.rng, self.sizes = np.random.default_rng(0), set()
        self.detections = [Detection((each.x - 5, each.y - 5, each.x + 5, each.y + 5), each) for each in places]

    def detector(self, _frame):
        return self.detections

    def look(self, frame, crops, image_size=None):
        is_whole = crops == [whole_picture(frame.shape)]
        self.sizes |= {(is_whole, image_size)}
        if is_whole:
            return [Look(crops[0], np.zeros((2, 4, 4), np.float32))]
        return [Look(crop, self.rng.normal(0, 1, (2, 16, 16)).astype(np.float32)) for crop in crops]

    def parse_detections(self, frame, detections, image_size=None):
        looks = self.look(frame, [each.crop for each in detections], image_size)
        return [
            Face(look.crop, look.log_probabilities, found.box) for look, found in zip(looks, detections, strict=True)
        ]


def test_smoothing_lets_fewer_pixels_change(monkeypatch):
    changes = []
    for still in (tracking.STILL, 1.0):  # of the latter the new frame alone
        monkeypatch.setattr(tracking, "STILL", still)
        tracker = FaceTracker(NoisyParser(Crop(20, 20, 32, 32)))
        labels = [tracker(BLANK).labels for _ in range(5)]
        changes.append(np.mean([(a != b).mean() for a, b in pairwise(labels)]))
        (track,) = tracker.tracks
        np.testing.assert_array_equal(track.face.probabilities.argmax(axis=0), track.face.labels)
    assert changes[0] < 0.7 * changes[1]


def test_the_whole_is_seen_anew_in_every_third_frame_or_where_there_is_no_face():
    wholes = []
    for places in ([Crop(20, 20, 32, 32)], []):
        tracker = FaceTracker(NoisyParser(*places))
        wholes.append([tracker(BLANK).levels[0][0] for _ in range(4)])
    assert [after is before for before, after in pairwise(wholes[0])] == [True, True, False]
    assert not any(after is before for before, after in pairwise(wholes[1]))
    assert tracker.parser.sizes == {(False, 48), (True, 32)}  # three quarters and half of 64


SMALL_CROP, LARGE_CROP = Crop(12, 12, 16, 16), Crop(28, 28, 24, 24)


def test_what_two_different_crops_show_is_not_averaged(monkeypatch):
    """The detector's crop is looked at in the first frame, the refined one in the second."""
    monkeypatch.setattr(tracking, "refined_crop", lambda look, class_set: LARGE_CROP)
    tracker = FaceTracker(NoisyParser(SMALL_CROP))
    _, (face,) = (tracker(BLANK).faces for _ in range(2))
    assert face.crop == LARGE_CROP
    _, seen = np.random.default_rng(0).normal(0, 1, (2, 2, 16, 16))
    np.testing.assert_allclose(face.log_probabilities, seen, atol=1e-6)


class FakeCapture:
    """A cv2.VideoCapture; None is a broken frame. `promised` is its number of frames and its rate."""

    def __init__(self, frames, promised=0):
        self.frames, self.promised, self.released = list(frames), promised, False

    def isOpened(self):
        return True

    def get(self, _):
        return self.promised

    def read(self):
        frame = self.frames.pop(0) if self.frames else None
        return frame is not None, frame

    def release(self):
        self.released = True


@pytest.fixture
def camera(monkeypatch):
    """Let `cv2.VideoCapture(0)` give some frames."""
    real = cv2.VideoCapture

    def connect(frames, **options):
        capture = FakeCapture(frames, **options)
        monkeypatch.setattr(cv2, "VideoCapture", lambda source: capture if source == 0 else real(source))
        return capture

    monkeypatch.setattr(video, "CAMERA_WAIT", 0)
    return connect


@pytest.mark.parametrize(
    ("readable", "promised", "broken"),
    # The last two are as of a camera, and of a file with a wrong number of frames.
    [("xxx", 3, 0), (".x..x", 5, 3), ("x.x", 0, 1), ("xx..x", 2, 2)],
)
def test_broken_frames_are_skipped_and_counted(readable, promised, broken):
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[..., 0] = 255  # OpenCV's order is BGR
    frames = Frames(FakeCapture([blue if each == "x" else None for each in readable], promised))
    read = list(frames)
    assert len(read) == readable.count("x") and frames.broken == broken
    assert all((frame == (0, 0, 255)).all() for frame in read)


@pytest.mark.parametrize(("promised", "rate"), [(12, 12), (0, 25), (90000, 25)])
def test_a_clip_keeps_its_rate_and_one_without_gets_25(tmp_path, camera, promised, rate):
    frame = np.zeros((32, 48, 3), np.uint8)
    capture = camera([frame, None, frame], promised=promised)
    done = video.write_video(NoisyParser(), 0, tmp_path / "a.mp4")
    written, its_rate = read_clip(tmp_path / "a.mp4")
    assert len(written) == done["frames"] == 2 and done["with_faces"] == 0
    assert its_rate == pytest.approx(rate) and written[0].shape == (32, 48, 3) and capture.released


@pytest.fixture
def ffmpeg():
    """Run imageio-ffmpeg's ffmpeg; returns what it prints."""
    pytest.importorskip("imageio_ffmpeg")

    def call(*arguments):
        command = [video.find_ffmpeg(), "-y", "-hide_banner", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stderr

    return call


def make_phone_clip(ffmpeg, folder):
    """Ten frames of odd sides, the second half of them slow, and a tone; a rotation flag turns them upright."""
    drawn = "nullsrc=size=65x49:rate=10:duration=1,geq=r='28*N':g='3*X':b='4*Y'"
    source = ["-f", "lavfi", "-i", drawn, "-f", "lavfi", "-i", "sine=duration=2"]
    slower = ["-vf", "setpts='if(lt(N,5),N,3*N-10)/10/TB'", "-fps_mode", "vfr"]
    ffmpeg(*source, *slower, "-c:a", "aac", folder / "lying.mkv")
    ffmpeg("-display_rotation", 90, "-i", folder / "lying.mkv", "-c", "copy", folder / "phone.mov")
    return folder / "phone.mov"


def test_a_phones_clip_is_upright_has_its_sound_and_plays_in_browsers(ffmpeg, tmp_path):
    clip = make_phone_clip(ffmpeg, tmp_path)
    lying, _ = read_clip(tmp_path / "lying.mkv")
    done = video.write_video(NoisyParser(), clip, tmp_path / "out.mp4")
    assert done["frames"] == 10
    said = ffmpeg("-i", tmp_path / "out.mp4")
    assert "Video: h264" in said and "yuv420p" in said and "50x66" in said and "Audio: aac" in said
    content = (tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # so it starts before all of it is there
    frames, rate = read_clip(tmp_path / "out.mp4")
    assert len(frames) == pytest.approx(1.7 * rate + 1, abs=1)
    upright = [np.pad(np.rot90(frame), ((0, 1), (0, 1), (0, 0)), "edge") / 2 for frame in lying]  # half is black now
    differences = np.array([[np.abs(frame - each).mean() for each in upright] for frame in frames])
    assert differences.min(axis=1).max() < 4
    for index, seconds in enumerate((0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.1, 1.4, 1.7)):
        first = differences.argmin(axis=1).tolist().index(index)
        assert first / rate == pytest.approx(seconds, abs=1.5 / rate)


def test_label_maps_and_cut_outs_of_frames_and_no_half_of_them(tmp_path):
    frames = [np.full((32, 48, 3), 20 * index, np.uint8) for index in range(3)]
    write_clip(tmp_path / "a.avi", frames)
    folder, seen, write_labels = tmp_path / "a_frames", [], partial(write_label_map, made_by="made by a test")

    def write(parsed, place, broken=False):
        assert not folder.exists()
        seen.append(parsed.labels)
        for kind in ("labels", "cutout"):
            write_frame(parsed, place, kind, {"skin": ["skin"]}, write_labels)
        if broken:
            raise InputError("a disk is full")

    video.write_video(NoisyParser(SMALL_CROP), tmp_path / "a.avi", tmp_path / "a.mp4", folder, write)
    names = [f"00000{number}{ending}.png" for number in (1, 2, 3) for ending in ("", "_skin")]
    assert sorted(path.name for path in folder.iterdir()) == names
    for index, labels in enumerate(seen):
        np.testing.assert_array_equal(read_mask(folder / names[2 * index]), labels)
        assert read_maker(folder / names[2 * index]) == "made by a test"
        assert Image.open(folder / names[2 * index + 1]).mode == "RGBA"
    before = sorted(tmp_path.rglob("*"))
    folder = tmp_path / "b_frames"
    with pytest.raises(InputError, match="full"):
        video.write_video(NoisyParser(), tmp_path / "a.avi", tmp_path / "b.mp4", folder, partial(write, broken=True))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize("fault", ["ulimit -f 1", "exit 3", "kill -9 $$"])
def test_an_ffmpeg_that_dies_is_one_line_and_leaves_nothing(ffmpeg, tmp_path, monkeypatch, fault):
    clip, real = make_phone_clip(ffmpeg, tmp_path), video.find_ffmpeg()
    script = tmp_path / "ffmpeg"
    script.write_text(f'#!/bin/sh\n{fault}\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: script)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"out\.mp4: ffmpeg cannot write it \(.+\); is the disk full\?"):
        video.write_video(NoisyParser(), clip, tmp_path / "out.mp4", tmp_path / "frames", lambda *_: None)
    assert sorted(tmp_path.rglob("*")) == before


def test_every_frame_is_handed_on_until_the_callback_says_stop():
    seen = []

    def write(frame, parsed):
        assert frame is parsed.photo is BLANK and parsed.labels.shape == (40, 40) and len(parsed.faces) == 1
        seen.append(frame)
        return len(seen) == 3

    assert parse_frames(NoisyParser(LARGE_CROP), iter([BLANK] * 5), write) == (3, 3)


def test_the_webcam_is_shown_until_q_and_outlives_a_broken_frame(monkeypatch, camera):
    shown, keys = [], iter([-1, ord("q")])
    frame = np.zeros((40, 200, 3), np.uint8)
    capture = camera([frame, None, frame, frame])
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1)
    video.show_webcam(NoisyParser(), 0)
    assert len(shown) == 2 and shown[0].any() and capture.released  # the rate is written into the picture
