"""Measure each step and its plain version alternately, and print medians and their ratio.

    pip install -r requirements.txt -e ".[dev]"
    python -m benchmarks                 # the same as `make bench`

All pictures are drawn (tools/make_sample_dataset.py), 512 px. Writes benchmarks.json.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.cases import TRAINING_PASSES
from benchmarks.measure import run_python
from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import list_images, read_mask, write_label_map
from faceparse.errors import run_script
from faceparse.files import atomic_path
from faceparse.flags import network_input_size, new_parser, positive_int
from faceparse.inference import checkpoints
from faceparse.parallel import usable_cores
from models import build_model
from models.cost import count_flops
from tools.make_sample_dataset import make_sample_dataset

SCORE_SCRIPTS = ("evaluate", "f1score", "iouclass")
PARTS = ("scores", "prediction", "training")
UNITS = {"seconds": "s", "images_per_second": "images/s"}


def prepare(work_dir, image_size, drawn):
    """Draw the data set, and predictions that miss by some pixels; write the networks and their ONNX files."""
    make_sample_dataset(work_dir / "dataset", train=drawn, val=1, test=1, image_size=image_size, seed=0)
    for path in list_images(work_dir / "dataset/train/train_mask").values():
        write_label_map(work_dir / "shifted" / path.name, np.roll(read_mask(path), 3, axis=1))
    torch.manual_seed(0)  # the challenge solution published no weights
    challenge = build_model(checkpoints.CHALLENGE_MODEL_TYPE).state_dict()
    content = checkpoints.describe(checkpoints.CHALLENGE_MODEL_TYPE, CELEBAMASK, challenge)
    checkpoints.save(work_dir / "challenge.pt", content | {"image_size": image_size})
    shutil.copy(SHIPPED_CHECKPOINT, work_dir / "shipped.pt")
    if torch.cuda.is_available():
        return  # ONNX Runtime predicts on the CPU
    export = ("export_onnx.py", "--checkpoint", work_dir / "shipped.pt")
    run_python(*export, "--output", work_dir / "shipped.onnx")
    run_python(*export, "--int8", work_dir / "dataset/train/train_image", "--output", work_dir / "shipped_int8.onnx")


def lay_out(work_dir, count):
    """Offer `count` photographs, true masks and predictions in the folders photos, truth and submit.

    The files repeat the drawn ones: 000000.png, 000001.png, ...
    """
    sources = {"photos": "dataset/train/train_image", "truth": "dataset/train/train_mask", "submit": "shifted"}
    for folder, source in sources.items():
        files = list(list_images(work_dir / source).values())
        shutil.rmtree(work_dir / folder, ignore_errors=True)
        (work_dir / folder).mkdir()
        for index in range(count):
            file = files[index % len(files)]
            os.link(file, work_dir / folder / f"{index:06d}{file.suffix}")


class Bench:
    """Takes measurements and collects the rows of the table."""

    def __init__(self, work_dir, args):
        self.work_dir, self.args, self.rows, self.rates = work_dir, args, [], {}

    def case(self, name, network="-", count=0, **options):
        """Return the measurements of a case of benchmarks/cases.py; `options` go to `run_python`."""
        arguments = ("-m", "benchmarks.cases", name, network, self.work_dir, self.args.image_size, count)
        return run_python(*arguments, prints_json=True, **options)

    def validate(self, file_name):
        flags = ("--checkpoint", self.work_dir / file_name, "--image_dir", self.work_dir / "photos")
        return run_python("validate.py", *flags, "--output_dir", self.work_dir / "labels/ours")

    def predict_plainly(self, network):
        folders = (self.work_dir / f"{network}.pt", self.work_dir / "photos", self.work_dir / "labels/plain")
        return run_python("-m", "benchmarks.plain_network", *folders, self.args.image_size)

    def add(self, what, measure, *, ours, plain, floor=None):
        """Call `plain` and `ours` alternately; add and print a row of their medians and of the ratio of `measure`."""
        measured = []
        for repeat in range(self.args.repeats):
            print(f"{what}: {repeat + 1} of {self.args.repeats}", file=sys.stderr)
            measured.append((plain(), ours()))
        row = {"what": what, "measure": measure, "floor": floor}
        for name, results in zip(("plain", "ours"), zip(*measured, strict=True), strict=True):
            row[name] = {key: median(result[key] for result in results) for key in results[0]}
        above, below = ("ours", "plain") if measure == "images_per_second" else ("plain", "ours")
        row["ratio"] = row[above][measure] / row[below][measure]
        self.rows.append(row)
        print(table_row(row), flush=True)

    def scores(self):
        pairs = self.args.pairs
        lay_out(self.work_dir, pairs)
        floor = self.case("decode_masks", count=pairs)["seconds"]
        folders = (self.work_dir / "submit", self.work_dir / "truth")
        flags = ("--submit_dir", folders[0], "--truth_dir", folders[1], "--output_dir", self.work_dir)
        for script in SCORE_SCRIPTS:
            self.add(
                f"`{script}.py`, {pairs} pairs, whole process",
                "seconds",
                ours=lambda script=script: run_python(f"{script}.py", *flags),
                plain=lambda script=script: run_python("-m", "benchmarks.plain_scores", script, *folders),
                floor=floor,
            )

    def gflops(self, network):
        """Return the GFLOPs of a network for one photograph."""
        model_type = checkpoints.read_checkpoint(self.work_dir / f"{network}.pt")["model_type"]
        return count_flops(model_type, self.args.image_size) / 1e9

    def rate(self, dtype):
        """Return GFLOP/s of a matrix product in a dtype, measured once so that all floors use the same rate."""
        if dtype not in self.rates:
            self.rates[dtype] = self.case("matrix_product", dtype)["gflops_per_second"]
        return self.rates[dtype]

    def prediction(self):
        photos, rate = self.args.photos, self.rate("float32")
        lay_out(self.work_dir, photos)
        files = ["challenge.pt", "shipped.pt"]
        if not torch.cuda.is_available():
            files += ["shipped.onnx", "shipped_int8.onnx"]
        for plain, file_name in [("shipped", "shipped.pt"), *(("challenge", name) for name in files)]:
            self.add(
                f"`validate.py`, {photos} photographs, whole process, {file_name}; plain: {plain}",
                "seconds",
                ours=lambda file=file_name: self.validate(file),
                plain=lambda network=plain: self.predict_plainly(network),
                floor=photos * self.gflops("challenge" if file_name == "challenge.pt" else "shipped") / rate,
            )
        self.add(
            f"label maps of {photos} photographs; plain: all logits upsampled, then argmax",
            "seconds",
            ours=lambda: self.case("label_maps_ours", "shipped", photos),
            plain=lambda: self.case("label_maps_plain", "shipped", photos),
        )

    def training(self):
        images, rate = self.args.training_images, self.rate("bfloat16" if torch.cuda.is_available() else "float32")
        for network in ("challenge", "shipped"):
            self.add(
                f"training, {network} network",
                "images_per_second",
                ours=lambda network=network: self.case("train_ours", network, images),
                plain=lambda network=network: self.case("train_plain", network, images),
                floor=rate / (TRAINING_PASSES * self.gflops(network)),
            )
        if not torch.cuda.is_available():
            given_back = {"MALLOC_ARENA_MAX": "8"}  # any variable of malloc's makes `keep_freed_memory` do nothing
            self.add(
                "training, shipped network; plain: freed memory given back",
                "images_per_second",
                ours=lambda: self.case("train_ours", "shipped", images),
                plain=lambda: self.case("train_ours", "shipped", images, environment=given_back),
            )


def table_row(row):
    """Return a row as a line of a Markdown table."""
    plain, ours, unit = row["plain"], row["ours"], UNITS[row["measure"]]
    cells = (
        row["what"],
        f"{plain[row['measure']]:.3g} {unit}",
        f"{ours[row['measure']]:.3g} {unit}",
        f"{row['ratio']:.2f}",
        f"{row['floor']:.3g} {unit}" if row["floor"] else "",
        f"{plain['peak_mib']:.0f}, {ours['peak_mib']:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def parse_args():
    parser, add = new_parser(__doc__)
    parser.prog = "python -m benchmarks"  # argparse would say __main__.py
    add("--image_size", type=network_input_size, default=512, help="of pictures and network input, px")
    add("--pairs", type=positive_int, default=1000, help="to score")
    add("--photos", type=positive_int, default=100, help="to predict on")
    add("--training_images", type=positive_int, default=704 if torch.cuda.is_available() else 32)
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    add("--repeats", type=positive_int, default=3, help="runs of which the median is taken")
    return parser.parse_args()


def main(args):
    print("| what | plain | ours | ratio | floor | peak memory, MiB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args)
        prepare(bench.work_dir, args.image_size, drawn=min(64, args.pairs))
        for part in args.parts:
            getattr(bench, part)()
    cpu = f"{usable_cores()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    result = {"hardware": hardware, "torch": torch.__version__, "flags": vars(args)}
    result |= {"matrix_product_gflops_per_second": bench.rates, "rows": bench.rows}
    with atomic_path("benchmarks.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
