"""The challenge's network gives the original's logits and has its keys; every entry of MODELS does what models says."""

import copy
import hashlib
import math
import zlib

import numpy as np
import pytest
import torch
from helpers import CHALLENGE, SLIM

from models import MODELS, build_model
from models.cost import count_flops, count_parameters
from models.layers import PointwiseConv2d, multiply_pointwise

LITE0, MOBILENETV2 = "deeplabv3plus_lite0", "deeplabv3plus_mobilenetv2"

# The challenge's network returned these logits, at [n, c, y, x], for the weights and the input of the test below.
CHALLENGE_LOGITS = {
    (0, 0, 0, 0): 0.8219492047699236,
    (0, 5, 80, 48): -1.974106522096412,
    (0, 18, 159, 95): 0.25747596950531343,
    (1, 1, 17, 33): -3.1432317180422022,
    (1, 9, 100, 60): -1.1041421114135288,
    (1, 13, 40, 90): 1.167215969039046,
}
CHALLENGE_MEAN, CHALLENGE_STD = 0.1393306550837589, 1.6262028449409418
# The hash of the 284 sorted lines "<key> <shape>" of the challenge's state_dict.
CHALLENGE_KEYS_SHA256 = "7c4ca369c7a54788e36becd24224c4c78b9efbc9678e60d09e791fbd375559ae"


def deterministic(key, value):
    """Return weights drawn from a generator that is seeded by the key's name."""
    n = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(value.shape)
    if key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif key.endswith(("running_mean", "bias")):
        n = 0.1 * n
    elif n.ndim == 1:
        n = 1 + 0.1 * n
    else:
        n = n * math.sqrt(2 / math.prod(n.shape[1:]))
    return torch.from_numpy(n).float()


def test_logits_are_those_of_the_challenge_network():
    model = build_model(CHALLENGE)
    state_dict = {
        key: value if key.endswith("num_batches_tracked") else deterministic(key, value)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state_dict)
    photos = torch.from_numpy(np.random.RandomState(0).rand(2, 3, 160, 96)).float()
    with torch.inference_mode():
        logits = model.eval()(photos)
    assert logits.shape == (2, 19, 160, 96)
    found = {position: logits[position].item() for position in CHALLENGE_LOGITS}
    assert found == pytest.approx(CHALLENGE_LOGITS, abs=1e-4)
    assert [logits.mean().item(), logits.std().item()] == pytest.approx([CHALLENGE_MEAN, CHALLENGE_STD], abs=1e-4)


def test_keys_and_shapes_are_those_of_the_challenge_checkpoint():
    shapes = {key: list(value.shape) for key, value in build_model(CHALLENGE).state_dict().items()}
    assert len(shapes) == 284
    lines = "\n".join(sorted(f"{key} {shape}" for key, shape in shapes.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == CHALLENGE_KEYS_SHA256


def test_challenge_network_has_the_published_size_and_cost():
    assert count_parameters(build_model(CHALLENGE)) == 1_992_599
    assert count_flops(CHALLENGE) / 1e9 == pytest.approx(21.6, abs=0.05)


@pytest.mark.parametrize(("model_type", "gflops"), [(SLIM, 10.8), (LITE0, 6), (MOBILENETV2, 6)])
def test_our_networks_keep_the_limits(model_type, gflops):
    """The later edition of the challenge allows no more parameters; the cost is at most half of its solution's."""
    assert count_parameters(build_model(model_type)) <= 1_821_085
    assert count_flops(model_type) <= gflops * 1e9


def test_matrix_products_are_the_pointwise_convolutions():
    plain = build_model(LITE0).to(torch.float64, memory_format=torch.channels_last).train()
    products = copy.deepcopy(plain)
    multiply_pointwise(products)
    assert sum(isinstance(module, PointwiseConv2d) for module in products.modules()) > 30
    photos, gradients = torch.rand(2, 3, 64, 48).double().contiguous(memory_format=torch.channels_last), []
    for model in (plain, products):
        torch.manual_seed(0)  # of the dropout
        model(photos).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_aspp_rates():
    """The logits above cannot tell: at 160 x 96 px all taps of rates 12 and 18 but the middle one fall outside. And
    they add no parameter, so a checkpoint fits without them too."""
    challenge = [build_model(CHALLENGE).classifier.aspp.convs[index][0] for index in (1, 2, 3)]
    slim = [build_model(SLIM).aspp.convs[index][0][0] for index in (1, 2, 3)]
    for convs in (challenge, slim):
        assert [conv.dilation for conv in convs] == [conv.padding for conv in convs] == [(6, 6), (12, 12), (18, 18)]
    assert all(conv.groups == conv.in_channels == 160 for conv in slim)


@pytest.mark.parametrize("size", [(33, 47), (64, 32)])
@pytest.mark.parametrize("model_type", MODELS)
def test_logits_have_the_inputs_size_and_every_weight_a_finite_gradient(model_type, size):
    torch.manual_seed(0)
    model = build_model(model_type, num_classes=7).train()
    logits = model(torch.rand(2, 3, *size))
    assert logits.shape == (2, 7, *size) and logits.isfinite().all()
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), f"{name} has no part in the logits"


@pytest.mark.parametrize("model_type", MODELS)
def test_convolutions_start_as_in_he_et_al(model_type):
    """Of deviation sqrt(2 / (output channels * height * width of the kernel)), where there are enough to measure it."""
    torch.manual_seed(0)
    measured = 0
    for each in build_model(model_type).modules():
        if isinstance(each, torch.nn.Conv2d) and each.weight.numel() > 2000:
            expected = math.sqrt(2 / (each.out_channels * math.prod(each.kernel_size)))
            assert (
                each.weight.std().item() == pytest.approx(expected, rel=0.08) and abs(each.weight.mean()) < expected / 5
            )
            measured += 1
        if isinstance(each, torch.nn.Conv2d) and each.bias is not None:
            assert not each.bias.any()
    assert measured > 10


def test_each_stride_of_the_slim_network_halves_the_picture():
    """A stem without padding would give 31 x 47, and take the shipped weights all the same."""
    model = build_model(SLIM).eval()
    with torch.inference_mode():
        low2 = model.stride2(torch.rand(1, 3, 64, 96))
        low4 = model.stride4(low2)
        high = model.stride16(low4)
        coarse = model.coarse_logits(torch.rand(1, 3, 64, 96))
    assert [tuple(each.shape) for each in (low2, low4, high, coarse)] == [
        (1, 16, 32, 48),
        (1, 24, 16, 24),
        (1, 160, 4, 6),
        (1, 19, 32, 48),
    ]
