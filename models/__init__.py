"""The networks, by the name that `--model_type` takes and a checkpoint records. The first is the default.

To add one, write a module beside these and name its class in MODELS. The class takes `num_classes` as a keyword,
initialises its own weights, and offers
- `coarse_logits(x)`: photographs float32 [N, 3, H, W] in [0, 1] to logits [N, num_classes, h, w] at the decoder's own
  stride, which prediction and the ONNX export use,
- `forward(x)`: the same logits at input size, float32 [N, num_classes, H, W], which the losses use,
- if it can, `freeze_early()` for --freeze_early and `load_imagenet_weights()` for --pretrained.
"""

from models.deeplab import DeepLabV3Plus
from models.deeplab_pretrained import DeepLabV3PlusLite0, DeepLabV3PlusMobileNetV2
from models.deeplab_slim import DeepLabV3PlusSlim

MODELS = {
    "deeplabv3plus_mobilenet_slim": DeepLabV3PlusSlim,
    "deeplabv3plus_lite0": DeepLabV3PlusLite0,
    "deeplabv3plus_mobilenetv2": DeepLabV3PlusMobileNetV2,
    "deeplabv3plus_mobilenet": DeepLabV3Plus,
}


def build_model(model_type, *, num_classes=19):
    """Return a network with fresh weights; `model_type` is a key of MODELS."""
    return MODELS[model_type](num_classes=num_classes)
