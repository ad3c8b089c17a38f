"""DeepLabv3+ (Chen et al., 2018, https://arxiv.org/abs/1802.02611) on a slim MobileNetV2."""

import torch
from torch import nn
from torch.nn import functional as F

from models.layers import ConvBNReLU
from models.mobilenetv2 import mobilenetv2_features, stage_channels

# A row (t, c, n, s, k) per stage: expansion, channels, blocks, stride of the first block, kernel.
CHALLENGE_BACKBONE = (
    (1, 8, 1, 1, 3),
    (6, 12, 2, 2, 3),
    (6, 16, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 48, 2, 1, 3),
    (6, 80, 2, 2, 3),
    (6, 162, 1, 1, 3),
)


def resize(x, size):
    resized = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    if resized.requires_grad and resized.device.type == "cpu":
        # The CPU's backward pass is several times faster over a channels-last gradient than over a contiguous one.
        resized.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return resized


def initialise_convolutions(module):
    """Draw the weights of all convolutions anew, as torchvision's MobileNetV2 does.

    He et al., 2015, https://arxiv.org/abs/1502.01852. A network calls it once, on what is not pretrained.
    """
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, mode="fan_out")
            if each.bias is not None:
                nn.init.zeros_(each.bias)


class ImagePooling(nn.Sequential):
    """Global average and 1x1 convolution, expanded to the input's height and width."""

    def __init__(self, in_channels, out_channels):
        super().__init__(nn.AdaptiveAvgPool2d(1), *ConvBNReLU(in_channels, out_channels, kernel_size=1))

    def forward(self, x):
        return super().forward(x).expand(-1, -1, *x.shape[2:])  # bilinear from 1x1 is a constant


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, one 3x3 per rate and image pooling side by side, then projected."""

    def __init__(self, in_channels, out_channels, rates, conv3x3):
        super().__init__()
        self.convs = nn.ModuleList(
            [
                ConvBNReLU(in_channels, out_channels, kernel_size=1),
                *(conv3x3(in_channels, out_channels, dilation=rate) for rate in rates),
                ImagePooling(in_channels, out_channels),
            ]
        )
        self.project = nn.Sequential(
            *ConvBNReLU(len(self.convs) * out_channels, out_channels, kernel_size=1), nn.Dropout(0.1)
        )

    def forward(self, x):
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class Backbone(nn.Module):
    """Returns low-level features, which the decoder uses too, and high-level features."""

    def __init__(self, features, low_level_end):
        super().__init__()
        self.low_level_features = features[:low_level_end]
        self.high_level_features = features[low_level_end:]

    def forward(self, x):
        low_level = self.low_level_features(x)
        return low_level, self.high_level_features(low_level)


class DeepLabHead(nn.Module):
    """ASPP over the high-level features, joined with the low-level features at their stride."""

    def __init__(self, low_level_channels, high_level_channels, num_classes):
        super().__init__()
        self.project = ConvBNReLU(low_level_channels, 48, kernel_size=1)
        self.aspp = ASPP(high_level_channels, 192, rates=(6, 12, 18), conv3x3=ConvBNReLU)
        self.classifier = nn.Sequential(*ConvBNReLU(48 + 192, 256), nn.Conv2d(256, num_classes, 1))

    def forward(self, low_level, high_level):
        low_level = self.project(low_level)
        high_level = resize(self.aspp(high_level), low_level.shape[2:])
        return self.classifier(torch.cat([low_level, high_level], dim=1))


class DeepLabV3Plus(nn.Module):
    """The challenge's network: 1,992,599 parameters, 21.6 GFLOPs at 512 x 512.

    Takes RGB in [0, 1], [N, 3, H, W], H and W from 32 px; returns logits [N, num_classes, H, W].
    """

    def __init__(self, *, num_classes):
        super().__init__()
        features = mobilenetv2_features(CHALLENGE_BACKBONE, stem_channels=32, pad_input=True)
        # The low-level features are what stem, first and second stage give, at stride 4: 1 + 1 + 2 blocks.
        self.backbone = Backbone(features, low_level_end=4)
        low_level_channels, high_level_channels = stage_channels(CHALLENGE_BACKBONE, 1, -1)
        self.classifier = DeepLabHead(low_level_channels, high_level_channels, num_classes)
        initialise_convolutions(self)

    def coarse_logits(self, x):
        """Return logits at the decoder's stride, 4; `forward` only resizes them."""
        return self.classifier(*self.backbone(x))

    def forward(self, x):
        return resize(self.coarse_logits(x).float(), x.shape[2:])  # in float32 under autocast too
