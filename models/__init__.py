"""The networks, by the name that `--model_type` takes and a checkpoint records."""

from torch import nn

from models.deeplab import DeepLabV3Plus
from models.deeplab_slim import DeepLabV3PlusSlim

MODELS = {
    "deeplabv3plus_mobilenet_slim": DeepLabV3PlusSlim,
    "deeplabv3plus_mobilenet": DeepLabV3Plus,
}


def build_model(model_type, *, num_classes=19, in_channels=3):
    """Return a network with fresh weights; `model_type` is a key of MODELS."""
    model = MODELS[model_type](num_classes=num_classes, in_channels=in_channels)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # He et al., 2015, https://arxiv.org/abs/1502.01852, as torchvision's MobileNetV2 is initialised.
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
