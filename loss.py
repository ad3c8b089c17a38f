"""Cross-entropy, focal and Dice loss, and the schedule that mixes them.

Each loss takes logits [N, C, H, W] of any float type and class ids [N, H, W], and returns a scalar in float32, also
under bf16 or fp16 autocast. Pixels of id 255 do not count. Id C + i stands for a set of classes, `sets[i]`: the loss of
such a pixel is -log of the summed probability of its classes, and Dice leaves it out. If several processes train, it is
the loss of the batch that they share: `reduce_sum` turns a tensor of sums over this process's share into that over all.
"""

import torch

from faceparse.data.classes import IGNORE_INDEX
from faceparse.training import distributed

DICE_SMOOTH = 1e-6
MIN_BASE = 1e-6  # lower bound of 1 - p_t in the focal factor


def identity(sums):
    """The `reduce_sum` of a batch that one process has alone."""
    return sums


class Pixels:
    """What all losses need of a batch, so that it is computed once. Which pixels count is decided here."""

    def __init__(self, logits, target, reduce_sum=identity, sets=()):
        # Contiguous, because on the CPU every step over a channels-last tensor of 19 channels is far slower.
        self.log_probs = logits.float().contiguous().log_softmax(dim=1)  # [N, C, H, W]
        self.valid = target != IGNORE_INDEX  # [N, H, W]
        self.settled = target < logits.shape[1]  # [N, H, W], not those of a set of classes either
        self.target = target.long().masked_fill(~self.settled, 0)  # [N, H, W]
        self.log_pt = self.log_probs.gather(1, self.target.unsqueeze(1)).squeeze(1)  # [N, H, W], of the true class
        for index, classes in enumerate(sets):
            of_set = target == logits.shape[1] + index
            of_classes = self.log_probs.permute(0, 2, 3, 1)[of_set][:, list(classes)]  # [pixels, classes]
            self.log_pt = self.log_pt.index_put((of_set,), of_classes.logsumexp(dim=1))
        self.reduce_sum = reduce_sum

    def mean(self, values):
        """Return the mean of values [N, H, W] over the pixels that count; 0 if none does."""
        value, count = self.reduce_sum(torch.stack([(values * self.valid).sum(), self.valid.sum()]))
        return value / count.clamp(min=1)

    def sums_by_class(self, values):
        """Return the sums of values [N, H, W] over this process's settled pixels of each true class, float [C]."""
        # Each row of pixels has sums of its own first. Millions of additions to one number would lose its last digits,
        # and on a GPU wait for each other.
        n, num_classes, height, _ = self.log_probs.shape
        rows = torch.arange(n * height, device=values.device).view(n, height, 1)
        sums = torch.zeros(n * height * num_classes, device=values.device)
        sums = sums.index_add(0, (rows * num_classes + self.target).flatten(), (values * self.settled).flatten())
        return sums.view(n * height, num_classes).sum(dim=0)


def cross_entropy(logits, target, *, reduce_sum=identity):
    """Return the mean over pixels of -log p_t, where p_t is the probability of the true class."""
    pixels = Pixels(logits, target, reduce_sum)
    return pixels.mean(-pixels.log_pt)


def focal_loss(logits, target, *, gamma=2.0, reduce_sum=identity):
    """Return the mean over pixels of -(1 - p_t)^gamma log p_t (Lin et al., 2017, https://arxiv.org/abs/1708.02002)."""
    pixels = Pixels(logits, target, reduce_sum)
    return pixels.mean(_focal(pixels, gamma))


def _focal(pixels, gamma):
    # The clamp keeps the gradient finite if p_t rounds to 1 and gamma is below 1.
    return -((1 - pixels.log_pt.exp()).clamp(min=MIN_BASE) ** gamma) * pixels.log_pt


def dice_loss(logits, target, *, all_classes=False, reduce_sum=identity):
    """Return the mean over classes of 1 - 2 I / (P + T).

    I, P and T are sums over the whole batch: of the true class's probability, of all probabilities, of true pixels. The
    mean is over the classes that the target holds, 0 if it holds none, or over all, as in the challenge's solution.
    Milletari et al., 2016, https://arxiv.org/abs/1606.04797, without their squares, as Drozdzal et al., 2016,
    https://arxiv.org/abs/1608.04117.
    """
    return _dice(Pixels(logits, target, reduce_sum), all_classes)


def _dice(pixels, all_classes):
    predicted = (pixels.log_probs.exp() * pixels.settled.unsqueeze(1)).sum(dim=(0, 2, 3))
    true, intersection = (pixels.sums_by_class(each) for each in (torch.ones_like(pixels.log_pt), pixels.log_pt.exp()))
    intersection, predicted, true = pixels.reduce_sum(torch.stack([intersection, predicted, true]))
    loss = 1 - (2 * intersection + DICE_SMOOTH) / (predicted + true + DICE_SMOOTH)
    counted = torch.ones_like(true) if all_classes else true > 0
    return (loss * counted).sum() / counted.sum().clamp(min=1)


def loss_at_epoch(args, epoch, single_photographs=False, sets=()):
    """Return loss(logits, target) of the 1-based epoch, as the training flags `args` mix it:

    (1 - dice_weight) * (focal_weight * focal + (1 - focal_weight) * cross-entropy) + dice_weight * Dice, where Dice
    joins at `dice_from_epoch`. It is the loss of the batch that all processes share. With `single_photographs` it is
    that of this process alone, with Dice over true classes, whatever the flag: all others would count as missed.
    """
    dice_weight = args.dice_weight if epoch >= args.dice_from_epoch else 0.0
    all_classes = args.dice_all_classes and not single_photographs
    reduce_sum = identity if single_photographs else distributed.sum_with_gradient

    def mixed_loss(logits, target):
        pixels = Pixels(logits, target, reduce_sum, sets)
        values = -pixels.log_pt
        if args.focal_weight:
            values = (1 - args.focal_weight) * values + args.focal_weight * _focal(pixels, args.focal_gamma)
        loss = pixels.mean(values)
        if dice_weight:
            loss = (1 - dice_weight) * loss + dice_weight * _dice(pixels, all_classes)
        return loss

    return mixed_loss
