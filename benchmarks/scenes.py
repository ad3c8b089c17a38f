"""Score uncropped photographs: the whole picture at once beside faces found and parsed one by one.

    python -m benchmarks.scenes dataset/val/val_image dataset/val/val_mask --as scenes

`--as scenes` puts each person, 640, 448 or 320 px high, somewhere into a drawn picture of 1280 x 960 px among other
things, `--as tilted` also turns it by up to 30 degrees, and `--as moved` moves, turns and scales each photograph as
`--augment wide` does. `blurred` (a Gaussian of 4 px), `reduced` (to an eighth, and enlarged again) and `grey` show what
poor pictures cost. Each picture depends on its number alone. The columns are those of benchmarks.faces.
"""

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.faces import add_network, measure, print_table
from faceparse.data.augmentation import WIDE_GEOMETRY, geometry
from faceparse.data.images import match_pairs, read_pair
from faceparse.errors import run_script
from faceparse.faces.face_parser import FaceParser
from faceparse.flags import new_parser

SCENE_SIZE = 1280, 960  # width and height, px
PERSON_HEIGHTS = (640, 448, 320)  # px, of one scene after the other
THINGS = 14  # ellipses, boxes and lines of a backdrop
TILT = 30  # degrees, either way


def draw_backdrop(rng, size=SCENE_SIZE):
    """Return uint8 RGB [H, W, 3] without any person: soft colours, drawn things before them, and noise."""
    width, height = size
    colours = rng.uniform(40, 215) + rng.normal(0, 35, (4, 5, 3))
    backdrop = np.clip(cv2.resize(colours, size, interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    for _ in range(THINGS):
        x, y = (int(rng.integers(side)) for side in size)
        a, b = (int(rng.integers(side // 40, side // 4)) for side in size)
        colour, kind = rng.uniform(0, 255, 3).tolist(), rng.integers(3)
        if kind == 0:
            cv2.ellipse(backdrop, (x, y), (a, b), rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(backdrop, (x, y), (x + a, y + b), colour, -1)
        else:
            cv2.line(backdrop, (x, y), (x + 3 * a - width // 3, y + b), colour, 1 + a // 12, cv2.LINE_AA)
    noise = rng.uniform(1, 8) * rng.standard_normal((height, width, 1), np.float32)
    return np.clip(backdrop + noise, 0, 255).astype(np.uint8)


def put_into(scene, truth, photo, mask, height, centre, angle=0.0):
    """Put a person, without the background, into a scene, uint8 RGB [H, W, 3], and its truth, uint8 [H, W], in place.

    The person's photo, uint8 RGB [h, w, 3], and mask, uint8 [h, w], become `height` px high, are turned clockwise by
    `angle` degrees and centred on `centre`, (x, y) in px.
    """
    scale = height / photo.shape[0]
    if scale < 1:  # the warp below takes single pixels, so what is made smaller must be averaged first
        size = round(photo.shape[1] * scale), height
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        scale = 1.0
    h, w = mask.shape
    # getRotationMatrix2D turns counter-clockwise and takes pixel centres for whole numbers.
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), -angle, scale)
    matrix[:, 2] += np.array(centre) - (w / 2, h / 2)
    size = truth.shape[::-1]
    person = (mask > 0).astype(np.float32)
    warped = cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    opacity = cv2.warpAffine(person, matrix, size, flags=cv2.INTER_LINEAR)[..., None]
    ids = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_NEAREST)
    scene[:] = np.rint(opacity * warped + (1 - opacity) * scene).astype(np.uint8)
    truth[:] = np.where(ids > 0, ids, truth)


def compose(index, photo, mask, tilt=0.0):
    """Put a square photograph and its mask somewhere into a backdrop as `put_into` does; return scene and truth."""
    rng = np.random.default_rng((0, index))
    height, angle = PERSON_HEIGHTS[index % len(PERSON_HEIGHTS)], rng.uniform(-tilt, tilt)
    scene, truth = draw_backdrop(rng), np.zeros(SCENE_SIZE[::-1], np.uint8)
    centre = [rng.uniform(height / 2, max(height / 2 + 1, side - height / 2)) for side in SCENE_SIZE]
    put_into(scene, truth, photo, mask, height, centre, angle)
    return scene, truth


def move(index, photo, mask):
    generator = torch.Generator().manual_seed(index)
    photo, mask = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255, torch.from_numpy(mask)[None].long()
    photo, mask = geometry(photo, mask, generator, ranges=WIDE_GEOMETRY)
    return (photo[0].permute(1, 2, 0) * 255).round().byte().numpy(), mask[0].byte().numpy()


def reduce(photo):
    height, width = photo.shape[:2]
    small = cv2.resize(photo, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


CHANGES = {
    "given": lambda index, photo, mask: (photo, mask),
    "scenes": compose,
    "tilted": lambda index, photo, mask: compose(index, photo, mask, TILT),
    "moved": move,
    "blurred": lambda index, photo, mask: (cv2.GaussianBlur(photo, (0, 0), 4), mask),
    "reduced": lambda index, photo, mask: (reduce(photo), mask),
    "grey": lambda index, photo, mask: (cv2.merge([cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)] * 3), mask),
}


def parse_args():
    parser, add = new_parser(__doc__)
    add("image_dir", help="photographs")
    add("mask_dir", help="their masks, of the same stems")
    add("--as", dest="change", choices=CHANGES, default="given", help="what the pictures are made into")
    add_network(add)
    return parser.parse_args()


def main(args):
    parser, change, results = FaceParser(args.checkpoint, image_size=args.image_size), CHANGES[args.change], []
    pairs = match_pairs(args.image_dir, args.mask_dir)
    for index, (_, photo, mask) in enumerate(tqdm(pairs, "pictures", leave=False, disable=None)):
        photo, truth = change(index, *read_pair(photo, mask, parser.class_set))
        results.append(measure(parser, photo, truth, parser.class_set))
    print_table({args.change: results})


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
