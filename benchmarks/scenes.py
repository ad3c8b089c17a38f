"""Score pictures of people among other things: the whole picture at once beside faces found and parsed one by one.

    python make_sample_dataset.py --output_dir dataset_sample --scenes 30
    python -m benchmarks.scenes dataset_sample/scenes

A folder of scenes holds scene_image/<stem>.* and masks scene_mask/<stem>.png. A face counts as found when the middle
of the nose lies in the box of a face, or in the middle half of the crop of one that has no box. All else that is found
is a false find. Milliseconds are those of one picture without reading it.
"""

import argparse
import time

import cv2
import numpy as np
from tqdm import tqdm

from faceparse import SHIPPED_CHECKPOINT
from faceparse.classes import IGNORE_INDEX
from faceparse.errors import run_script
from faceparse.face_parser import FaceParser
from faceparse.images import match_pairs, read_pair
from faceparse.metrics import Scores, confusion_matrix
from options import network_input_size


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
    crop = face.crop
    left, top, right, bottom = face.box or (
        crop.x - crop.width / 4,
        crop.y - crop.height / 4,
        crop.x + crop.width / 4,
        crop.y + crop.height / 4,
    )
    return left <= point[0] <= right and top <= point[1] <= bottom


def measure(parser, scene_dir):
    """Return {way: (mIoU, milliseconds a picture)} of "whole" and "found", and the counts (faces, found, false)."""
    pairs = match_pairs(f"{scene_dir}/scene_image", f"{scene_dir}/scene_mask")
    matrices, seconds = {"whole": 0, "found": 0}, {"whole": 0.0, "found": 0.0}
    faces = found = false = 0
    for _, photo_path, mask_path in tqdm(pairs, "scenes", leave=False, disable=None):
        photo, truth = read_pair(photo_path, mask_path, parser.class_set)
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
    parser.add_argument("scene_dir", help="holds scene_image/ and scene_mask/")
    parser.add_argument("--checkpoint", default=SHIPPED_CHECKPOINT, help="ours, or a file of export_onnx.py")
    parser.add_argument("--image_size", type=network_input_size, help="side of a face at the network, px")
    return parser.parse_args()


def main(args):
    parser = FaceParser(args.checkpoint, image_size=args.image_size)
    results, (faces, found, false) = measure(parser, args.scene_dir)
    print("| way | mIoU | ms a picture |\n|---|---|---|")
    for way, (miou, milliseconds) in results.items():
        print(f"| {way} | {miou:.4f} | {milliseconds:.0f} |")
    print(f"{found} of {faces} faces found, {false} false finds")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
