"""DeepLabv3+ with depthwise-separable ASPP and decoder, and a second decoder step at stride 2 for thin parts."""

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation as ConvBNReLU

from models.deeplab import ASPP, initialise_convolutions, resize
from models.mobilenetv2 import mobilenetv2_features, stage_channels

# (t, c, n, s): expansion, channels, blocks, stride of the first.
SLIM_BACKBONE = ((1, 16, 1, 1), (4, 24, 2, 2), (6, 40, 3, 2), (6, 80, 4, 2), (6, 112, 2, 1), (6, 160, 2, 2))
ASPP_CHANNELS = 128
DECODER_CHANNELS = 96
STRIDE2_CHANNELS = 48


def separable_conv(in_channels, out_channels, dilation=1):
    """3x3 depthwise and 1x1 pointwise convolution, BatchNorm and ReLU behind each."""
    return nn.Sequential(
        ConvBNReLU(in_channels, in_channels, dilation=dilation, groups=in_channels),
        ConvBNReLU(in_channels, out_channels, kernel_size=1),
    )


class DeepLabV3PlusSlim(nn.Module):
    """Takes RGB in [0, 1], [N, 3, H, W], H and W from 32 px; returns logits [N, num_classes, H, W]."""

    def __init__(self, *, num_classes):
        super().__init__()
        features = mobilenetv2_features(SLIM_BACKBONE, stem_channels=24, output_stride=16, pad_input=False)
        low2_channels, low4_channels, high_channels = stage_channels(SLIM_BACKBONE, 0, 1, -1)
        # Stem and first stage, the second stage's two blocks, and the rest.
        self.stride2, self.stride4, self.stride16 = features[:2], features[2:4], features[4:]
        self.aspp = ASPP(high_channels, ASPP_CHANNELS, rates=(6, 12, 18), conv3x3=separable_conv)
        self.project4 = ConvBNReLU(low4_channels, 32, kernel_size=1)
        self.decode4 = nn.Sequential(
            separable_conv(32 + ASPP_CHANNELS, DECODER_CHANNELS), separable_conv(DECODER_CHANNELS, DECODER_CHANNELS)
        )
        # The width is cut before upsampling: at stride 2 every channel costs four times as much.
        self.reduce = ConvBNReLU(DECODER_CHANNELS, STRIDE2_CHANNELS - low2_channels, kernel_size=1)
        self.decode2 = separable_conv(STRIDE2_CHANNELS, STRIDE2_CHANNELS)
        self.classifier = nn.Conv2d(STRIDE2_CHANNELS, num_classes, 1)
        initialise_convolutions(self)

    def coarse_logits(self, x):
        """Logits at the decoder's last stride, 2: all that the logits at input size are made of."""
        low2 = self.stride2(x)
        low4 = self.stride4(low2)
        context = resize(self.aspp(self.stride16(low4)), low4.shape[2:])
        decoded = self.decode4(torch.cat([self.project4(low4), context], dim=1))
        decoded = resize(self.reduce(decoded), low2.shape[2:])
        return self.classifier(self.decode2(torch.cat([low2, decoded], dim=1)))

    def forward(self, x):
        return resize(self.coarse_logits(x).float(), x.shape[2:])  # in float32 under autocast too
