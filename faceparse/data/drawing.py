"""Pictures of label maps: class colours, blends over photographs, and contact sheets with a legend. Needs no torch."""

from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX
from faceparse.data.images import LUMA, read_mask, read_pair, read_photo, write_picture
from faceparse.files import atomic_path

MIN_OPAQUE = 0.2  # probability, below which a cut-out is transparent
MATTE_SIDE = 1024  # px
REACH = 0.015  # of strands beyond what is seen as hair, and of errors, share of a head's crop
VEIL = 0.1  # opacity that counts as none, because much of the background resembles hair a little
# Sizes on the contact sheet, px.
SHEET_WIDTH, MARGIN, GAP, CAPTION = 1250, 16, 12, 20
LEGEND_WIDTH, LEGEND_HEIGHT, SWATCH = 130, 22, 14


def colour_table(class_set):
    """Return the colour of each pixel value as uint8 RGB [256, 3]; 255, ignored, is grey."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(class_set)] = class_set.colours
    table[IGNORE_INDEX] = 128
    return table


def colorize(label_map, class_set=CELEBAMASK):
    """Return class ids [H, W] in the class colours, uint8 RGB [H, W, 3]; 255, ignored, is grey."""
    return colour_table(class_set)[label_map]


def overlay(photo, label_map, alpha=0.5, class_set=CELEBAMASK):
    """Blend a label map's colours over its photograph, uint8 RGB [H, W, 3]; with alpha 1 they hide it."""
    colours = np.float32(alpha) * colour_table(class_set)
    return np.rint(np.float32(1 - alpha) * photo + colours[label_map]).astype(np.uint8)


def cut_out(photo, probability, head=None):
    """Cut a part out of a photograph, uint8 RGB [H, W, 3], by its probability, float [H, W]: uint8 RGBA [H, W, 4].

    What is as near to 0 or 1 as MIN_OPAQUE is transparent or opaque, or a veil would lie over the rest. Transparent
    pixels are black, so that the cut-out does not hold the rest of the photograph. `head`: side of a head's crop, px;
    if it is given and pymatting is installed, the edge is that of `matte`.
    """
    opacity = np.clip((probability - MIN_OPAQUE) / (1 - 2 * MIN_OPAQUE), 0, 1)
    if head and find_spec("pymatting"):
        opacity, photo = matte(photo, probability, head) or (opacity, photo)
    alpha = np.rint(255 * opacity).astype(np.uint8)
    return np.dstack([photo * (alpha > 0)[..., None], alpha])


def matte(photo, probability, head):
    """Return a part's opacity, float [H, W], and the photograph without the old background's colour in it, or None.

    Closed-form matting (Levin et al., 2008, https://doi.org/10.1109/TPAMI.2007.1177) decides from the colours where
    `probability` is not sure, and within REACH of there; the colours are by Germer et al., 2020,
    https://arxiv.org/abs/2006.14970. The longer side is MATTE_SIDE px at most, and larger photographs get the result
    enlarged. None if that fails, as where nothing is sure to be of the part, or nothing is sure not to be.
    """
    import cv2
    from pymatting import estimate_alpha_cf, estimate_foreground_ml, ichol  # here, because it takes seconds to load

    height, width = probability.shape
    scale = min(1, MATTE_SIDE / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small, chance = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (photo, probability))
    reach = max(1, round(REACH * scale * head))
    inside, outside = (core(part, reach) for part in (chance > 1 - MIN_OPAQUE, chance < MIN_OPAQUE))
    if not (inside.any() and outside.any()) or min(size) <= 3:  # the colours are compared in windows of 3 x 3 px
        return None
    small = small / 255
    trimap = np.select([inside, outside], [1.0, 0.0], 0.5)
    try:  # with a shift, or the factorisation fails at first, and pymatting prints warnings
        opacity = estimate_alpha_cf(small, trimap, partial(ichol, shifts=[1e-3, 1e-1]))
    except ValueError:  # no convergence
        return None
    opacity = np.clip((opacity - VEIL) / (1 - 2 * VEIL), 0, 1)
    is_mixed = ((opacity > 0) & (opacity < 1))[..., None]
    change = np.where(is_mixed, estimate_foreground_ml(small, opacity) - small, 0)
    enlarged = cv2.resize(np.dstack([opacity, 255 * change]).astype(np.float32), (width, height))
    return enlarged[..., 0], np.rint(np.clip(photo + enlarged[..., 1:], 0, 255)).astype(np.uint8)


