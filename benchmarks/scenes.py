"""Score pictures that are no crops around a face: the whole picture at once beside faces found and parsed one by one.

    python -m benchmarks.scenes dataset/val/val_image dataset/val/val_mask --as scenes
    python -m tools.make_sample_dataset --output_dir dataset_sample --scenes 30
    python -m benchmarks.scenes dataset_sample/scenes/scene_image dataset_sample/scenes/scene_mask

`--as scenes` puts each person, 640, 448 or 320 px high, somewhere into a drawn picture of 1280 x 960 px among other
things, `--as tilted` also turns it by up to 30 degrees, and `--as moved` moves, turns and scales each photograph as
`--augment wide` does. Each picture depends on its number alone.

A face counts as found if the middle of the nose lies in the box of a face. All else that is found is a false find.
Milliseconds are those of one picture without reading it.
"""

import argparse
import time

import cv2
import numpy as np
import torch
from tqdm import tqdm

from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.augmentation import WIDE_GEOMETRY, geometry
from faceparse.data.classes import IGNORE_INDEX
from faceparse.data.images import match_pairs, read_pair
from faceparse.errors import run_script
from faceparse.faces.face_parser import FaceParser
from faceparse.inference.metrics import Scores, confusion_matrix
from options import network_input_size
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


def noses(truth, class_set):
    """The middles (x, y) of the noses in a mask [H, W], a nose a connected person."""
    person = ((truth > 0) & (truth != IGNORE_INDEX)).astype(np.uint8)
    count, people = cv2.connectedComponents(person)
    nose = truth == class_set.names.index("nose")
    middles = []
    for index in range(1, count):
        rows, columns = np.nonzero(nose & (people == index))
        if rows.size:
            middles.append((columns.mean() + 0.5, rows.mean() + 0.5))
    return middles


def holds(face, point):
    """Whether a Face is the one with a nose at `point`."""
    left, top, right, bottom = face.box
    return left <= point[0] <= right and top <= point[1] <= bottom


def measure(parser, image_dir, mask_dir, change=CHANGES["given"]):
    """Return {way: (mIoU, milliseconds a picture)} of "whole" and "found", and the counts (faces, found, false).

    Each pair, uint8 [H, W, 3] and [H, W], is scored as `change(number, photograph, mask)`.
    """
    pairs = match_pairs(image_dir, mask_dir)
    matrices, seconds = {"whole": 0, "found": 0}, {"whole": 0.0, "found": 0.0}
    faces = found = false = 0
    for index, (_, photo_path, mask_path) in enumerate(tqdm(pairs, "pictures", leave=False, disable=None)):
        photo, truth = change(index, *read_pair(photo_path, mask_path, parser.class_set))
        for way in matrices:
            start = time.perf_counter()
            parsed = parser(photo, whole=way == "whole")
            labels = parsed.labels
            seconds[way] += time.perf_counter() - start
            matrices[way] = matrices[way] + confusion_matrix(truth, labels, len(parser.class_set))
        middles = noses(truth, parser.class_set)
        faces += len(middles)
        found += sum(any(holds(face, point) for face in parsed.faces) for point in middles)
        false += sum(not any(holds(face, point) for point in middles) for face in parsed.faces)
    results = {way: (Scores(matrix).miou, 1000 * seconds[way] / len(pairs)) for way, matrix in matrices.items()}
    return results, (faces, found, false)


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__.splitlines()[0])
    parser.add_argument("image_dir", help="photographs")
    parser.add_argument("mask_dir", help="their masks, of the same stems")
    parser.add_argument("--as", dest="change", choices=CHANGES, default="given", help="what the pictures are made into")
    parser.add_argument("--checkpoint", default=SHIPPED_CHECKPOINT, help="ours, or a file of export_onnx.py")
    parser.add_argument("--image_size", type=network_input_size, help="side of a face at the network, px")
    return parser.parse_args()


def main(args):
    parser = FaceParser(args.checkpoint, image_size=args.image_size)
    results, (faces, found, false) = measure(parser, args.image_dir, args.mask_dir, CHANGES[args.change])
    print("| way | mIoU | ms a picture |\n|---|---|---|")
    for way, (miou, milliseconds) in results.items():
        print(f"| {way} | {miou:.4f} | {milliseconds:.0f} |")
    print(f"{found} of {faces} faces found, {false} false finds")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
