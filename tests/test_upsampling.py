"""Label maps from coarse logits against the plain way, which upsamples all logits and then takes the argmax."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from faceparse.inference.prediction import label_map, upsample


def smooth_logits(height, width):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.randn(1, 19, 5, 4, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].numpy()


def plainly_upsampled(logits, size):
    return F.interpolate(torch.from_numpy(logits)[None], size=size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("logits", [smooth_logits(32, 32), smooth_logits(17, 40), torch.randn(19, 16, 16).numpy()])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (77, 33), (16, 16), (9, 50), (1, 1)])
def test_equals_the_argmax_of_upsampled_logits(logits, size):
    labels = label_map(logits, size)
    assert labels.dtype == "uint8" and labels.shape == size
    # A tie that rounding decides may fall differently; none is expected in so few pixels.
    assert (torch.from_numpy(labels) != plainly_upsampled(logits, size).argmax(dim=0)).sum() <= 1


@pytest.mark.parametrize("size", [(8, 9), (16, 18), (5, 30), (1, 1)])
def test_upsample_is_bilinear_interpolation(size):
    logits = torch.randn(3, 8, 9).numpy()
    upsampled = upsample(logits, size)
    assert upsampled.dtype == np.float32
    np.testing.assert_allclose(upsampled, plainly_upsampled(logits, size), atol=1e-5)
