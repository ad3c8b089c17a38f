"""DeepLabv3+ with depthwise-separable ASPP and decoder, and a second decoder step at stride 2 for thin parts."""

import torch
from torch import nn

from models.deeplab import ASPP, initialise_convolutions, resize
from models.layers import ConvBNReLU
from models.mobilenetv2 import mobilenetv2_features, stage_channels

# A row (t, c, n, s, k) per stage: expansion, channels, blocks, stride of the first block, kernel.
SLIM_BACKBONE = (
    (1, 16, 1, 1, 3),
    (4, 24, 2, 2, 3),
    (6, 40, 3, 2, 3),
    (6, 80, 4, 2, 3),
    (6, 112, 2, 1, 3),
    (6, 160, 2, 2, 3),
)
ASPP_CHANNELS = 128
DECODER_CHANNELS = 96
STRIDE2_CHANNELS = 48


def separable_conv(in_channels, out_channels, dilation=1):
    """Return a 3x3 depthwise and a 1x1 pointwise convolution, each followed by BatchNorm and ReLU."""
    return nn.Sequential(
        ConvBNReLU(in_channels, in_channels, dilation=dilation, groups=in_channels),
        ConvBNReLU(in_channels, out_channels, kernel_size=1),
    )


class SlimDeepLab(nn.Module):
    """The slim ASPP and decoder on any encoder of inverted residuals, `features` of `mobilenetv2_features`.

    The first row of its `table` ends at stride 2, the second, of two blocks, at stride 4, the last at stride 16.
    Takes RGB in [0, 1], [N, 3, H, W], H and W from 32 px; returns logits [N, num_classes, H, W].
    """

    def __init__(self, features, table, *, num_classes):
        super().__init__()
        low2_channels, low4_channels, high_channels = stage_channels(table, 0, 1, -1)
        self.stride2, self.stride4, self.stride16 = features[:2], features[2:4], features[4:]
        self.aspp = ASPP(high_channels, ASPP_CHANNELS, rates=(6, 12, 18), conv3x3=separable_conv)
        self.project4 = ConvBNReLU(low4_channels, 32, kernel_size=1)
        self.decode4 = nn.Sequential(
            separable_conv(32 + ASPP_CHANNELS, DECODER_CHANNELS), separable_conv(DECODER_CHANNELS, DECODER_CHANNELS)
        )
        # The channels are reduced before upsampling, because at stride 2 each costs four times as much.
        self.reduce = ConvBNReLU(DECODER_CHANNELS, STRIDE2_CHANNELS - low2_channels, kernel_size=1)
        self.decode2 = separable_conv(STRIDE2_CHANNELS, STRIDE2_CHANNELS)
        self.classifier = nn.Conv2d(STRIDE2_CHANNELS, num_classes, 1)
        initialise_convolutions(self)

    def freeze_early(self):
        """Keep all layers up to stride 4 as they are, weights and BatchNorm statistics."""
        self.stride2.requires_grad_(False)
        self.stride4.requires_grad_(False)

    def train(self, mode=True):
        """As of nn.Module, but frozen layers stay in eval mode."""
        super().train(mode)
        for part in (self.stride2, self.stride4):
            part.train(mode and next(part.parameters()).requires_grad)
        return self

    def coarse_logits(self, x):
        """Return logits at the decoder's last stride, 2; `forward` only resizes them."""
        low2 = self.stride2(x)
        low4 = self.stride4(low2)
        context = resize(self.aspp(self.stride16(low4)), low4.shape[2:])
        decoded = self.decode4(torch.cat([self.project4(low4), context], dim=1))
        decoded = resize(self.reduce(decoded), low2.shape[2:])
        return self.classifier(self.decode2(torch.cat([low2, decoded], dim=1)))

    def forward(self, x):
        return resize(self.coarse_logits(x).float(), x.shape[2:])  # in float32 under autocast too


class DeepLabV3PlusSlim(SlimDeepLab):
    """The network for training from random weights: 1,345,059 parameters, 5.07 GFLOPs at 512 x 512."""

    def __init__(self, *, num_classes):
        super().__init__(mobilenetv2_features(SLIM_BACKBONE, stem_channels=24), SLIM_BACKBONE, num_classes=num_classes)
