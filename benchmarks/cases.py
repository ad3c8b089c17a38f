"""The timed cases, without start-up. Each runs in its own process, so that it finds no memory or caches of another.

python -m benchmarks.cases CASE MODEL WORK_DIR IMAGE_SIZE COUNT    # prints one line of JSON
"""

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from shlex import split
from unittest.mock import patch

import torch
from torch.nn import functional as F

from benchmarks import plain_network
from benchmarks.measure import decode
from dataset_utils import TrainingSet, find_pairs
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import list_images
from faceparse.inference import checkpoints
from faceparse.inference.device import keep_freed_memory, select_device
from faceparse.inference.prediction import load_network, predict
from faceparse.inference.upsampling import label_map
from faceparse.parallel import in_parallel
from main_deeplab import build_training, train_one_epoch
from models import MODELS
from models.cost import count_flops
from options import train_parser

DEFAULT = next(iter(MODELS))
TRAINING_PASSES = 3  # a step costs three forward passes: the backward pass has two products for each one
TRAINING_BATCH = {"cpu": 8, "cuda": 32}
CHALLENGE = split(
    "--augment color --repeat_rare 0 --optimizer adam --weight_decay 1e-5 --ema 0 --focal_weight 0.1 --dice_weight 0.6 "
    "--dice_all_classes"
)


def timed(function):
    """Return the seconds that a call takes, including the work that it leaves to the GPU."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def coarse_logits(work_dir, count):
    """Return the default network's logits for `count` photographs, a list of float32 [C, h, w]."""
    network = load_network(work_dir / f"{DEFAULT}.pt")
    photos = list(list_images(work_dir / "photos").values())[:count]
    options = {"image_size": network.image_size, "batch_size": 1, "workers": 2}
    return [logits for _, logits, _ in predict(network, photos, **options)]


def label_maps_plain(_model_type, work_dir, image_size, count):
    """Upsample all logits, then take the argmax."""
    logits = [torch.from_numpy(each)[None] for each in coarse_logits(work_dir, count)]

    def label_maps():
        for each in logits:
            F.interpolate(each, size=(image_size, image_size), mode="bilinear").argmax(dim=1).to(torch.uint8)

    return {"seconds": timed(label_maps)}


def label_maps_ours(_model_type, work_dir, image_size, count):
    logits = coarse_logits(work_dir, count)
    return {"seconds": timed(lambda: [label_map(each, (image_size, image_size)) for each in logits])}


def train_plain(model_type, work_dir, image_size, count):
    device = select_device(0)
    torch.backends.cudnn.benchmark = True
    model = checkpoints.load_model(work_dir / f"{model_type}.pt", device)
    pairs = list(islice(cycle(find_pairs(work_dir / "dataset", "train")), count))
    options = {"image_size": image_size, "batch_size": TRAINING_BATCH[device.type], "device": device}
    plain_network.train(model, pairs[: options["batch_size"]], **options)  # this is the warm-up
    images_per_second, data_wait = plain_network.train(model, pairs, **options)
    return {"images_per_second": images_per_second, "data_wait": data_wait}


def train_ours(model_type, work_dir, image_size, count):
    """Train as in epoch 21 of the challenge's recipe, the first with all losses, from a set in memory."""
    device = select_device(0)
    torch.backends.cudnn.benchmark = True
    batch_size = TRAINING_BATCH[device.type]
    flags = ["--model_type", model_type, "--image_size", image_size, "--batch_size", batch_size, *CHALLENGE]
    args = train_parser("Train.").parse_args([str(flag) for flag in flags])
    state = build_training(args, device, CELEBAMASK)
    pairs = list(islice(cycle(find_pairs(work_dir / "dataset", "train")), count))
    for part in (pairs[:batch_size], pairs):  # the first is the warm-up
        training_set = TrainingSet(
            part,
            image_size=image_size,
            class_set=CELEBAMASK,
            cache="auto",
            repeat_rare=0,
            device=device,
            workers=2,
            seed=0,
        )
        line = train_one_epoch(state, 21, state.model, training_set, device)
    flops = TRAINING_PASSES * count_flops(model_type, image_size) * line["images_per_second"]
    return {**line, "gflops_per_second": flops / 1e9}


def train_without_hook(model_type, work_dir, image_size, count):
    """The same without the hook that brings the gradient of each upsampling into channels-last memory."""

    def plain_resize(x, size):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    with patch("models.deeplab.resize", plain_resize), patch("models.deeplab_slim.resize", plain_resize):
        return train_ours(model_type, work_dir, image_size, count)


def matrix_product(dtype, _work_dir, _image_size, _count):
    """Return the rate of a square matrix product in GFLOP/s, which is near the most that the hardware reaches."""
    device, n = select_device(0), 4096 if torch.cuda.is_available() else 2048
    torch.backends.cuda.matmul.allow_tf32 = True  # convolutions of float32 networks use TF32 too
    a = torch.rand(n, n, device=device, dtype=getattr(torch, dtype))
    timed(lambda: a @ a)
    seconds = timed(lambda: [a @ a for _ in range(10)]) / 10
    return {"gflops_per_second": 2 * n**3 / seconds / 1e9}


def decode_masks(_model_type, work_dir, _image_size, _count):
    """Decode all masks on all cores, which is the least that every score has to do."""
    paths = [path for folder in ("submit", "truth") for path in list_images(work_dir / folder).values()]
    return {"seconds": timed(lambda: list(in_parallel(decode, paths, "decoding")))}


CASES = (
    label_maps_plain,
    label_maps_ours,
    train_plain,
    train_ours,
    train_without_hook,
    matrix_product,
    decode_masks,
)


def main():
    name, model, work_dir, image_size, count = sys.argv[1:]
    keep_freed_memory()  # as main_deeplab.py does
    case = {case.__name__: case for case in CASES}[name]
    result = case(model, Path(work_dir), int(image_size), int(count))
    if torch.cuda.is_available():
        result["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20  # instead of the host's
    print(json.dumps(result))


if __name__ == "__main__":
    main()
