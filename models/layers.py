"""Convolution, BatchNorm and activation as one layer, of which all networks are made; 1 x 1 convolutions."""

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


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution of stride 1 as the matrix product that it is when the channels lie last in memory."""

    def forward(self, x):
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def multiply_pointwise(model):
    """Make each 1 x 1 convolution of stride 1, without padding or groups, a PointwiseConv2d, in place.

    Weights and names stay. A step of training on a CPU is 1.1 times as fast (docs/EXPERIMENTS.md).
    """
    for module in model.modules():
        if not isinstance(module, nn.Conv2d) or any(module.padding):
            continue
        if (*module.kernel_size, *module.stride, module.groups) == (1,) * 5:
            module.__class__ = PointwiseConv2d
            # The strides that the gradient has, or DistributedDataParallel copies each of them and warns.
            module.weight.data = module.weight.data.flatten(1)[..., None, None]
