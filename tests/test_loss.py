"""The losses against torch's own, naive loops and hand-worked cases: values, gradients, ignored pixels, precision."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import main_deeplab
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from loss import loss_at_epoch, mixed_loss
from options import train_parser

CLASSES, ABSENT = 7, 5


def mixed(logits, target, *, focal_weight=0.3, gamma=2.0, dice_weight=0.6, present_only=False):
    options = {"focal_weight": focal_weight, "focal_gamma": gamma, "dice_weight": dice_weight}
    return mixed_loss(logits, target, **options, dice_present_only=present_only)


cross_entropy_loss = partial(mixed, focal_weight=0, dice_weight=0)
focal_loss = partial(mixed, focal_weight=1, dice_weight=0)
dice_loss = partial(mixed, dice_weight=1)
ALL_LOSSES = {
    "cross_entropy": cross_entropy_loss,
    "focal": focal_loss,
    "focal_gamma_0.5": partial(focal_loss, gamma=0.5),
    "dice": dice_loss,
    "dice_present_only": partial(dice_loss, present_only=True),
    "mixed": mixed,
    "mixed_present_only": partial(mixed, present_only=True),
}
every_loss = pytest.mark.parametrize("loss", ALL_LOSSES.values(), ids=ALL_LOSSES)


@pytest.fixture
def batch():
    """Logits [3, 7, 6, 5] and a target in which class 5 never occurs and a fifth of the pixels is ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, CLASSES, 6, 5, generator=generator)
    target = torch.randint(CLASSES, (3, 6, 5), generator=generator)
    target[target == ABSENT] = 0
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return logits, target


def naive_focal(logits, target, gamma):
    """Lin et al.'s formula in float64, pixel by pixel."""
    terms = []
    pixels = logits.double().permute(0, 2, 3, 1).flatten(end_dim=2)
    for scores, label in zip(pixels, target.flatten(), strict=True):
        if label != 255:
            p = scores.softmax(0)[label]
            terms.append(-((1 - p) ** gamma) * p.log())
    return torch.stack(terms).mean()


def naive_dice(logits, target, present_only=False):
    """A loop over classes in numpy; without the smoothing a class that is nowhere would be 0 / 0."""
    logits, target = logits.double().numpy(), target.numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for index in range(logits.shape[1]):
        is_true = target == index
        if present_only and not is_true.any():
            continue
        p = probabilities[:, index]
        scores.append((2 * p[is_true].sum() + 1e-6) / (p[target != 255].sum() + is_true.sum() + 1e-6))
    return 1 - np.mean(scores)


def naive_dice_by_one_hot(logits, target):
    """The same with a one-hot tensor and autograd, in the logits' own type."""
    valid = target != 255
    one_hot = F.one_hot(target.where(valid, 0), CLASSES).permute(0, 3, 1, 2) * valid[:, None]
    p = logits.softmax(1) * valid[:, None]
    dice = (2 * (p * one_hot).sum((0, 2, 3)) + 1e-6) / ((p + one_hot).sum((0, 2, 3)) + 1e-6)
    return 1 - dice.mean()


def test_cross_entropy_is_torchs(batch):
    logits, target = batch
    expected = F.cross_entropy(logits, target, ignore_index=255)
    assert cross_entropy_loss(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_the_papers_formula(batch, gamma):
    expected = naive_focal(*batch, gamma)
    assert focal_loss(*batch, gamma=gamma).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_with_gamma_0_is_cross_entropy(batch):
    assert focal_loss(*batch, gamma=0.0).item() == pytest.approx(cross_entropy_loss(*batch).item(), rel=1e-6)


@pytest.mark.parametrize("present_only", [False, True])
def test_dice_is_that_of_a_loop_over_classes(batch, present_only):
    expected = naive_dice(*batch, present_only)
    assert dice_loss(*batch, present_only=present_only).item() == pytest.approx(expected, abs=1e-6)
    assert naive_dice(*batch, True) != pytest.approx(naive_dice(*batch, False), abs=1e-3)


def test_dice_hand_worked():
    """Pixel 0 is class 0 with p = (3/4, 1/4, 0), pixel 1 class 1 with (1/2, 1/2, 0), pixel 2 ignored with (0, 0, 1).

    Class 0: I = 3/4, P = 5/4, T = 1, so 2 I / (P + T) = 2/3. Class 1: I = 1/2, P = 3/4, T = 1, so 4/7.
    Class 2 is neither true nor predicted where pixels count: 1, by the smoothing.
    """
    probabilities = torch.tensor([[[[0.75, 0.5, 0.0]], [[0.25, 0.5, 0.0]], [[0.0, 0.0, 1.0]]]])
    logits, target = probabilities.log().clamp(min=-1e4), torch.tensor([[[0, 1, 255]]])
    assert dice_loss(logits, target, present_only=True).item() == pytest.approx(1 - (2 / 3 + 4 / 7) / 2, abs=1e-6)
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 / 3 + 4 / 7 + 1) / 3, abs=1e-6)


