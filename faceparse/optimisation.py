"""Optimiser, learning-rate schedules and averaged weights."""

import math

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(args, model):
    return OPTIMIZERS[args.optimizer](model.parameters(), weight_decay=args.weight_decay, fused=True)


def learning_rate(args, epoch):
    """Return the rate of a 1-based epoch: linear warm-up, then the schedule, constant within the epoch.

    Warm restarts (Loshchilov and Hutter, 2016, https://arxiv.org/abs/1608.03983): cycles of 10, 20, 40, ... epochs.
    """
    if epoch <= args.warmup_epochs:
        return args.learning_rate * epoch / (args.warmup_epochs + 1)
    done, length = epoch - 1 - args.warmup_epochs, args.epochs - args.warmup_epochs
    if args.schedule == "constant":
        return args.learning_rate
    if args.schedule == "warm_restarts":
        length = 10
        while done >= length:
            done, length = done - length, 2 * length
    return args.learning_rate * (1 + math.cos(math.pi * done / length)) / 2


def averaged_model(model, decay):
    """Return a twin of the model whose `update_parameters(model)` moves an exponential average of weights and buffers.

    The decay grows with the number of updates, min(decay, (1 + n) / (10 + n)), so that the first weights are soon
    forgotten. The averages are in `.module`, the number of updates is in `.n_averaged`.
    """

    def update(averages, values, _):
        n = int(averaged.n_averaged)  # The copy passed in lies on the GPU; reading it would wait for the GPU.
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, values, n)

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return averaged.requires_grad_(False)
