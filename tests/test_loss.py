"""The losses against torch's own, naive loops and hand-worked cases: values, gradients, ignored pixels, precision."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import main_deeplab
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from loss import cross_entropy, dice_loss, focal_loss, loss_at_epoch
from options import train_parser

CLASSES, ABSENT = 7, 5
MIX = ["--focal_weight=0.3", "--focal_gamma=2", "--dice_weight=0.6", "--dice_from_epoch=21"]


def flags(focal_weight=0.3, focal_gamma=2.0, dice_weight=0.6, all_classes=False, dice_from_epoch=1):
    """Return flags of training for `loss_at_epoch`."""
    return SimpleNamespace(**locals(), dice_all_classes=all_classes)


@pytest.fixture
def batch():
    """Logits [3, 7, 6, 5] and a target in which class 5 never occurs and a fifth of the pixels is ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, CLASSES, 6, 5, generator=generator)
    target = torch.randint(CLASSES, (3, 6, 5), generator=generator)
    target[target == ABSENT] = 0
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return logits, target


def naive_focal(logits, target, gamma=2.0):
    """Lin et al.'s formula in float64, pixel by pixel."""
    pixels = zip(logits.double().permute(0, 2, 3, 1).flatten(end_dim=2), target.flatten(), strict=True)
    p = torch.stack([scores.softmax(0)[label] for scores, label in pixels if label != 255])
    return (-((1 - p) ** gamma) * p.log()).mean()


def naive_dice(logits, target, all_classes=False):
    """A loop over classes in float64; without the smoothing a class that is nowhere would be 0 / 0."""
    scores, probabilities = [], logits.double().softmax(dim=1)
    for index in range(logits.shape[1]):
        p, is_true = probabilities[:, index], target == index
        if all_classes or is_true.any():
            scores.append((2 * p[is_true].sum() + 1e-6) / (p[target != 255].sum() + is_true.sum() + 1e-6))
    return 1 - torch.stack(scores).mean()


def naive_mix(logits, target, all_classes=False):
    """The mixed loss of `flags()`."""
    pixel = 0.3 * naive_focal(logits, target) + 0.7 * naive_focal(logits, target, 0)
    return 0.4 * pixel + 0.6 * naive_dice(logits, target, all_classes)


torchs_cross_entropy = partial(F.cross_entropy, ignore_index=255)
LOSSES = {  # each with its formula
    "cross_entropy": (cross_entropy, torchs_cross_entropy),
    "focal": (focal_loss, naive_focal),
    "focal_gamma_0": (partial(focal_loss, gamma=0.0), torchs_cross_entropy),
    "focal_gamma_0.5": (partial(focal_loss, gamma=0.5), partial(naive_focal, gamma=0.5)),
    "focal_gamma_5": (partial(focal_loss, gamma=5.0), partial(naive_focal, gamma=5.0)),
    "dice": (dice_loss, naive_dice),
    "dice_all_classes": (partial(dice_loss, all_classes=True), partial(naive_dice, all_classes=True)),
    "mixed": (loss_at_epoch(flags(), 1), naive_mix),
    "mixed_before_dice": (loss_at_epoch(flags(0, dice_from_epoch=21), 20), torchs_cross_entropy),
    "mixed_all_classes": (loss_at_epoch(flags(all_classes=True), 1), partial(naive_mix, all_classes=True)),
}
every_loss = pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()], ids=LOSSES)


@pytest.mark.parametrize(("loss", "formula"), LOSSES.values(), ids=LOSSES)
def test_value_and_gradient_are_those_of_the_formula_in_float64(batch, loss, formula):
    logits, target = batch[0].double().requires_grad_(), batch[1]
    value, expected = loss(logits, target), formula(logits, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        *(torch.autograd.grad(each, logits)[0] for each in (value, expected)), rtol=1e-4, atol=1e-7
    )


