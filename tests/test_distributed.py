"""Several processes compute what one computes from the same batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SLIM_WEIGHTS, parse
from PIL import Image
from two_processes import in_two_processes

import main_deeplab
from faceparse.data.classes import CELEBAMASK
from faceparse.training import distributed
from loss import loss_at_epoch
from main_deeplab import build_training

PORTRAIT = Path(__file__).parents[1] / "assets/astronaut.jpg"
CPU = torch.device("cpu")
RARE = 15  # a class that is in the first photograph alone
FLAGS = {
    "all terms": ["--focal_weight", "0.1"],
    "all classes": ["--dice_all_classes"],
}


def batch(model):
    """Five pictures, which two processes share as three and two, with the model's own labels, moved by some pixels.

    The first alone has one of the classes, and of the last most pixels are ignored.
    """
    with Image.open(PORTRAIT) as portrait:
        photo = torch.from_numpy(np.array(portrait.convert("RGB").resize((64, 64)))).permute(2, 0, 1).double() / 255
    photos = torch.stack([photo.roll(4 * shift, dims=2) for shift in range(5)])
    with torch.no_grad():
        masks = model(photos).argmax(dim=1).roll((2, 2), dims=(1, 2))
    masks[0, :8, :8] = RARE
    masks[4, :48] = 255
    return photos, masks


def gradients(rank, processes, flags):
    """Return loss and gradients of this process's share, BatchNorm in eval mode, as training computes them.

    In float64, because in float32 a few rounded bits of an ill-conditioned layer look like another gradient.
    """
    args = parse(main_deeplab, "--load_model_path", SLIM_WEIGHTS, *flags)
    model = build_training(args, CPU, CELEBAMASK).model
    network = distributed.data_parallel(model.eval().double(), CPU)
    photos, masks = (part[rank::processes] for part in batch(model))
    loss = loss_at_epoch(args, args.dice_from_epoch)(network(photos), masks)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def save_gradients(rank, out):
    torch.save({name: gradients(rank, 2, flags) for name, flags in FLAGS.items()}, out / f"{rank}.pt")


def difference(a, b):
    return ((a - b).norm() / b.norm().clamp(min=1e-12)).item()


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path):
    """Also where a class is in one share alone, where the shares differ in size and in the number of pixels counted."""
    in_two_processes(save_gradients, tmp_path)
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, flags in FLAGS.items():
        expected_loss, expected = gradients(0, 1, flags)
        for share in shares:
            loss, found = share[name]
            assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6), name
            for key in expected:
                assert difference(found[key], expected[key]) < 1e-4, (name, key)
    # Without these sums DistributedDataParallel would take the mean of what each share gives alone: 0.5 to 4 % off.
    alone = [gradients(rank, 2, flags)[1]["classifier.weight"] for rank in range(2)]
    assert difference(sum(alone) / 2, expected["classifier.weight"]) > 1e-3


def test_batchnorm_statistics_become_the_mean_of_the_processes(monkeypatch):
    """The other process has twice the statistics of this one."""
    norms = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(3))
    norms[0].running_mean.copy_(torch.tensor([1.0, 2]))
    norms[1].running_var.copy_(torch.tensor([4.0, 5, 6]))
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_processes", lambda tensor: 3 * tensor)
    distributed.average_buffers(norms)
    assert norms[0].running_mean.tolist() == [1.5, 3] and norms[0].running_var.tolist() == [1.5, 1.5]
    assert norms[1].running_mean.tolist() == [0, 0, 0] and norms[1].running_var.tolist() == [6, 7.5, 9]
