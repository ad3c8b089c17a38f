"""The timed cases, without start-up. Each runs in its own process, so that it finds no memory or caches of another.

python -m benchmarks.cases CASE NETWORK WORK_DIR IMAGE_SIZE COUNT    # prints one line of JSON

NETWORK is "challenge" or "shipped", a checkpoint NETWORK.pt in WORK_DIR.
"""

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from shlex import split

import torch
from torch.nn import functional as F

from benchmarks import plain_network
from benchmarks.measure import decode
from dataset_utils import find_pairs
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import list_images
from faceparse.inference import checkpoints
from faceparse.inference.device import keep_freed_memory, select_device
from faceparse.inference.networks import load_network
from faceparse.inference.prediction import label_map, predict
from faceparse.parallel import in_parallel
from main_deeplab import build_training, read_training_set, train_one_epoch
from options import train_parser

TRAINING_PASSES = 3  # a step costs three forward passes: the backward pass has two products for each one
TRAINING_BATCH = {"cpu": 8, "cuda": 32}
# The losses and the augmentation of `plain_network.train`.
CHALLENGE_FLAGS = """--epochs 400 --optimizer adam --weight_decay 1e-5 --schedule warm_restarts --warmup_epochs 0
    --ema 0 --repeat_rare 0 --augment color --augment_from_epoch 15 --focal_weight 0.1 --dice_weight 0.6
    --dice_from_epoch 21 --dice_all_classes"""


def timed(function):
    """Return the seconds that a call takes, including the work that it leaves to the GPU."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def coarse_logits(network, work_dir, count):
    """Return a network's logits for `count` photographs, a list of float32 [C, h, w]."""
    network = load_network(work_dir / f"{network}.pt")
    photos = list(list_images(work_dir / "photos").values())[:count]
    options = {"image_size": network.image_size, "batch_size": 1, "workers": 2}
    return [logits for _, logits, _ in predict(network, photos, **options)]


def label_maps_plain(network, work_dir, image_size, count):
    """Upsample all logits, then take the argmax."""
    logits = [torch.from_numpy(each)[None] for each in coarse_logits(network, work_dir, count)]

    def label_maps():
        for each in logits:
            F.interpolate(each, size=(image_size, image_size), mode="bilinear").argmax(dim=1).to(torch.uint8)

    return {"seconds": timed(label_maps)}


def label_maps_ours(network, work_dir, image_size, count):
    logits = coarse_logits(network, work_dir, count)
    return {"seconds": timed(lambda: [label_map(each, (image_size, image_size)) for each in logits])}


def training_pairs(work_dir, count):
    """Return `count` pairs, which repeat the drawn ones."""
    return list(islice(cycle(find_pairs(work_dir / "dataset", "train")), count))


def train_plain(network, work_dir, image_size, count):
    device = select_device(0)
    torch.backends.cudnn.benchmark = True
    model, pairs = checkpoints.load_model(work_dir / f"{network}.pt", device), training_pairs(work_dir, count)
    options = {"image_size": image_size, "batch_size": TRAINING_BATCH[device.type], "device": device}
    plain_network.train(model, pairs[: options["batch_size"]], **options)  # this is the warm-up
    return {"images_per_second": plain_network.train(model, pairs, **options)}


def train_ours(network, work_dir, image_size, count):
    """Train an epoch as `train_plain` does, from a set in memory."""
    device = select_device(0)
    torch.backends.cudnn.benchmark = True
    model_type = checkpoints.read_checkpoint(work_dir / f"{network}.pt")["model_type"]
    flags = ["--model_type", model_type, "--image_size", image_size, "--batch_size", TRAINING_BATCH[device.type]]
    args = train_parser("Train.").parse_args([*map(str, flags), *split(CHALLENGE_FLAGS)])
    state, pairs = build_training(args, device, CELEBAMASK), training_pairs(work_dir, count)
    for part in (pairs[: args.batch_size], pairs):  # the first is the warm-up
        training_set = read_training_set(args, part, CELEBAMASK, device)
        line = train_one_epoch(state, 21, state.model, training_set, device)  # the first epoch with all losses
    return {"images_per_second": line["images_per_second"]}


def matrix_product(dtype, _work_dir, _image_size, _count):
    """Return the rate of a square matrix product in GFLOP/s, which is near the most that the hardware reaches."""
    device, n = select_device(0), 4096 if torch.cuda.is_available() else 2048
    torch.backends.cuda.matmul.allow_tf32 = True  # convolutions of float32 networks use TF32 too
    a = torch.rand(n, n, device=device, dtype=getattr(torch, dtype))
    timed(lambda: a @ a)
    seconds = timed(lambda: [a @ a for _ in range(10)]) / 10
    return {"gflops_per_second": 2 * n**3 / seconds / 1e9}


def decode_masks(_network, work_dir, _image_size, _count):
    """Decode all masks on all cores, which is the least that every score has to do."""
    paths = [path for folder in ("submit", "truth") for path in list_images(work_dir / folder).values()]
    return {"seconds": timed(lambda: list(in_parallel(decode, paths, "decoding")))}


CASES = (label_maps_plain, label_maps_ours, train_plain, train_ours, matrix_product, decode_masks)


def main():
    name, network, work_dir, image_size, count = sys.argv[1:]
    keep_freed_memory()  # as main_deeplab.py does
    case = {case.__name__: case for case in CASES}[name]
    result = case(network, Path(work_dir), int(image_size), int(count))
    if torch.cuda.is_available():
        result["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20  # instead of the host's
    print(json.dumps(result))


if __name__ == "__main__":
    main()
