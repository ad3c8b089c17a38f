"""Print how long each part of a training step keeps the host busy, and how long the step takes.

    python -m benchmarks.step --image_size 256 --batch_size 16

On a GPU the host only starts the work, so a step takes as long as the slower of the two. There it is measured with CUDA
graphs too. The photographs are random numbers, and the masks are random squares.
"""

import argparse
import time
from contextlib import contextmanager

import torch

from faceparse.data.augmentation import augment
from faceparse.data.classes import CELEBAMASK
from faceparse.errors import run_script
from faceparse.inference.device import keep_freed_memory, select_device
from faceparse.training.cuda_graphs import use_cuda_graphs
from loss import loss_at_epoch
from main_deeplab import build_training
from models import MODELS
from options import network_input_size, positive_int, train_parser

WARM_UP = 4  # steps, in which cuDNN tries its algorithms
SQUARE = 32  # px, the side of the masks' squares


class Stopwatch:
    """Sums the host's seconds in each named part."""

    def __init__(self):
        self.seconds = {}

    @contextmanager
    def part(self, name):
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def step(state, photos, masks, watch):
    with watch.part("augmentation"):
        images, labels = augment(photos, masks, "strong", torch.Generator().manual_seed(0), CELEBAMASK)
    with watch.part("forward"), state.precision.autocast():
        logits = state.model(images)
    with watch.part("loss"):
        loss = loss_at_epoch(state.args, 1)(logits, labels)
    with watch.part("backward and optimiser"):
        state.precision.step(loss, state.optimizer)
    with watch.part("average"):
        state.ema.update()


def measure(args, device, graphs):
    """Return the seconds of a step, the host's seconds by part, and the seconds until the first steps are done."""
    start = time.perf_counter()
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    flags = train_parser("Train.").parse_args(["--model_type", args.model_type])
    state = build_training(flags, device, CELEBAMASK)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    photos = torch.randint(256, shape, dtype=torch.uint8, device=device)
    squares = torch.randint(len(CELEBAMASK), (args.batch_size, *[-(-args.image_size // SQUARE)] * 2), device=device)
    masks = squares.repeat_interleave(SQUARE, 1).repeat_interleave(SQUARE, 2)[:, : shape[2], : shape[3]].byte()
    if graphs:
        use_cuda_graphs(state.model, state.precision, shape)
    torch.backends.cudnn.benchmark = True  # as in training
    state.model.train()
    for _ in range(WARM_UP):
        step(state, photos, masks, Stopwatch())
    finish()
    started, watch = time.perf_counter(), Stopwatch()
    for _ in range(args.steps):
        step(state, photos, masks, watch)
    finish()
    whole = (time.perf_counter() - started) / args.steps
    return whole, {name: seconds / args.steps for name, seconds in watch.seconds.items()}, started - start


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--model_type", choices=MODELS, default=next(iter(MODELS)), help="network")
    parser.add_argument("--image_size", type=network_input_size, default=256, help="side of the photographs, px")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="photographs in a step")
    parser.add_argument("--steps", type=positive_int, default=20, help="number of steps")
    return parser.parse_args()


def main(args):
    keep_freed_memory()
    device = select_device(0)
    for graphs in (False, True) if device.type == "cuda" else (False,):
        whole, parts, start = measure(args, device, graphs)
        name = f"{args.model_type}, {args.batch_size} of {args.image_size} px{', CUDA graphs' if graphs else ''}"
        print(
            f"{name}: {1000 * whole:.1f} ms a step, {args.batch_size / whole:.0f} images/s, ready after {start:.1f} s; "
            f"the host: {', '.join(f'{part} {1000 * seconds:.1f} ms' for part, seconds in parts.items())}"
        )


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
