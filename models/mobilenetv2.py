"""MobileNetV2 backbone (Sandler et al., 2018, https://arxiv.org/abs/1801.04381), dilated for dense prediction."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from models.layers import ConvBNReLU


class ReLU6(nn.ReLU6):
    """ReLU6 in place, but not where gradients are needed: PyTorch would copy its input first, unlike that of ReLU."""

    def forward(self, x):
        return F.relu6(x, inplace=self.inplace and not torch.is_grad_enabled())


ConvBNReLU6 = partial(ConvBNReLU, activation=ReLU6)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; the input is added where the shapes allow it.

    With `pad_input` the block zero-pads its input instead of the depthwise convolution's, so that the border passes
    through expansion, BatchNorm and ReLU6. The challenge's network pads in this way, and its weights need it.
    """

    def __init__(self, in_channels, out_channels, *, stride, dilation, expansion, pad_input):
        super().__init__()
        hidden = in_channels * expansion
        layers = [] if expansion == 1 else [ConvBNReLU6(in_channels, hidden, kernel_size=1)]
        layers += [
            ConvBNReLU6(
                hidden, hidden, stride=stride, dilation=dilation, groups=hidden, padding=0 if pad_input else dilation
            ),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.input_padding = dilation if pad_input else 0
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x):
        out = self.conv(F.pad(x, [self.input_padding] * 4) if self.input_padding else x)
        return x + out if self.adds_input else out


def stage_channels(table, *stages):
    """Return the output channels of the stages with these indices in a `mobilenetv2_features` table."""
    return [table[stage][1] for stage in stages]


def mobilenetv2_features(table, *, stem_channels, output_stride, pad_input):
    """Build stem and inverted residuals as one nn.Sequential.

    `table` has a row (t, c, n, s) per stage: expansion, output channels, blocks, stride of the first block. Once
    `output_stride` is reached, strides turn into dilation. Input [N, 3, H, W].
    """
    stem = ConvBNReLU6(3, stem_channels, stride=2, padding=0 if pad_input else 1)
    layers, channels, stride_so_far, dilation = [stem], stem_channels, 2, 1
    for expansion, out_channels, blocks, stride in table:
        first_dilation = dilation
        if stride_so_far == output_stride:
            dilation, stride = dilation * stride, 1
        stride_so_far *= stride
        for block in range(blocks):
            layers.append(
                InvertedResidual(
                    channels,
                    out_channels,
                    stride=stride if block == 0 else 1,
                    dilation=first_dilation if block == 0 else dilation,
                    expansion=expansion,
                    pad_input=pad_input,
                )
            )
            channels = out_channels
    return nn.Sequential(*layers)
