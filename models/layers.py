"""Convolution, BatchNorm and activation as one layer, which all networks are made of."""

from torch import nn
from torch.nn import functional as F


class TensorFlowConv2d(nn.Conv2d):
    """Pads at stride 2 as TensorFlow's "same" does on even sides: one row and column less at the top and the left."""

    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, *args, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding if stride == 1 else 0, *args, **kwargs)
        self.margins = (padding - 1, padding) * 2 if stride == 2 else (0,) * 4

    def forward(self, x):
        return super().forward(F.pad(x, self.margins) if any(self.margins) else x)


class ConvBNReLU(nn.Sequential):
    """A convolution without bias, BatchNorm, and ReLU or another `activation`; `conv` and `norm` are their classes.

    `padding` None keeps height and width at stride 1. torchvision has the same layer, but importing torchvision would
    double the time that every script takes to start.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size=3,
        *,
        stride=1,
        padding=None,
        dilation=1,
        groups=1,
        activation=nn.ReLU,
        conv=nn.Conv2d,
        norm=nn.BatchNorm2d,
    ):
        if padding is None:
            padding = (kernel_size - 1) // 2 * dilation
        super().__init__(
            conv(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False),
            norm(out_channels),
            activation(inplace=True),
        )
