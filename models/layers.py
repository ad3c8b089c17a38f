"""Convolution, BatchNorm and activation as one layer, which all networks are made of."""

from torch import nn


class ConvBNReLU(nn.Sequential):
    """A convolution without bias, BatchNorm, and ReLU or another `activation`.

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
    ):
        if padding is None:
            padding = (kernel_size - 1) // 2 * dilation
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False),
            nn.BatchNorm2d(out_channels),
            activation(inplace=True),
        )