def core(part, reach):
    """Return what of a part, bool [H, W], lies more than `reach` px from the rest; of small pieces all of them."""
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    deep = cv2.erode(part.astype(np.uint8), kernel) > 0
    count, pieces = cv2.connectedComponents(part.astype(np.uint8))
    has_core = np.zeros(count, bool)
    has_core[pieces[deep]] = True
    return deep | (part & ~has_core[pieces])


def recolour(photo, colour, opacity):
    """Give a photograph, uint8 RGB [H, W, 3], another colour (RGB, 0 to 255) where `opacity`, float [H, W], is 1.

    The shading stays, as on the page (web/pixels.js): a pixel whose luma (ITU-R BT.601) is the part's mean gets the
    colour itself, a darker one is as much darker, and a brighter one nearer to white.
    """
    part = opacity > 0.5
    if not part.any():
        return photo
    luma = photo @ np.array(LUMA, np.float32) + 8  # so that noise in the darkest pixels has no large ratio
    ratio, colour = (luma / luma[part].mean())[..., None], np.float32(colour)
    shaded = np.where(ratio < 1, colour * ratio, 255 - (255 - colour) / ratio)
    return np.rint(photo + opacity[..., None] * (shaded - photo)).astype(np.uint8)


def contact_sheet(items, tile=192, class_set=CELEBAMASK):
    """Draw items, (caption, [picture, ...]), in rows above a legend of the classes: uint8 RGB [H, W, 3].

    Pictures are uint8 RGB [H, W, 3] of any size, as many in each item, side by side in tiles of `tile` px.
    """
    font = ImageFont.load_default(size=13)
    item_width = tile * len(items[0][1])
    columns = max(1, min(len(items), (SHEET_WIDTH - 2 * MARGIN + GAP) // (item_width + GAP)))
    rows = -(-len(items) // columns)
    width = max(columns * (item_width + GAP) - GAP, 3 * LEGEND_WIDTH) + 2 * MARGIN
    legend_columns = (width - 2 * MARGIN) // LEGEND_WIDTH
    legend_top = MARGIN + rows * (tile + CAPTION + GAP)
    legend_rows = -(-len(class_set) // legend_columns)
    sheet = Image.new("RGB", (width, legend_top + legend_rows * LEGEND_HEIGHT + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)

    for index, (caption, pictures) in enumerate(items):
        left = MARGIN + index % columns * (item_width + GAP)
        top = MARGIN + index // columns * (tile + CAPTION + GAP)
        for position, picture in enumerate(pictures):
            tile_picture = ImageOps.pad(Image.fromarray(picture), (tile, tile), color="white")
            sheet.paste(tile_picture, (left + position * tile, top))
        while draw.textlength(caption, font) > item_width:
            caption = caption[:-1]
        draw.text((left, top + tile + 2), caption, "black", font)

    for index, (name, colour) in enumerate(zip(class_set.names, class_set.colours, strict=True)):
        left = MARGIN + index % legend_columns * LEGEND_WIDTH
        top = legend_top + index // legend_columns * LEGEND_HEIGHT
        draw.rectangle((left, top, left + SWATCH, top + SWATCH), colour, "black")
        draw.text((left + SWATCH + 6, top - 1), f"{index} {name}", "black", font)
    return np.asarray(sheet)


def render(pair, alpha=0.5, class_set=CELEBAMASK):
    """Read (label map path, photograph path or None); return [colours] or [photograph, colours, overlay]."""
    label_file, photo_file = pair
    if photo_file is None:
        return [colorize(read_mask(label_file, class_set), class_set)]
    photo, label_map = read_pair(photo_file, label_file, class_set)
    return [photo, colorize(label_map, class_set), overlay(photo, label_map, alpha, class_set)]


def save_overlay(path, photo_path, labels, class_set=CELEBAMASK):
    """Write the overlay of class ids [H, W] over the photograph of a file."""
    write_picture(path, overlay(read_photo(photo_path), labels, class_set=class_set))


@contextmanager
def plot(*paths, dpi=120, **subplots):
    """Yield what plt.subplots(**subplots) returns; when the block has drawn on it, write it to each path."""
    import matplotlib  # here, because it takes long to load

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(layout="constrained", **subplots)
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    try:
        yield figure, axes
        for path in paths:
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=dpi)
    finally:
        plt.close(figure)
