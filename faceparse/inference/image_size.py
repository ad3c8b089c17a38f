"""The sides of the photographs that a network may be given, in px. Needs no torch."""

from faceparse.errors import InputError

SMALLEST_SIDE = 32  # the least that the networks take
LARGEST_SIDE = 4096  # memory grows with the square, and here a single photograph takes several GB


def checked_image_size(value, path):
    """Return the image size that a file's metadata give; InputError where it is none."""
    if type(value) is not int or not SMALLEST_SIDE <= value <= LARGEST_SIDE:
        raise InputError(f"{path}: its image_size is {value!r:.50}; it must be from {SMALLEST_SIDE} to {LARGEST_SIDE}")
    return value


def fitted_size(shape, image_size):
    """Return (width, height), px, of a picture [height, width, ...] once its longer side is `image_size`."""
    height, width = shape[:2]
    scale = image_size / max(height, width)
    return tuple(max(SMALLEST_SIDE, round(side * scale)) for side in (width, height))