def test_perfect_and_opposite_predictions_reach_dice_0_and_1():
    target = torch.tensor([[[0, 1], [1, 0]]])
    right = 100.0 * F.one_hot(target, 2).permute(0, 3, 1, 2)
    assert dice_loss(right, target).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-right, target).item() == pytest.approx(1, abs=1e-6)


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
def test_batch_of_ignored_pixels_is_finite_and_teaches_nothing(batch, loss):
    logits, target = batch[0].requires_grad_(), torch.full_like(batch[1], 255)
    value = loss(logits, target)
    value.backward()
    assert value.isfinite() and not logits.grad.any()


@every_loss
def test_target_type_and_memory_layout_do_not_matter(batch, loss):
    logits, target = batch
    expected = loss(logits, target).item()
    assert loss(logits.contiguous(memory_format=torch.channels_last), target.byte()).item() == pytest.approx(expected)


@pytest.mark.parametrize("present_only", [False, True])
@pytest.mark.parametrize(("focal_weight", "dice_weight"), [(0, 0), (0.1, 0), (0, 0.6), (0.3, 0.6), (1, 0.5), (1, 1)])
def test_mixed_is_the_weighted_sum(batch, focal_weight, dice_weight, present_only):
    pixel = focal_weight * naive_focal(*batch, 3.0) + (1 - focal_weight) * naive_focal(*batch, 0.0)
    expected = (1 - dice_weight) * pixel.item() + dice_weight * naive_dice(*batch, present_only)
    value = mixed(*batch, focal_weight=focal_weight, gamma=3.0, dice_weight=dice_weight, present_only=present_only)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("epoch", "dice_weight"), [(1, 0), (20, 0), (21, 0.6), (400, 0.6)])
def test_flags_follow_the_challenges_schedule(batch, epoch, dice_weight):
    """0.1 focal (gamma 2) + 0.9 cross-entropy to epoch 20; from 21 on 0.4 of that + 0.6 Dice over all classes."""
    cross_entropy = F.cross_entropy(*batch, ignore_index=255).item()
    pixel = 0.1 * naive_focal(*batch, 2.0).item() + 0.9 * cross_entropy
    expected = (1 - dice_weight) * pixel + dice_weight * naive_dice(*batch)
    flags = ["--focal_weight=0.1", "--dice_weight=0.6", "--dice_from_epoch=21", "--dice_all_classes"]
    loss = loss_at_epoch(train_parser("Train.").parse_args(flags), epoch)
    assert loss(*batch).item() == pytest.approx(expected, rel=1e-5)


def test_schedule_takes_the_flags(batch):
    flags = ["--focal_weight=1", "--focal_gamma=0.5", "--dice_weight=0.25", "--dice_from_epoch=3"]
    args = train_parser("Train.").parse_args(flags)
    focal = naive_focal(*batch, 0.5).item()
    assert loss_at_epoch(args, 2)(*batch).item() == pytest.approx(focal, rel=1e-5)
    expected = 0.75 * focal + 0.25 * naive_dice(*batch, present_only=True)
    assert loss_at_epoch(args, 3)(*batch).item() == pytest.approx(expected, rel=1e-5)


