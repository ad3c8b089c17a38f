"""The sides of the photographs that a network may be given, in px. Needs no torch."""

from faceparse.errors import InputError

MIN_SIDE = 32  # the least that the networks take
MAX_SIDE = 4096  # memory grows with the square, and here a single photograph takes several GB
STRIDE = 16  # of the networks' encoders: sides that are no multiple of it shift the labels


def checked_image_size(value, path):
    """Return the image size that a file's metadata give; InputError if it is none."""
    if type(value) is not int or not MIN_SIDE <= value <= MAX_SIDE:
        raise InputError(f"{path}: its image_size is {value!r:.50}; it must be from {MIN_SIDE} to {MAX_SIDE}")
    return value


def round_to_stride(side):
    """Return the multiple of STRIDE nearest to a side, px, at least MIN_SIDE."""
    return max(MIN_SIDE, round(side / STRIDE) * STRIDE)


def fitted_size(shape, image_size):
    """Return (width, height), px, of a picture [height, width, ...] once its longer side is `image_size`."""
    height, width = shape[:2]
    scale = image_size / max(height, width)
    return tuple(max(MIN_SIDE, round(side * scale)) for side in (width, height))
