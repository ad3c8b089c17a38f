"""Draw face-like pictures with exact 19-class masks, in the layout of the data set: for the demo and the tests.

    python -m tools.make_sample_dataset --output_dir dataset_sample --image_size 256

writes OUT/train/train_image/<stem>.jpg with OUT/train/train_mask/<stem>.png, the same under OUT/val, and
OUT/test_image. Every part of a face is one outline, drawn into the photograph (smooth edges) and into the mask
(hard edges, the class id), so the masks are exact. Later parts hide earlier ones, in both.
"""

from math import cos, radians, sin
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from faceparse.data import layout as dataset_layout
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from faceparse.errors import InputError, run_script
from faceparse.files import atomic_folder, check_new_folder
from options import sample_dataset_parser

# split: (photographs, masks); the position is part of a picture's random seed.
FOLDERS = dataset_layout.FOLDERS | {"test": ("test_image", None)}
MIN_SIZE = 32  # smaller, and the lips or an earring have no pixel left
CLASS_ID = {name: index for index, name in enumerate(CELEBAMASK.names)}
SIDES = ((1, "l"), (-1, "r"))  # the subject's left lies at positive x, the right half of the picture

# The probabilities of what not every face has. Pictures 0 and 1 of every five also have what ROTATION says, so that the
# first two pictures of a split already hold all classes.
CHANCE = {"glasses": 0.15, "hat": 0.12, "earrings": 0.2, "necklace": 0.2, "open mouth": 0.5, "long hair": 0.5}
ROTATION = ({"glasses", "open mouth"}, {"hat", "earrings", "necklace"}, set(), set(), set())

SKINS = ((236, 202, 178), (228, 184, 154), (216, 164, 130), (198, 140, 104), (156, 104, 72), (112, 74, 54))
HAIRS = ((34, 28, 28), (62, 42, 32), (98, 64, 40), (142, 90, 50), (200, 160, 98), (150, 66, 36), (168, 164, 160))
IRISES = ((92, 58, 36), (70, 104, 140), (84, 112, 70))
METALS = ((222, 184, 84), (204, 208, 214), (214, 150, 130))


class Canvas:
    """A photograph (uint8 RGB [S, S, 3]) and its mask (uint8 [S, S]) that are drawn together."""

    def __init__(self, size, rng):
        self.scale = size * rng.uniform(0.26, 0.305)
        self.centre = size * np.array([0.5, 0.475]) + size * rng.uniform(-1, 1, 2) * (0.05, 0.025)
        self.turn = rng.uniform(-0.11, 0.11)
        roll = radians(rng.uniform(-9, 9))
        self.rotation = np.array([[cos(roll), sin(roll)], [-sin(roll), cos(roll)]])  # for rows: points @ rotation
        backdrop = rng.uniform(60, 200) + rng.normal(0, 30, 3) + rng.normal(0, 20, (4, 4, 3))
        self.photo = as_uint8(cv2.resize(backdrop, (size, size), interpolation=cv2.INTER_CUBIC))
        self.mask = np.zeros((size, size), np.uint8)

    def part(self, name, colour, outline, depth=0.0, width=None):
        """Draw one part of class `name`: filled, or a line where `width` is given.

        The outline is [N, 2] in face units: (0, 0) is the middle of the face, x to the right, y down, the chin is at
        (0, 1). `depth` is how far it lies in front of the middle of the head; turning the head moves it by that.
        """
        points = np.asarray(outline, float) + np.array([self.turn * depth, 0])
        points = points @ self.rotation * self.scale + self.centre - 0.5  # to OpenCV, whole numbers are pixel centres
        points = [np.round(points * 16).astype(np.int32)]  # the last 4 bits are the fraction
        colour = tuple(map(float, colour))
        for image, value, line_type in ((self.photo, colour, cv2.LINE_AA), (self.mask, CLASS_ID[name], cv2.LINE_8)):
            if width is None:
                cv2.fillPoly(image, points, value, line_type, shift=4)
            else:
                cv2.polylines(image, points, False, value, max(1, round(width * self.scale)), line_type, shift=4)


def as_uint8(image):
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def ellipse(x, y, radius_x, radius_y, start=0, stop=360):
    """Return the outline [N, 2] of an ellipse, or of its arc between two angles (degrees; 90 points down)."""
    angles = np.radians(np.linspace(start, stop, 49))
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def curve(*points, side=1):
    """Return a smooth closed outline [8 N, 2] through N points (Catmull-Rom spline); side -1 mirrors it."""
    points = np.array(points, float) * (side, 1)
    before, after, far = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    spline = 2 * points + t * (after - before)
    spline = spline + t**2 * (2 * before - 5 * points + 4 * after - far) + t**3 * (3 * (points - after) + far - before)
    return (spline / 2).transpose(1, 0, 2).reshape(-1, 2)


