"""Folding BatchNorm changes the network's cost, not its function."""

import pytest
import torch
from torch import nn

from models import MODELS, build_model
from models.folding import fold_batchnorm


@pytest.mark.parametrize("model_type", MODELS)
def test_folded_network_gives_the_same_logits(model_type):
    torch.manual_seed(0)
    model = build_model(model_type)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # give it statistics and weights that are not the identity
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    photos = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        expected = model.eval()(photos)
        folded = fold_batchnorm(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(photos), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
