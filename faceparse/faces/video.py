"""Videos and cameras: their frames are read, parsed, and written or shown."""

import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryFile

import cv2
import numpy as np
from tqdm import tqdm

from faceparse.data.drawing import overlay
from faceparse.errors import InputError, Stopped
from faceparse.faces.tracking import FaceTracker
from faceparse.files import atomic_folder, atomic_path

VIDEO_SUFFIXES = {".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"}
MAX_BROKEN = 100  # frames in a row that cannot be read; then the video has ended
MAX_STILL = 10.0  # seconds from one frame to the next at most, whatever the times in the file say
CAMERA_WAIT = 0.03  # seconds before a camera that gave no frame is asked again


class Frames:
    """The frames of a cv2.VideoCapture as uint8 RGB [H, W, 3], upright as the file's rotation flag says.

    read, broken: how many were read so far, and how many could not be. seconds: from the first to the last one read, 0
    if the source does not tell. rate: frames a second, 25 if it does not tell. expected: the number of frames that it
    promises, or 0. wait: seconds before a frame is asked for again.
    """

    def __init__(self, capture, wait=0.0):
        self.capture, self.wait, self.read, self.broken, self.seconds = capture, wait, 0, 0, 0.0
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else 25.0
        self.expected = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self):
        failed, before = 0, None
        while failed < MAX_BROKEN:  # a broken frame and the end look the same
            is_read, frame = self.capture.read()
            if is_read:
                self.broken, self.read, failed = self.broken + failed, self.read + 1, 0
                now = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                self.seconds += min(max(0.0, now - (now if before is None else before)), MAX_STILL)
                before = now
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            else:
                failed += 1
                time.sleep(self.wait)
        self.broken += min(failed, max(0, self.expected - self.read - self.broken))


@contextmanager
def open_video(source):
    """Yield the Frames of a video's path or of a camera's number. Raises InputError if it cannot be opened."""
    is_camera = isinstance(source, int)
    capture = cv2.VideoCapture(source if is_camera else str(source))
    try:
        if not capture.isOpened():
            raise InputError(f"--webcam {source}: no such camera" if is_camera else f"{source}: not a readable video")
        yield Frames(capture, CAMERA_WAIT if is_camera else 0.0)
    finally:
        capture.release()


def parse_frames(parser, frames, write):
    """Parse the frames of one video, each uint8 RGB [H, W, 3], and call `write(frame, ParsedPhoto)` after each of them.

    Ends early if `write` returns true. Returns the number of frames, and of those with a face.
    """
    tracker, with_faces = FaceTracker(parser), 0
    for frame in frames:
        parsed = tracker(frame)
        with_faces += bool(parsed.faces)
        if write(frame, parsed):
            break
    return tracker.frames, with_faces


def write_video(parser, path, output_path, frames_dir=None, write_frame=None):
    """Write the overlay of a video as MP4, in H.264 with its sound if there is an ffmpeg; InputError if it cannot be.

    With `frames_dir`, a new folder, `write_frame(parsed, place)` also writes files for each frame; `place` is a path
    without suffix, 000001 and so on in the order of the video. Overlay and folder appear whole or not at all.
    The rate is constant: where frames come more slowly the one before is repeated, where faster some are left out, so
    that the sound stays in step.
    Returns {"frames", "with_faces", "broken", "frames_per_second" of the work}.
    """
    start, shown, movie, before, ffmpeg = time.perf_counter(), 0, None, None, find_ffmpeg()
    open_movie = partial(h264, ffmpeg, path) if ffmpeg else mp4v
    with open_video(path) as frames, ExitStack() as outputs:
        folder = frames_dir and outputs.enter_context(atomic_folder(frames_dir))
        temporary = outputs.enter_context(atomic_path(output_path))

        def write(frame, parsed):
            nonlocal shown, movie, before
            if folder:
                write_frame(parsed, folder / f"{frames.read:06}")
            movie = movie or outputs.enter_context(open_movie(temporary, output_path, frame.shape, frames.rate))
            picture = overlay(frame, parsed.labels, class_set=parsed.class_set)
            late = round(frames.rate * frames.seconds) - shown
            due = [before] * late + [picture] * (late >= -1 or not frames.seconds)
            for each in due:
                movie(each)
            shown, before = shown + len(due), picture

        bar = tqdm(frames, str(path), frames.expected or None, unit="frame", leave=False, disable=None)
        count, with_faces = parse_frames(parser, bar, write)
        if not count:
            raise InputError(f"{path}: holds no frame that can be read")
    rate = count / (time.perf_counter() - start)
    return {"frames": count, "with_faces": with_faces, "broken": frames.broken, "frames_per_second": rate}


