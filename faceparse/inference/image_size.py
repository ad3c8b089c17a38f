"""The sides of the photographs that a network may be given, in px. Needs no torch."""

from faceparse.errors import InputError

MIN_SIDE = 32  # the least that the networks take
MAX_SIDE = 4096  # memory grows with the square, and here a single photograph takes several GB
STRIDE = 16  # of the networks' encoders: sides that are not multiples of it shift the labels


def checked_image_size(value, path):
    """Return the image size that a file's metadata give; InputError if it is not valid."""
    if type(value) is not int or not MIN_SIDE <= value <= MAX_SIDE:
        raise InputError(f"{path}: its image_size is {value!r:.50}; it must be from {MIN_SIDE} to {MAX_SIDE}")
    return value


def round_to_stride(side):
    """Return the multiple of STRIDE nearest to a side, px, at least MIN_SIDE."""
    return max(MIN_SIDE, round(side / STRIDE) * STRIDE)


def fitted_size(shape, image_size):
    """Return (width, height), px, of a picture [height, width, ...] whose longer side becomes `image_size`.

    Both are rounded to multiples of STRIDE, which squeezes the picture by at most 8 px.
    """
    height, width = shape[:2]
    scale = image_size / max(height, width)
    return round_to_stride(width * scale), round_to_stride(height * scale)
