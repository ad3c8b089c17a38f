"""Score uncropped photographs: the whole picture at once beside faces found and looked at.

    python -m benchmarks.faces DIR     # photographs in DIR/image, their masks in DIR/mask

If the masks have other classes than the network, DIR/classes.json says which, as for --ids. A row of all pictures is
followed by rows of groups: by what a name has before its first underscore, such as the yaw of yaw+30_7.jpg, and by the
longer side of the largest box that was found, px.

A face is found if the middle of its nose, a nose a connected person of the mask, lies in the box of a face that was
found, and missed if not. A box without such a nose is a false find. Milliseconds are those of a picture without
reading it.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.classes import IGNORE_INDEX, find_ids
from faceparse.data.images import match_pairs, read_pair
from faceparse.errors import run_script
from faceparse.faces.face_parser import FaceParser
from faceparse.flags import network_input_size, new_parser
from faceparse.inference.metrics import Scores, confusion_matrix

WAYS = ("whole", "found")  # the picture at once; what FaceParser makes of it
SIDES = (32, 64, 128, 256)  # px, between the groups of boxes


@dataclass
class Result:
    """Of a picture: confusion matrices [C, C] and milliseconds by way; counts of faces; the largest box's side, px."""

    matrices: dict
    milliseconds: dict
    found: int
    missed: int
    false: int
    side: float


def noses(truth, class_set):
    """The middles (x, y) of the noses in a mask [H, W], a nose a connected person."""
    if "nose" not in class_set.names:
        return []
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


def measure(parser, photo, truth, class_set, ids=None):
    """Return the Result of a photograph, uint8 [H, W, 3], and its mask, uint8 [H, W]; the last two as of `find_ids`."""
    matrices, milliseconds = {}, {}
    for way in WAYS:
        start = time.perf_counter()
        parsed = parser(photo, whole=way == "whole")
        labels = parsed.labels
        milliseconds[way] = 1000 * (time.perf_counter() - start)
        labels = labels if ids is None else np.array(ids, np.uint8)[labels]
        matrices[way] = confusion_matrix(truth, labels, len(class_set))
    middles = noses(truth, class_set)
    found = sum(any(holds(face, point) for face in parsed.faces) for point in middles)
    false = sum(not any(holds(face, point) for point in middles) for face in parsed.faces)
    sides = [max(face.box[2] - face.box[0], face.box[3] - face.box[1]) for face in parsed.faces]
    return Result(matrices, milliseconds, found, len(middles) - found, false, max(sides, default=0.0))


def print_table(groups):
    """Print a row for each group, {name: [Result]}."""
    print("| pictures | | found | missed | false | mIoU, whole | mIoU, found | ms, whole | ms, found |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, results in groups.items():
        counts = [sum(getattr(each, kind) for each in results) for kind in ("found", "missed", "false")]
        miou = [Scores(sum(each.matrices[way] for each in results)).miou for way in WAYS]
        milliseconds = [np.mean([each.milliseconds[way] for each in results]) for way in WAYS]
        cells = [*counts, *(f"{each:.4f}" for each in miou), *(f"{each:.0f}" for each in milliseconds)]
        print("|", " | ".join(map(str, [name, len(results), *cells])), "|")


def group_of_side(side):
    """Name the group of the largest box's side, px; 0 if there is no box."""
    if not side:
        return "no box"
    below = [limit for limit in SIDES if side >= limit]
    return f"box from {below[-1]} px" if below else f"box below {SIDES[0]} px"


def parse_args():
    parser, add = new_parser(__doc__)
    add("folder", type=Path, metavar="DIR", help="holds image/, mask/ and perhaps classes.json")
    add_network(add)
    return parser.parse_args()


def add_network(add):
    add("--checkpoint", default=SHIPPED_CHECKPOINT, help="ours, or a file of export_onnx.py")
    add("--image_size", type=network_input_size, help="side of a face at the network, px")


def main(args):
    parser = FaceParser(args.checkpoint, image_size=args.image_size)
    theirs = args.folder / "classes.json"
    class_set, ids = find_ids(theirs if theirs.exists() else None, parser.class_set)
    groups = {"all": []}
    pairs = match_pairs(args.folder / "image", args.folder / "mask")
    for stem, photo, mask in tqdm(pairs, "pictures", leave=False, disable=None):
        result = measure(parser, *read_pair(photo, mask, class_set), class_set, ids)
        names = ["all", group_of_side(result.side), *stem.split("_")[: stem.count("_")][:1]]
        for name in names:
            groups.setdefault(name, []).append(result)
    print_table({"all": groups.pop("all")} | dict(sorted(groups.items())))


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
