"""MobileNetV2 backbone (Sandler et al., 2018, https://arxiv.org/abs/1801.04381), dilated for dense prediction."""

from functools import partial

from torch import nn
from torch.nn import functional as F

from models.layers import ConvBNReLU


class ReLU6(nn.ReLU6):
    """ReLU6 in place, but not where gradients are needed: PyTorch would copy its input first, unlike that of ReLU."""

    def forward(self, x):
        return F.relu6(x, inplace=self.inplace and not x.requires_grad)


OUTPUT_STRIDE = 16  # of the encoder
ConvBNReLU6 = partial(ConvBNReLU, activation=ReLU6)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; the input is added if the shapes allow it.

    With `pad_input` the block zero-pads its input instead of the depthwise convolution's, so that the border passes
    through expansion, BatchNorm and ReLU6. The challenge's network pads in this way, and its weights need it.
    """

    def __init__(self, in_channels, out_channels, *, kernel_size, stride, dilation, expansion, pad_input, layer):
        super().__init__()
        hidden = in_channels * expansion
        padding = kernel_size // 2 * dilation
        depthwise = {"stride": stride, "dilation": dilation, "groups": hidden, "padding": 0 if pad_input else padding}
        expand = [] if expansion == 1 else [layer(in_channels, hidden, kernel_size=1)]
        project = list(layer(hidden, out_channels, kernel_size=1))[:2]  # without its activation
        self.conv = nn.Sequential(*expand, layer(hidden, hidden, kernel_size, **depthwise), *project)
        self.input_padding = padding if pad_input else 0
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x):
        out = self.conv(F.pad(x, [self.input_padding] * 4) if self.input_padding else x)
        return x + out if self.adds_input else out


def stage_channels(table, *stages):
    """Return the output channels of the stages with these indices in a `mobilenetv2_features` table."""
    return [table[stage][1] for stage in stages]


def mobilenetv2_features(table, *, stem_channels, pad_input=False, layer=ConvBNReLU6):
    """Build stem and inverted residuals as one nn.Sequential of `layer`s.

    `table` has a row (t, c, n, s, k) per stage: expansion, output channels, blocks, stride of the first block, size of
    the depthwise kernels. Once OUTPUT_STRIDE is reached, strides turn into dilation. Input [N, 3, H, W].
    """
    stem = layer(3, stem_channels, stride=2, padding=0 if pad_input else 1)
    layers, channels, stride_so_far, dilation = [stem], stem_channels, 2, 1
    for expansion, out_channels, blocks, stride, kernel_size in table:
        first_dilation = dilation
        if stride_so_far == OUTPUT_STRIDE:
            dilation, stride = dilation * stride, 1
        stride_so_far *= stride
        for block in range(blocks):
            layers.append(
                InvertedResidual(
                    channels,
                    out_channels,
                    kernel_size=kernel_size,
                    stride=stride if block == 0 else 1,
                    dilation=first_dilation if block == 0 else dilation,
                    expansion=expansion,
                    pad_input=pad_input,
                    layer=layer,
                )
            )
            channels = out_channels
    return nn.Sequential(*layers)
