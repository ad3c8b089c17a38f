"""From coarse logits to a label map of any size. Needs no torch."""

import numpy as np


def upsample(logits, size, rows=slice(None)):
    """Bilinear, align_corners False: float32 [C, h, w] to [C, height, width], or to the slice `rows` of its rows."""
    top, bottom, weight_y = (each[rows] for each in source_positions(logits.shape[1], size[0]))
    left, right, weight_x = source_positions(logits.shape[2], size[1])
    rows = lerp(logits[:, top], logits[:, bottom], weight_y[:, None])
    return lerp(rows[:, :, left], rows[:, :, right], weight_x)


def lerp(start, end, weight):
    result = end - start
    result *= weight  # in place, which halves the memory
    result += start
    return result


def source_positions(size, target_size):
    """Where bilinear interpolation reads along one side: the index below, the next, and its weight, [target_size]."""
    position = (np.arange(target_size, dtype=np.float32) + 0.5) * np.float32(size / target_size) - 0.5
    position = position.clip(0, size - 1)
    below = position.astype(np.intp)
    return below, np.minimum(below + 1, size - 1), position - below.astype(np.float32)


def label_map(logits, size):
    """Class ids, uint8 [height, width]: the argmax of `upsample(logits, size)` of logits [C, h, w].

    Where the four logits around a pixel have the same largest class, every weighted mean has it too. Only the other
    pixels, those along the outlines, are interpolated.
    """
    (channels, h, w), (height, width) = logits.shape, size
    by_pixel = logits.transpose(1, 2, 0).reshape(h * w, channels)  # The argmax over adjacent numbers is far faster.
    coarse = by_pixel.argmax(axis=1).astype(np.uint8).reshape(h, w)
    if (h, w) == (height, width):
        return coarse
    below, right = coarse[[*range(1, h), h - 1]], coarse[:, [*range(1, w), w - 1]]
    below_right = below[:, [*range(1, w), w - 1]]
    is_outline = (coarse != below) | (coarse != right) | (coarse != below_right)

    top, bottom, weight_y = source_positions(h, height)
    left, right, weight_x = source_positions(w, width)
    labels = coarse[top[:, None], left]
    rows, columns = np.nonzero(is_outline[top[:, None], left])
    top, bottom, left, right = top[rows] * w, bottom[rows] * w, left[columns], right[columns]
    weight_x = weight_x[columns, None]
    above = lerp(by_pixel[top + left], by_pixel[top + right], weight_x)
    below = lerp(by_pixel[bottom + left], by_pixel[bottom + right], weight_x)
    labels[rows, columns] = lerp(above, below, weight_y[rows, None]).argmax(axis=1)
    return labels