def find_ffmpeg():
    """Return the path of the ffmpeg that imageio-ffmpeg brings; None without that package, or without one in it."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


@contextmanager
def h264(ffmpeg, source, temporary, path, shape, rate):
    """Yield a function that writes a frame, uint8 RGB of this `shape`, into the MP4 file `temporary`.

    Sides are made even by repeating the last row or column, which yuv420p needs. The matrix is that of HD, and the file
    says so; players would guess by its size. Sound: the first track of `source`.
    """
    odd = [(0, side % 2) for side in shape[:2]] + [(0, 0)]
    (height, width), matrix = (side + side % 2 for side in shape[:2]), "bt709"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    sound = [] if isinstance(source, int) else ["-i", f"file:{Path(source).resolve()}", "-map", "0:v", "-map", "1:a:0?"]
    scale = f"scale=out_color_matrix={matrix}:out_range=tv"
    colours = ["-vf", scale, "-colorspace", matrix, "-pix_fmt", "yuv420p"]
    codecs = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-c:a", "aac", "-movflags", "+faststart"]
    command = [ffmpeg, "-v", "error", "-y", *raw, *sound, *colours, *codecs, f"file:{temporary.resolve()}"]
    with TemporaryFile() as errors, Popen(command, stdin=PIPE, stderr=errors) as process:  # a pipe may fill up

        def failure():
            status = process.wait()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip() or f"it ended with status {status}"
            return InputError(f"{path}: ffmpeg cannot write it ({said.splitlines()[-1]}); is the disk full?")

        def write(picture):
            try:
                process.stdin.write(np.pad(picture, odd, "edge").tobytes())
            except OSError:  # it has ended
                raise failure() from None

        try:
            yield write
            with suppress(OSError):
                process.stdin.close()
            if process.wait():
                raise failure()
        except BaseException:
            process.kill()
            with suppress(OSError):
                process.stdin.close()
            raise


@contextmanager
def mp4v(temporary, path, shape, rate):
    """As `h264`, by OpenCV alone: MPEG-4 part 2, which browsers do not play, without sound."""
    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, shape[1::-1])
    if not writer.isOpened():
        raise InputError(f"{path}: cannot be written as MP4; is OpenCV built without FFmpeg?")
    try:
        yield lambda picture: writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    if not cv2.VideoCapture(str(temporary)).read()[0]:  # OpenCV does not say that a disk is full
        raise InputError(f"{path}: cannot be written whole; is the disk full?")


def show_webcam(parser, number):
    """Show a camera's overlay and its frames a second in a window, until it is closed, or until q, Esc or Ctrl-C."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # ten lines if there is no camera
    title, per_second, before = "faces (q ends)", 0.0, time.perf_counter()

    def show(_frame, parsed):
        nonlocal per_second, before
        now = time.perf_counter()
        per_second, before = 0.9 * per_second + 0.1 / max(now - before, 1e-6), now
        picture = overlay(parsed.photo, parsed.labels, class_set=parsed.class_set)[..., ::-1].copy()  # BGR
        cv2.putText(picture, f"{per_second:.1f} frames/s", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255,) * 3, 2)
        try:
            cv2.imshow(title, picture)
            key = cv2.waitKey(1) & 0xFF
            return key in (ord("q"), 27) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:
            raise InputError("--webcam: this OpenCV cannot show a window (opencv-python-headless?)") from None

    try:
        with open_video(number) as frames:
            if not parse_frames(parser, frames, show)[0]:
                raise InputError(f"--webcam {number}: gives no picture; is it in use, or not allowed to this program?")
    except Stopped:
        raise
    except KeyboardInterrupt:
        pass  # Ctrl-C is a usual end, too
    finally:
        with suppress(cv2.error):
            cv2.destroyAllWindows()
