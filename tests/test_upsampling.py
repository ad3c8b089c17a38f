"""Label maps from coarse logits against the plain way: all logits upsampled, then the argmax."""

import pytest
import torch
from torch.nn import functional as F

from faceparse.upsampling import label_map, upsample


def smooth_logits(height, width):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return F.interpolate(torch.randn(1, 19, 5, 4, generator=generator), size=(height, width), mode="bicubic")[0]


@pytest.mark.parametrize("logits", [smooth_logits(32, 32), smooth_logits(17, 40), torch.randn(19, 16, 16)])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (77, 33), (16, 16), (9, 50), (1, 1)])
def test_equals_the_argmax_of_upsampled_logits(logits, size):
    expected = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    labels = label_map(logits, size)
    assert labels.dtype == "uint8" and labels.shape == size
    # A tie that rounding decides may fall differently; none is expected in so few pixels.
    assert (torch.from_numpy(labels) != expected).sum() <= 1


def test_memory_layout_does_not_matter():
    logits = smooth_logits(24, 24)
    channels_last = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert (label_map(logits, (50, 50)) == label_map(channels_last, (50, 50))).all()


def test_upsample_keeps_logits_of_the_right_size():
    logits = torch.randn(2, 3, 8, 9)
    assert upsample(logits, (8, 9)) is logits
    assert upsample(logits, (16, 18)).shape == (2, 3, 16, 18)
