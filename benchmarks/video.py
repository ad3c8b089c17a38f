"""Print how many frames a second parse_faces.py parses of a moving portrait.

    python -m benchmarks.video --checkpoint face_parser_int8.onnx

The clip is 640 x 480 px, 25 frames a second: the portrait in assets/, 400 px high, on a circle before a drawn
background. The whole process is timed, start-up, decoding and encoding included.
"""

import math
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measure import ROOT, run_python
from benchmarks.scenes import draw_backdrop, put_into
from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.images import read_photo
from faceparse.errors import run_script
from faceparse.flags import new_parser, positive_int

SIZE, RATE = (640, 480), 25  # width and height, px; frames a second
HEIGHT, RADIUS, ROUND = 400, 30, 4  # of the portrait and of its way, px; seconds of one round


def write_clip(path, frames):
    portrait = read_photo(ROOT / "assets/astronaut.jpg")
    everywhere = np.ones(portrait.shape[:2], np.uint8)
    backdrop = draw_backdrop(np.random.default_rng(0), SIZE)
    clip = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, SIZE)
    for number in range(frames):
        angle = 2 * math.pi * number / (ROUND * RATE)
        centre = [side / 2 + RADIUS * part for side, part in zip(SIZE, (math.cos(angle), math.sin(angle)), strict=True)]
        frame = backdrop.copy()
        put_into(frame, np.zeros(SIZE[::-1], np.uint8), portrait, everywhere, HEIGHT, centre)
        clip.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    clip.release()


def parse_args():
    parser, add = new_parser(__doc__)
    add("--checkpoint", default=SHIPPED_CHECKPOINT, help="ours, or a file of export_onnx.py")
    add("--seconds", type=positive_int, default=10, help="length of the clip")
    return parser.parse_args()


def main(args):
    frames = args.seconds * RATE
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, frames)
        checkpoint = Path(args.checkpoint).resolve()
        measured = run_python("parse_faces.py", clip, "--checkpoint", checkpoint, "--output_dir", Path(folder) / "out")
    print(
        f"{frames} frames in {measured['seconds']:.1f} s: {frames / measured['seconds']:.1f} frames a second, "
        f"{frames / measured['processor_seconds']:.1f} for each second of a core; peak {measured['peak_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
