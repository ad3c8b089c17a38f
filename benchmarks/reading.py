"""Measure how fast training pairs come from the disk, beside the step that must not wait for them, and print tables.

python -m benchmarks.reading
python -m benchmarks.reading --photo_size 1024 --steps 0    # also JPEG's draft mode, which decodes at half the size

20 photographs are drawn, with grain so that they decode as slowly as real ones; the others are hard links to them. All
files are in the system's cache: it is the decoding that is measured, not the disk.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.cases import TRAINING_BATCH, timed
from dataset_utils import PairDataset, TrainingSet, find_pairs, one_by_one, to_tensor
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import list_images, read_mask, read_photo, resize_mask, resize_photo, write_picture
from faceparse.errors import run_script
from faceparse.inference.device import keep_freed_memory, select_device
from main_deeplab import build_training, train_one_epoch
from options import non_negative_int, positive_int, train_parser
from tools.make_sample_dataset import make_sample_dataset

DISTINCT, GRAIN = 20, 4  # grain: standard deviation, of 255


class DraftPairs(PairDataset):
    """Pairs whose photographs libjpeg scales down while it decodes them, to not less than the network's size."""

    def read(self, index):
        _, photo_path, mask_path = self.pairs[index]
        size = self.image_size
        with Image.open(photo_path) as image:
            image.draft("RGB", (size, size))
            photo = resize_photo(np.array(image.convert("RGB")), size, size)
        return to_tensor(photo), torch.from_numpy(resize_mask(read_mask(mask_path), size, size))


def draw(folder, photographs, size):
    make_sample_dataset(folder, train=DISTINCT, val=1, test=1, image_size=size, seed=0)
    noise = np.random.default_rng(0)
    files = [list_images(folder / "train" / name) for name in ("train_image", "train_mask")]
    for path in files[0].values():
        write_picture(path, (read_photo(path) + noise.normal(0, GRAIN, (size, size, 3))).clip(0, 255).astype(np.uint8))
    for kind in files:
        for index in range(DISTINCT, photographs):
            path = list(kind.values())[index % DISTINCT]
            os.link(path, path.with_stem(f"train_{index:06d}"))


def reading_rows(args, pairs):
    """Yield (what is read, images a second), without any training."""
    dataset = PairDataset(pairs, args.image_size, CELEBAMASK)
    for workers in (0, 1, 2):
        yield f"off, {workers} workers", len(pairs) / timed(lambda workers=workers: read_all(dataset, workers))
    if args.photo_size >= 2 * args.image_size:
        draft = DraftPairs(pairs, args.image_size, CELEBAMASK)
        yield "off, 0 workers, draft mode", len(pairs) / timed(lambda: read_all(draft, 0))


def read_all(dataset, workers):
    for _ in one_by_one(dataset, workers):
        pass


def training_set(args, pairs, cache, workers):
    options = {"image_size": args.image_size, "class_set": CELEBAMASK, "repeat_rare": 0, "seed": 0}
    options |= {"cache": cache, "workers": workers, "device": args.device}
    return TrainingSet(pairs, **options)


def training_rows(args, pairs):
    """Yield (what is read, the log's images a second and data_wait) of an epoch."""
    batch_size = TRAINING_BATCH[args.device.type]
    flags = ["--image_size", str(args.image_size), "--batch_size", str(batch_size)]
    train_args = train_parser("Train.").parse_args(flags)
    state = build_training(train_args, args.device, CELEBAMASK)
    pairs = pairs[: args.steps * batch_size]

    def epoch(pairs, *how):
        data = training_set(args, pairs, *how)
        line = train_one_epoch(state, 21, state.model, data, args.device)
        return line["images_per_second"], line["data_wait"]

    epoch(pairs[: 2 * batch_size], "ram", 0)  # this is the warm-up
    for how in (("ram", 0), ("off", 0), ("off", 1), ("off", 2)):
        yield f"{how[0]}, {how[1]} workers", *epoch(pairs, *how)


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=positive_int, default=2000, help="pairs to read")
    parser.add_argument("--photo_size", type=positive_int, default=512, help="side of the files, px")
    parser.add_argument("--image_size", type=positive_int, default=512, help="side of the network's input, px")
    parser.add_argument("--steps", type=non_negative_int, default=20, help="steps of each training; 0 trains nothing")
    return parser.parse_args()


def main(args):
    keep_freed_memory()
    args.device = select_device(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "dataset", args.photographs, args.photo_size)
        pairs = find_pairs(folder / "dataset", "train")
        print("| --cache | reading alone, images/s |\n|---|---|")
        for what, rate in reading_rows(args, pairs):
            print(f"| {what} | {rate:.0f} |", flush=True)
        if args.steps:
            print("\n| --cache | training, images/s | data_wait |\n|---|---|---|")
            for what, rate, wait in training_rows(args, pairs):
                print(f"| {what} | {rate:.2f} | {wait:.1%} |", flush=True)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
