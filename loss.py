"""Cross-entropy, focal, multi-class Dice and distillation loss, and the schedule that mixes them.

`mixed_loss` takes logits [N, C, H, W] of any float type and class ids [N, H, W]; pixels of id 255 count in the
distillation alone. Its sums run in float32, also under bf16 or fp16 autocast. One log-softmax serves all terms, and no
one-hot tensor is built.

Where several processes train, the sums run over all of their shares of a batch, so that their number changes nothing:
`total` is then `distributed.sum_with_gradient`, which turns a tensor of a process's sums into that of all.
"""

from functools import partial

import torch

from faceparse.data.classes import IGNORE_INDEX
from faceparse.training import distributed

DICE_SMOOTH = 1e-6
SMALLEST_BASE = 1e-6  # lower bound of 1 - p_t in the focal factor


def log_probabilities(logits, target):
    """Return log-softmax [N, C, H, W], its value at the true class [N, H, W], and the mask of pixels that count."""
    # Contiguous, because on the CPU every step over a channels-last tensor of 19 channels is far slower.
    log_probs = logits.float().contiguous().log_softmax(dim=1)
    valid = target != IGNORE_INDEX
    index = target.long().masked_fill(~valid, 0).unsqueeze(1)
    return log_probs, log_probs.gather(1, index).squeeze(1), valid


def only_here(sums):
    """The `total` of a batch that no other process has a share of."""
    return sums


def masked_mean(values, valid, total):
    value, count = total(torch.stack([(values * valid).sum(), valid.sum()]))
    return value / count.clamp(min=1)


def focal_values(log_pt, gamma):
    """Focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002), alpha 1: -(1 - p_t)^gamma log p_t."""
    # The clamp keeps the gradient finite where p_t rounds to 1 and gamma is below 1.
    return -((1 - log_pt.exp()).clamp(min=SMALLEST_BASE) ** gamma) * log_pt


def sum_by_class(index, values, num_classes):
    """Sum values [N, H, W] over the pixels of each class id of `index` [N, H, W]: float [num_classes]."""
    # Each row of pixels has sums of its own first. Millions of additions to one number would lose its last digits, and
    # on a GPU wait for each other.
    n, height, _ = index.shape
    rows = torch.arange(n * height, device=index.device).view(n, height, 1)
    sums = torch.zeros(n * height * num_classes, device=index.device)
    sums = sums.index_add(0, (rows * num_classes + index).flatten(), values.flatten())
    return sums.view(n * height, num_classes).sum(dim=0)


def dice_loss(log_probs, log_pt, valid, target, present_only, total):
    """Return the Dice loss, 1 - mean over classes of 2 I / (P + T).

    It is that of Milletari et al., 2016, https://arxiv.org/abs/1606.04797, without their squares, as Drozdzal et al.
    have it, 2016, https://arxiv.org/abs/1608.04117. I, P and T are sums over the whole batch: of the true class's
    probability, of all probabilities, of true pixels. With `present_only` the mean is over the classes in the batch;
    the challenge takes all of them.
    """
    num_classes = log_probs.shape[1]
    predicted = (log_probs.exp() * valid.unsqueeze(1)).sum(dim=(0, 2, 3))
    # Ignored pixels go to an extra class that is cut off again.
    index = target.long().masked_fill(~valid, num_classes)
    true = sum_by_class(index, torch.ones_like(log_pt), num_classes + 1)[:num_classes]
    intersection = sum_by_class(index, log_pt.exp(), num_classes + 1)[:num_classes]
    intersection, predicted, true = total(torch.stack([intersection, predicted, true]))
    dice = (2 * intersection + DICE_SMOOTH) / (predicted + true + DICE_SMOOTH)
    if present_only:
        present = true > 0
        return 1 - (dice * present).sum() / present.sum().clamp(min=1)
    return 1 - dice.mean()


def soft_cross_entropy(log_probs, taught, total):
    """Return the cross-entropy against teachers' probabilities `taught` [N, C, H, W], a mean over all pixels.

    Its gradient is that of the Kullback-Leibler divergence: distillation at temperature 1 (Hinton et al., 2015,
    https://arxiv.org/abs/1503.02531). No pixel is ignored.
    """
    values = -(taught * log_probs).sum(dim=1)
    return masked_mean(values, torch.ones_like(values), total)


def mixed_loss(
    logits,
    target,
    taught=None,
    *,
    focal_weight,
    focal_gamma,
    dice_weight,
    dice_present_only,
    teacher_weight=0.0,
    total=only_here,
):
    """(1 - dice_weight) * (focal_weight * focal + (1 - focal_weight) * cross-entropy) + dice_weight * Dice.

    Where teachers' probabilities `taught` are given, (1 - teacher_weight) of it + teacher_weight * soft cross-entropy.
    """
    log_probs, log_pt, valid = log_probabilities(logits, target)
    values = -log_pt
    if focal_weight:
        values = (1 - focal_weight) * values + focal_weight * focal_values(log_pt, focal_gamma)
    loss = masked_mean(values, valid, total)
    if dice_weight:
        dice = dice_loss(log_probs, log_pt, valid, target, dice_present_only, total)
        loss = (1 - dice_weight) * loss + dice_weight * dice
    if taught is not None:
        loss = (1 - teacher_weight) * loss + teacher_weight * soft_cross_entropy(log_probs, taught, total)
    return loss


def loss_at_epoch(args, epoch, single_photographs=False):
    """Return loss(logits, target, taught=None) of the 1-based epoch: Dice joins at `args.dice_from_epoch`.

    It is that of a batch of which every process has a share. With `single_photographs` it is that of what it is given,
    with Dice over the classes that occur, whatever the flag says: each class that does not would count as missed.
    """
    return partial(
        mixed_loss,
        focal_weight=args.focal_weight,
        focal_gamma=args.focal_gamma,
        dice_weight=args.dice_weight if epoch >= args.dice_from_epoch else 0.0,
        dice_present_only=single_photographs or not args.dice_all_classes,
        teacher_weight=args.teacher_weight,
        total=only_here if single_photographs else distributed.sum_with_gradient,
    )
