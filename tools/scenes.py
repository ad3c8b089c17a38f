"""Scenes with exact truth: people cut out along their masks, put among drawn things. Needs no torch."""

import cv2
import numpy as np

SCENE_SIZE = 1280, 960  # width and height, px
PERSON_HEIGHTS = (640, 448, 320)  # px, of one scene after the other
THINGS = 14  # ellipses, boxes and lines of a backdrop


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


def compose_scene(rng, photo, mask, height, angle=0.0, size=SCENE_SIZE):
    """Put a square `photo` and `mask` somewhere into a backdrop as `put_into` does; return the scene and its truth."""
    scene, truth = draw_backdrop(rng, size), np.zeros(size[::-1], np.uint8)
    centre = [rng.uniform(height / 2, max(height / 2 + 1, side - height / 2)) for side in size]
    put_into(scene, truth, photo, mask, height, centre, angle)
    return scene, truth