def test_what_teachers_say_is_learned_as_by_the_kullback_leibler_divergence(batch):
    """PyTorch's divergence has the same gradient, and is smaller by the entropy of what they say."""
    taught = torch.randn(batch[0].shape, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    args = train_parser("Train.").parse_args(["--teacher_weight", "0.75"])
    logits, other = (batch[0].clone().requires_grad_() for _ in range(2))
    loss = loss_at_epoch(args, 1)(logits, batch[1], taught)
    pixels = taught.numel() / CLASSES
    divergence = F.kl_div(other.log_softmax(dim=1), taught, reduction="sum") / pixels
    expected = 0.25 * loss_at_epoch(args, 1)(other, batch[1]) + 0.75 * divergence
    entropy = -(taught * taught.log()).sum() / pixels
    assert loss.item() == pytest.approx((expected + 0.75 * entropy).item(), rel=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, other.grad)


def test_the_validation_loss_is_the_mean_over_photographs(tmp_path, monkeypatch):
    """Each at the size of its mask, with Dice over its own classes. One photograph has three of them, the other two."""
    generator = torch.Generator().manual_seed(0)
    logits, size = torch.randn(2, 19, 6, 5, generator=generator), (12, 10)
    masks = [torch.randint(classes, size, generator=generator) for classes in (3, 2)]
    masks[1][:5] = 255
    for index, mask in enumerate(masks):
        write_label_map(tmp_path / f"{index}.png", mask.byte().numpy())
    pairs = [(str(index), None, tmp_path / f"{index}.png") for index in range(2)]
    predictions = [(index, logits[index].numpy(), size) for index in range(2)]
    monkeypatch.setattr(main_deeplab, "predict", lambda network, photos, **options: predictions)
    model, args = torch.nn.Identity(), train_parser("Train.").parse_args(["--focal_weight=0.3", "--dice_weight=0.6"])
    model.class_set, model.image_size = CELEBAMASK, 512
    expected = []
    for index, mask in enumerate(masks):
        each, mask = F.interpolate(logits[index, None], size, mode="bilinear"), mask[None]
        pixel = 0.3 * naive_focal(each, mask, 2.0) + 0.7 * F.cross_entropy(each, mask, ignore_index=255)
        expected.append(0.4 * pixel.item() + 0.6 * naive_dice(each, mask, present_only=True))
    loss, _ = main_deeplab.validate_epoch(args, 21, model, pairs, torch.device("cpu"))
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_large_photograph_counts_in_the_validation_loss_at_the_networks_size(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(1, 19, 32, 24, generator=generator), torch.randint(3, (128, 96), generator=generator)
    write_label_map(tmp_path / "0.png", mask.byte().numpy())
    prediction = (0, logits[0].numpy(), (128, 96))
    monkeypatch.setattr(main_deeplab, "predict", lambda network, photos, **options: [prediction])
    model, args = torch.nn.Identity(), train_parser("Train.").parse_args(["--image_size=64"])
    model.class_set, model.image_size = CELEBAMASK, 64
    pairs = [("0", None, tmp_path / "0.png")]
    loss, _ = main_deeplab.validate_epoch(args, 1, model, pairs, torch.device("cpu"))
    small = F.interpolate(logits, (64, 48), mode="bilinear"), mask[None, 1::2, 1::2]
    assert loss == pytest.approx(loss_at_epoch(args, 1)(*small).item(), rel=1e-5)


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


def test_extreme_logits_have_the_value_of_the_formula():
    logits, target = torch.tensor([[[[1e4]], [[-1e4]]]]), torch.tensor([[[1]]])
    assert cross_entropy_loss(logits, target).item() == pytest.approx(2e4)
    assert focal_loss(logits, target).item() == pytest.approx(2e4)
    assert cross_entropy_loss(logits, 1 - target).item() == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_is_autograds_of_the_formulas_in_float64(batch, gamma):
    logits, target = batch[0].double().requires_grad_(), batch[1]
    pixel = 0.3 * naive_focal(logits, target, gamma) + 0.7 * F.cross_entropy(logits, target, ignore_index=255)
    reference = 0.4 * pixel + 0.6 * naive_dice_by_one_hot(logits, target)
    assert naive_dice_by_one_hot(logits, target).item() == pytest.approx(naive_dice(logits.detach(), target))
    value = mixed(logits, target, gamma=gamma)
    assert value.item() == pytest.approx(reference.item(), rel=1e-5)
    expected, gradient = (torch.autograd.grad(each, logits)[0] for each in (reference, value))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_uniform_prediction_costs_the_logarithm_of_the_number_of_classes():
    logits, target = torch.zeros(1, 19, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)
    assert cross_entropy_loss(logits, target).item() == pytest.approx(math.log(19))
    assert focal_loss(logits, target).item() == pytest.approx((18 / 19) ** 2 * math.log(19))