def symmetric(*points):
    """Return the smooth closed outline through the points (x >= 0, from top to bottom) and their mirror images."""
    return curve(*points, *[(-x, y) for x, y in reversed(points) if x > 0])


def draw_head_and_body(canvas, wears, skin, hair, metal, rng):
    if "long hair" in wears:
        end = rng.uniform(0.8, 1.75)
        outline = symmetric((0, -1.18), (0.6, -1.02), (0.95, -0.5), (1.04, 0.2), (1.0, end - 0.2), (0.6, end))
        canvas.part("hair", hair, outline, depth=-0.4)
    canvas.part("hair", hair, symmetric((0, -1.16), (0.6, -1.0), (0.86, -0.5), (0.81, 0), (0.4, 0.3)))
    neck = symmetric((0, 0.5), (0.42, 0.6), (0.43, 1.05), (0.62, 1.3), (0.6, 2.2), (0, 2.3))
    canvas.part("neck", skin * 0.85, neck)
    neckline = rng.uniform(1.5, 1.7)
    left_half = [(0.15, neckline), (0.36, neckline - 0.12), (0.5, 1.12), (1.0, 1.24), (1.4, 1.5), (1.7, 3)]
    canvas.part("cloth", rng.uniform(30, 230, 3), [*left_half, *[(-x, y) for x, y in reversed(left_half)]])
    if "necklace" in wears:
        canvas.part("neck_l", metal, ellipse(0, 1.02, 0.46, 0.34, 10, 170), width=0.06)
        canvas.part("neck_l", metal, ellipse(0, 1.41, 0.07, 0.09))
    for side, letter in SIDES:
        canvas.part(f"{letter}_ear", skin * 0.95, ellipse(side * 0.79, 0.06, 0.13, 0.25), depth=-0.25)
    jaw = rng.uniform(0.5, 0.62)
    canvas.part("skin", skin, symmetric((0, -1), (0.56, -0.82), (0.75, -0.2), (0.72, 0.3), (jaw, 0.68), (0.2, 1)))


def draw_nose_and_mouth(canvas, wears, skin, rng):
    width = rng.uniform(0.85, 1.15)
    nose = symmetric((0.06, -0.12), (0.08, 0.1), (0.17 * width, 0.27), (0.12 * width, 0.37), (0, 0.4))
    canvas.part("nose", skin * (0.96, 0.9, 0.88), nose, depth=1.2)
    width, gap = rng.uniform(0.24, 0.32), rng.uniform(0.14, 0.2) * ("open mouth" in wears)
    lips = skin * (0.85, 0.5, 0.52) * rng.uniform(0.85, 1.1)
    canvas.part("l_lip", lips, ellipse(0, 0.56, width, 0.12 + gap, 0, 180), depth=1)
    if gap:
        canvas.part("mouth", (84, 26, 30), ellipse(0, 0.56, 0.85 * width, gap, 0, 180), depth=1)
    canvas.part("u_lip", lips * 0.88, ellipse(0, 0.56, width, 0.08, 180, 360), depth=1)


def draw_brows_glasses_and_eyes(canvas, wears, skin, hair, rng):
    """CelebAMask-HQ labels what is seen through a lens as eye, the rest of the glasses eye_g."""
    tilt, radii, frame = rng.uniform(-0.02, 0.04), rng.uniform((0.24, 0.18), (0.28, 0.22)), rng.uniform(15, 110, 3)
    height, gaze, iris = rng.uniform(0.1, 0.13), rng.uniform(-0.03, 0.03), rng.choice(IRISES)
    if "glasses" in wears:
        canvas.part("eye_g", frame, [(-0.1, -0.08), (0.1, -0.08)], depth=1, width=0.05)
    for side, letter in SIDES:
        brow = curve((0.13, -0.25), (0.33, -0.36 - tilt), (0.55, -0.25), (0.34, -0.29 - tilt), side=side)
        canvas.part(f"{letter}_brow", hair * 0.75, brow, depth=0.9)
        if "glasses" in wears:
            lens = ellipse(side * 0.34, -0.04, *radii)
            canvas.part("eye_g", skin * 0.9 + 22, lens, depth=1)
            canvas.part("eye_g", frame, lens, depth=1, width=0.045)
            canvas.part("eye_g", frame, [(side * 0.6, -0.1), (side * 0.76, -0.08)], depth=0.3, width=0.05)
        x, name = side * 0.33, f"{letter}_eye"
        canvas.part(name, (238, 236, 232), ellipse(x, -0.04, 0.16, 0.6 * height), depth=0.9)
        canvas.part(name, iris, ellipse(x + gaze, -0.04, 0.06, 0.06), depth=0.9)
        canvas.part(name, (16, 12, 12), ellipse(x + gaze, -0.04, 0.03, 0.03), depth=0.9)


