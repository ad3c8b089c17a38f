"""From coarse logits to a label map of any size."""

import torch
from torch.nn import functional as F


def upsample(logits, size):
    """Bilinear, align_corners False: logits [N, C, h, w] at (height, width)."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def source_positions(size, target_size, device):
    """Where bilinear interpolation reads along one side: index below and weight of the next index, [target_size]."""
    position = (torch.arange(target_size, device=device) + 0.5) * (size / target_size) - 0.5
    position = position.clamp(0, size - 1)
    below = position.floor().long()
    return below, position - below


def label_map(logits, size):
    """Class ids, uint8 numpy [height, width]: the argmax of `upsample(logits, size)` of logits [C, h, w].

    Where the four logits around a pixel have the same largest class, so has every mixture of them. Only the other
    pixels, those along the outlines, are interpolated.
    """
    (channels, h, w), (height, width) = logits.shape, size
    by_pixel = logits.permute(1, 2, 0).reshape(h * w, channels)  # the argmax over adjacent numbers is far faster
    coarse = by_pixel.argmax(dim=1).to(torch.uint8).view(h, w)
    if (h, w) == (height, width):
        return coarse.cpu().numpy()
    next_row, next_column = (torch.arange(1, side + 1, device=logits.device).clamp(max=side - 1) for side in (h, w))
    below = coarse[next_row]
    outline = (coarse != below) | (coarse != coarse[:, next_column]) | (coarse != below[:, next_column])

    top, weight_y = source_positions(h, height, logits.device)
    left, weight_x = source_positions(w, width, logits.device)
    labels = coarse[top][:, left]
    rows, columns = torch.nonzero(outline[top][:, left], as_tuple=True)
    weight_y, weight_x = weight_y[rows, None], weight_x[columns, None]
    top, left = top[rows], left[columns]
    bottom, right = next_row[top], next_column[left]
    above = torch.lerp(by_pixel[top * w + left], by_pixel[top * w + right], weight_x)
    below = torch.lerp(by_pixel[bottom * w + left], by_pixel[bottom * w + right], weight_x)
    labels[rows, columns] = torch.lerp(above, below, weight_y).argmax(dim=1).to(torch.uint8)
    return labels.cpu().numpy()
