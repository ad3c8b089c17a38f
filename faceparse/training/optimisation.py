"""Optimiser, learning-rate schedules, averaged weights, mixed precision and CUDA graphs."""

import itertools
import math
import warnings
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from faceparse.errors import InputError, first_line, too_little_memory

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(args, model):
    """Return the optimiser. AdamW decays no 1-d tensor, which are BatchNorm's and biases.

    Adam has the challenge's L2 penalty on all of them. A group's "lr_scale", 1 by default, multiplies its learning
    rate: a pretrained encoder that should learn more slowly is one more group.
    """
    parameters = list(model.parameters())
    if args.optimizer == "adam":
        groups = [{"params": parameters}]
    else:
        groups = [
            {"params": [each for each in parameters if each.ndim > 1]},
            {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
        ]
    groups = [{"lr_scale": 1.0} | group for group in groups if group["params"]]
    return OPTIMIZERS[args.optimizer](groups, weight_decay=args.weight_decay, fused=True)


def set_learning_rate(optimizer, rate):
    """Give every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def learning_rate(args, epoch):
    """Return the rate of a 1-based epoch: linear warm-up, then the schedule, constant within the epoch.

    Warm restarts (Loshchilov and Hutter, 2016, https://arxiv.org/abs/1608.03983): cycles of 10, 20, 40, ... epochs.
    """
    if epoch <= args.warmup_epochs:
        return args.learning_rate * epoch / (args.warmup_epochs + 1)
    if args.schedule == "constant":
        return args.learning_rate
    done, length = epoch - 1 - args.warmup_epochs, args.epochs - args.warmup_epochs
    if args.schedule == "warm_restarts":
        length = 10
        while done >= length:
            done, length = done - length, 2 * length
    return args.learning_rate * (1 + math.cos(math.pi * done / length)) / 2


class AveragedModel:
    """A twin of a model, `module`, whose weights and BatchNorm statistics are exponential averages of the model's.

    The decay grows with the number of `updates`, min(decay, (1 + n) / (10 + n)), so that the first weights are soon
    forgotten. PyTorch's own AveragedModel sends its counter to the GPU in every step, and waits until it is there.
    """

    def __init__(self, model, decay):
        self.module = deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0
        # Listed once, because a GPU may wait while each step walks through all modules. What changes these tensors
        # does so in place.
        self.averages, self.values = averaged_tensors(self.module), averaged_tensors(model)

    @torch.no_grad()
    def update(self):
        n = self.updates
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0  # the first update copies
        get_ema_multi_avg_fn(decay)(self.averages, self.values, n)
        self.updates += 1


def averaged_tensors(model):
    """Return weights and statistics, without BatchNorm's counters of batches, which nothing reads."""
    return [tensor for tensor in itertools.chain(model.parameters(), model.buffers()) if tensor.is_floating_point()]


def autocast_dtype(device, float32=False):
    """Return the type of autocast on the device, None for none; `float32` asks for none.

    CPUs get none, because oneDNN returns wrong bf16 weight gradients for dilated convolutions.
    """
    if device.type != "cuda" or float32:
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class Precision:
    """Runs the forward pass under autocast, and steps with a loss that is scaled if fp16 needs it.

    Small gradients round to 0 in fp16, so the loss is multiplied by a scale and the gradients are divided by it. A step
    whose gradients overflow is left out, and the scale is halved (https://arxiv.org/abs/1710.03740).
    """

    def __init__(self, device, float32=False):
        self.device, self.dtype = device, autocast_dtype(device, float32)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self, cache_enabled=None):
        return torch.autocast(self.device.type, self.dtype, self.dtype is not None, cache_enabled)

    def step(self, loss, optimizer):
        """Go backward from the loss and let the optimiser step."""
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self):
        return self.scaler.state_dict()  # {} if no loss is scaled

    def load_state_dict(self, state):
        if state:  # a run that began on another GPU has none
            self.scaler.load_state_dict(state)


@contextmanager
def unchanged_buffers(model):
    """Give a model's buffers, which are the statistics of BatchNorm, their values back after the block."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    for buffer, before in buffers:
        buffer.copy_(before)


def use_cuda_graphs(model, precision, shape):
    """Let the model replay CUDA graphs of its forward and backward pass, in training and for batches of one shape.

    Python takes longer to start a small network's kernels than a GPU to compute them; a graph starts all of them at
    once. `shape` is that of the photographs, (N, 3, H, W). The model is left in training mode, and its weights and
    BatchNorm statistics stay as they are. Raises InputError if a graph cannot be made.
    """
    forward = model.forward
    photos = torch.zeros(shape, device=precision.device).contiguous(memory_format=torch.channels_last)
    # PyTorch 2.11 warns that the graphs use another stream than the optimiser. Autograd lets one wait for the other.
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
    torch.backends.cudnn.benchmark = True  # as in training; the graphs keep the algorithms that are chosen now
    try:
        # Weights are cast within the graph, because they change between its replays.
        with (
            unchanged_buffers(model),
            torch.random.fork_rng([precision.device]),
            precision.autocast(cache_enabled=False),
        ):
            torch.cuda.make_graphed_callables(model.train(), (photos,))
    except RuntimeError as error:
        if too_little_memory(error):
            raise
        raise InputError(f"--cuda_graphs: does not work here ({first_line(error)}); leave it out") from None
    torch.backends.cudnn.benchmark = False
    replay = model.forward
    model.forward = lambda batch: (replay if batch.shape == shape else forward)(batch)