def draw_front_hair_earrings_and_hat(canvas, wears, hair, metal, rng):
    if "long hair" in wears and "earrings" not in wears:  # over the ears
        for side, _ in SIDES:
            outer = (0.5, -0.8), (0.85, -0.6), (1.02, 0), (1.03, 0.6), (0.85, 0.8)
            canvas.part("hair", hair, curve(*outer, (0.72, 0.5), (0.69, 0), (0.66, -0.4), side=side))
    crown = [(-0.86, -0.4), (-0.65, -0.98), (0, -1.18), (0.65, -0.98), (0.86, -0.4)]
    hairline = [(0.72, -0.2), (0.6, -0.45), (0.1, -0.58), (-0.3, rng.uniform(-0.82, -0.45)), (-0.62, -0.5)]
    canvas.part("hair", hair, curve(*crown, *hairline, (-0.74, -0.15), side=rng.choice([-1, 1])), depth=0.1)
    height, colour = rng.uniform(0.07, 0.17), rng.uniform(30, 220, 3)
    if "earrings" in wears:
        for side, _ in SIDES:
            canvas.part("ear_r", metal, ellipse(side * 0.83, 0.28 + height, 0.07, height), depth=-0.25)
    if "hat" in wears:
        canvas.part("hat", colour, symmetric((0, -1.42), (0.55, -1.4), (0.75, -0.9), (0.8, -0.6), (0, -0.55)))
        canvas.part("hat", colour * 0.9, ellipse(0, -0.62, 1.25, 0.17))


def light(photo, rng):
    """Return a photograph (uint8) under a light from one side, with noise."""
    size, angle, strength = len(photo), rng.uniform(0, 6.28), rng.uniform(0.05, 0.2)
    ramp = np.linspace(-strength, strength, size)
    shade = 1 + ramp * cos(angle) + ramp[:, None] * sin(angle)
    return as_uint8(photo * shade[..., None] + rng.uniform(1, 5) * rng.standard_normal((size, size, 1)))


def draw_face(size, seed, split, index):
    """Return a photograph, uint8 RGB [size, size, 3], and its mask, uint8 ids 0..18 [size, size].

    The same arguments give the same picture. `split` is a key of FOLDERS.
    """
    rng = np.random.default_rng((seed, list(FOLDERS).index(split), index))
    wears = {name for name, chance in CHANCE.items() if rng.random() < chance} | ROTATION[index % len(ROTATION)]
    skin, hair, metal = (np.clip(rng.choice(each) + rng.normal(0, 8), 8, 250) for each in (SKINS, HAIRS, METALS))
    canvas = Canvas(size, rng)
    draw_head_and_body(canvas, wears, skin, hair, metal, rng)
    draw_nose_and_mouth(canvas, wears, skin, rng)
    draw_brows_glasses_and_eyes(canvas, wears, skin, hair, rng)
    draw_front_hair_earrings_and_hat(canvas, wears, hair, metal, rng)
    return light(canvas.photo, rng), canvas.mask


def make_sample_dataset(output_dir, train, val, test, image_size, seed):
    """Write `train` and `val` pairs and `test` photographs under output_dir: all or nothing.

    Each depends on seed, split, index and image_size, not on the counts. With two pairs or more a split holds all
    classes. Returns output_dir as a Path. Raises InputError if it is not new or empty, and for a small image_size.
    """
    output_dir = Path(output_dir)
    if image_size < MIN_SIZE:
        raise InputError(f"--image_size {image_size}: too small to draw all parts of a face; take {MIN_SIZE} or more")
    check_new_folder("--output_dir", output_dir)
    counts = {"train": train, "val": val, "test": test}
    pictures = [(split, index) for split, count in counts.items() for index in range(count)]
    with atomic_folder(output_dir) as unfinished:
        for split, index in tqdm(pictures, desc="drawing", unit="picture"):
            photo, mask = draw_face(image_size, seed, split, index)
            (image_dir, mask_dir), stem = FOLDERS[split], f"{split}_{index:04d}"
            (unfinished / image_dir).mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).save(unfinished / image_dir / f"{stem}.jpg", quality=95)
            if mask_dir:
                write_label_map(unfinished / mask_dir / f"{stem}.png", mask, palette_of=CELEBAMASK)
    return output_dir


def main(args):
    counts = {name: getattr(args, name) for name in ("train", "val", "test")}
    make_sample_dataset(args.output_dir, **counts, image_size=args.image_size, seed=args.seed)
    print(f"{args.output_dir}: written, {', '.join(f'{count} {name}' for name, count in counts.items() if count)}")


if __name__ == "__main__":
    run_script(lambda: main(sample_dataset_parser(__doc__).parse_args()))