def test_dice_hand_worked():
    """Pixel 0 is class 0 with p = (3/4, 1/4, 0), pixel 1 class 1 with (1/2, 1/2, 0), pixel 2 ignored with (0, 0, 1).

    Class 0: I = 3/4, P = 5/4, T = 1, so 2 I / (P + T) = 2/3. Class 1: I = 1/2, P = 3/4, T = 1, so 4/7.
    Class 2 is neither true nor predicted where pixels count: 1, by the smoothing.
    """
    probabilities = torch.tensor([[[[0.75, 0.5, 0.0]], [[0.25, 0.5, 0.0]], [[0.0, 0.0, 1.0]]]])
    logits, target = probabilities.log().clamp(min=-1e4), torch.tensor([[[0, 1, 255]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 / 3 + 4 / 7) / 2, abs=1e-6)
    assert dice_loss(logits, target, all_classes=True).item() == pytest.approx(1 - (2 / 3 + 4 / 7 + 1) / 3, abs=1e-6)


@every_loss
def test_ignored_pixels_change_neither_value_nor_gradient(batch, loss):
    logits, target = batch
    ignored = (target == 255)[:, None].expand_as(logits)
    values, gradients = [], []
    for noise in (0, 50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))):
        changed = (logits + ignored * noise).requires_grad_()
        values.append(loss(changed, target))
        gradients.append(torch.autograd.grad(values[-1], changed)[0])
    assert values[0].item() == values[1].item()
    assert torch.equal(*gradients)
    assert not gradients[0][ignored].any() and gradients[0][~ignored].all()


@every_loss
def test_batch_of_ignored_pixels_costs_and_changes_nothing(batch, loss):
    logits, target = batch[0].requires_grad_(), torch.full_like(batch[1], 255)
    value = loss(logits, target)
    value.backward()
    assert value.item() == 0 and not logits.grad.any()


def test_the_validation_loss_is_the_mean_over_photographs(tmp_path, monkeypatch):
    """Each at the size of its mask, the large one at that of the network, with Dice over its own classes.

    A mask without any does not count.
    """
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(19, *size, generator=generator) for size in ((6, 5), (6, 5), (6, 5), (32, 24))]
    sizes = [(12, 10), (12, 10), (12, 10), (128, 96)]
    masks = [torch.randint(n, size, generator=generator) for n, size in zip((3, 2, 1, 3), sizes, strict=True)]
    masks[1][:5] = masks[2][:] = 255
    pairs = [(str(index), tmp_path / f"{index}.png", tmp_path / f"{index}.png") for index in range(4)]
    for mask, (_, _, path) in zip(masks, pairs, strict=True):
        write_label_map(path, mask.byte().numpy())
    predictions = [(index, logits[index].numpy(), sizes[index]) for index in range(4)]
    monkeypatch.setattr(main_deeplab, "predict", lambda network, photos, **options: predictions)
    model, args = torch.nn.Identity(), train_parser("Train.").parse_args([*MIX, "--image_size=64"])
    model.class_set, model.image_size = CELEBAMASK, 64
    loss, _ = main_deeplab.validate_epoch(args, 21, model, pairs, torch.device("cpu"))

    sizes[3], masks[3] = (64, 48), masks[3][1::2, 1::2]
    resized = [F.interpolate(logits[index][None], sizes[index], mode="bilinear") for index in (0, 1, 3)]
    expected = [naive_mix(each, masks[index][None]) for each, index in zip(resized, (0, 1, 3), strict=True)]
    assert loss == pytest.approx(sum(expected).item() / 3, rel=1e-5)  # one mask is all 255


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_loss
def test_low_precision_logits_are_summed_in_float32(loss, dtype):
    """A sum over 128 x 128 pixels in bf16 or fp16 itself would be off in the second digit."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 128, 128, generator=generator).to(dtype)
    target = torch.randint(CLASSES, (2, 128, 128), generator=generator)
    value = loss(logits, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(logits.double(), target).item(), rel=1e-5)


@pytest.mark.parametrize("size", [1e2, 1e4, 6e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@every_loss
def test_extreme_logits_give_finite_values_and_gradients(batch, loss, dtype, size):
    """Surely right in one half of the batch, surely wrong in the other, and a pixel where all classes tie."""
    _, target = batch
    right = F.one_hot(target.where(target != 255, 0), CLASSES).permute(0, 3, 1, 2)
    logits = size * (2.0 * right - 1)
    logits[1:] *= -1
    logits[:, :, 0, 0] = size
    logits = logits.to(dtype).requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all() and logits.grad.dtype == dtype


def test_hand_worked_pixels():
    logits, target = torch.tensor([[[[1e4]], [[-1e4]]]]), torch.tensor([[[1]]])
    assert cross_entropy(logits, target).item() == focal_loss(logits, target).item() == pytest.approx(2e4)
    assert cross_entropy(logits, 1 - target).item() == 0
    uniform, target = torch.zeros(1, 19, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    assert cross_entropy(uniform, target).item() == pytest.approx(math.log(19))
    assert focal_loss(uniform, target).item() == pytest.approx((18 / 19) ** 2 * math.log(19))
