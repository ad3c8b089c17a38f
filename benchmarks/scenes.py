"""Score pictures that are no crops around a face: the whole picture at once beside faces found and parsed one by one.

    python -m benchmarks.scenes dataset/val/val_image dataset/val/val_mask --as scenes
    python -m tools.make_sample_dataset --output_dir dataset_sample --scenes 30
    python -m benchmarks.scenes dataset_sample/scenes/scene_image dataset_sample/scenes/scene_mask

`--as scenes` puts each person, 640, 448 or 320 px high, somewhere into a drawn picture of 1280 x 960 px among other
things, `--as tilted` also turns it by up to 30 degrees, and `--as moved` moves, turns and scales each photograph as
`--augment wide` does. Each picture depends on its number alone.

The columns are those of benchmarks.faces.
"""

import argparse

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.faces import add_network, measure, print_table
from faceparse.data.augmentation import WIDE_GEOMETRY, geometry
from faceparse.data.images import match_pairs, read_pair
from faceparse.errors import run_script
from faceparse.faces.face_parser import FaceParser
from tools.scenes import PERSON_HEIGHTS, compose_scene

TILT = 30  # degrees, either way


def compose(index, photo, mask, tilt=0.0):
    rng = np.random.default_rng((0, index))
    height = PERSON_HEIGHTS[index % len(PERSON_HEIGHTS)]
    return compose_scene(rng, photo, mask, height, rng.uniform(-tilt, tilt))


def move(index, photo, mask):
    generator = torch.Generator().manual_seed(index)
    photo, mask = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255, torch.from_numpy(mask)[None].long()
    photo, mask = geometry(photo, mask, generator, ranges=WIDE_GEOMETRY)
    return (photo[0].permute(1, 2, 0) * 255).round().byte().numpy(), mask[0].byte().numpy()


CHANGES = {
    "given": lambda index, photo, mask: (photo, mask),
    "scenes": compose,
    "tilted": lambda index, photo, mask: compose(index, photo, mask, TILT),
    "moved": move,
}


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__.splitlines()[0])
    parser.add_argument("image_dir", help="photographs")
    parser.add_argument("mask_dir", help="their masks, of the same stems")
    parser.add_argument("--as", dest="change", choices=CHANGES, default="given", help="what the pictures are made into")
    add_network(parser)
    return parser.parse_args()


def main(args):
    parser, change, results = FaceParser(args.checkpoint, image_size=args.image_size), CHANGES[args.change], []
    pairs = match_pairs(args.image_dir, args.mask_dir)
    for index, (_, photo, mask) in enumerate(tqdm(pairs, "pictures", leave=False, disable=None)):
        photo, truth = change(index, *read_pair(photo, mask, parser.class_set))
        results.append(measure(parser, photo, truth, parser.class_set))
    print_table({args.change: results})


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
