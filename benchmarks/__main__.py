"""Measure each step and its plain version alternately, and print medians and their ratio.

    pip install -r requirements-dev.txt
    python -m benchmarks                 # the same as `make bench`
    python -m benchmarks --growth        # how time and memory grow with the number of images

All pictures are drawn (make_sample_dataset.py), 512 px. Writes benchmarks.json.
"""

import argparse
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
from benchmarks.measure import run_case, run_python
from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import list_images, read_mask, read_photo, write_label_map
from faceparse.errors import run_script
from faceparse.files import atomic_path
from faceparse.inference import checkpoints
from faceparse.parallel import usable_cores
from models import MODELS, build_model
from models.cost import count_flops
from options import network_input_size, positive_int
from tools.make_sample_dataset import make_sample_dataset

DEFAULT, CHALLENGE = next(iter(MODELS)), checkpoints.CHALLENGE_MODEL_TYPE
INT8 = f"{DEFAULT}_int8.onnx"
SCORE_SCRIPTS = ("evaluate", "f1score", "iouclass")
GROWTH = (100, 1000, 10000)
PARTS = ("scores", "prediction", "training")
UNITS = {"seconds": "s", "processor_seconds": "s of processor time", "images_per_second": "images/s"}


def link_copies(files, folder, count):
    """Fill a folder with `count` names for the files in turn: 000000.png, 000001.png, ..."""
    folder.mkdir()
    for index in range(count):
        file = files[index % len(files)]
        os.link(file, folder / f"{index:06d}{file.suffix}")


def challenge_network(photo_files):
    """The challenge's network with random weights, its BatchNorm statistics those of photographs."""
    torch.manual_seed(0)
    model = build_model(CHALLENGE).train()
    photos = torch.stack([torch.from_numpy(read_photo(file)) for file in photo_files]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        for _ in range(30):
            model(photos)
    return model.eval()


def prepare(work_dir, image_size, drawn):
    """Draw the data set, and predictions that miss by some pixels; write the networks and their ONNX files."""
    make_sample_dataset(work_dir / "dataset", train=drawn, val=1, test=1, image_size=image_size, seed=0)
    for path in list_images(work_dir / "dataset/train/train_mask").values():
        write_label_map(work_dir / "shifted" / path.name, np.roll(read_mask(path), 3, axis=1))
    photos = list(list_images(work_dir / "dataset/train/train_image").values())
    content = checkpoints.describe(CHALLENGE, CELEBAMASK, challenge_network(photos[:2]).state_dict())
    checkpoints.save(work_dir / f"{CHALLENGE}.pt", content | {"image_size": image_size})
    shutil.copy(SHIPPED_CHECKPOINT, work_dir / f"{DEFAULT}.pt")
    if torch.cuda.is_available():
        return  # ONNX Runtime predicts on the CPU
    for model_type in MODELS:
        flags = ("--checkpoint", work_dir / f"{model_type}.pt", "--output", work_dir / f"{model_type}.onnx")
        run_python("export_onnx.py", *flags)
    flags = ("--checkpoint", work_dir / f"{DEFAULT}.pt", "--int8", work_dir / "dataset/train/train_image")
    run_python("export_onnx.py", *flags, "--output", work_dir / INT8)


def lay_out(work_dir, count):
    """Offer `count` photographs, true masks and predictions in the folders photos, truth and submit."""
    sources = {"photos": "dataset/train/train_image", "truth": "dataset/train/train_mask", "submit": "shifted"}
    for folder, source in sources.items():
        shutil.rmtree(work_dir / folder, ignore_errors=True)
        link_copies(list(list_images(work_dir / source).values()), work_dir / folder, count)


def differing_share(work_dir):
    """Return the share of pixels that the last plain and our last prediction label differently."""
    differing = total = 0
    for path in list_images(work_dir / "labels/plain").values():
        plain, ours = read_mask(path), read_mask(work_dir / "labels/ours" / path.name)
        differing += np.count_nonzero(plain != ours)
        total += plain.size
    return differing / total


def medians(results):
    """Return {name: median} of a list of {name: number}."""
    return {name: median(result[name] for result in results) for name in results[0]}


class Bench:
    """Takes measurements and collects the rows of the table."""

    def __init__(self, work_dir, args):
        self.work_dir, self.args, self.rows, self.rates = work_dir, args, [], {}

    def case(self, name, model="-", count=0, **options):
        return run_case(name, model, self.work_dir, self.args.image_size, count, **options)

    def validate(self, file_name):
        flags = ("--checkpoint", self.work_dir / file_name, "--image_dir", self.work_dir / "photos")
        return run_python("validate.py", *flags, "--output_dir", self.work_dir / "labels/ours")

    def predict_plainly(self, model_type):
        folders = (self.work_dir / f"{model_type}.pt", self.work_dir / "photos", self.work_dir / "labels/plain")
        return run_python("-m", "benchmarks.plain_network", *folders, self.args.image_size)

    def score(self, script):
        folders = ("--submit_dir", self.work_dir / "submit", "--truth_dir", self.work_dir / "truth")
        return run_python(f"{script}.py", *folders, "--output_dir", self.work_dir)

    def add(self, what, measure, ours, plain=None, floor=None, check=None):
        """Call `plain` and `ours` alternately, each of which returns a measurement; add and print a row of the medians.

        `measure` is the name of the number that is compared. `check` is called at the end and returns more entries.
        """
        measured = []
        for repeat in range(self.args.repeats):
            print(f"{what}: {repeat + 1} of {self.args.repeats}", file=sys.stderr)
            measured.append((plain() if plain else None, ours()))
        plain_results, our_results = zip(*measured, strict=True)
        row = {"what": what, "measure": measure, "ours": medians(our_results), "floor": floor}
        if plain:
            row["plain"] = medians(plain_results)
            row["ratio"] = row["plain"][measure] / row["ours"][measure]
            if measure == "images_per_second":
                row["ratio"] = 1 / row["ratio"]
        row |= check() if check else {}
        self.rows.append(row)
        print(table_row(row), flush=True)

    def scores(self):
        pairs = self.args.pairs
        lay_out(self.work_dir, pairs)
        floor = self.case("decode_masks", count=pairs)["seconds"]
        folders = (self.work_dir / "submit", self.work_dir / "truth")
        for script in SCORE_SCRIPTS:
            self.add(
                f"`{script}.py`, {pairs} pairs, whole process",
                "seconds",
                ours=lambda script=script: self.score(script),
                plain=lambda script=script: run_python("-m", "benchmarks.plain_scores", script, *folders),
                floor=floor,
            )
        self.add("`f1score.py --help`", "processor_seconds", ours=lambda: run_python("f1score.py", "--help"))

    def rate(self, dtype):
        """Return GFLOP/s of a matrix product in a dtype, measured once so that all floors use the same rate."""
        if dtype not in self.rates:
            rates = [self.case("matrix_product", dtype)["gflops_per_second"] for _ in range(self.args.repeats)]
            self.rates[dtype] = median(rates)
        return self.rates[dtype]

    def prediction(self):
        photos, rate = self.args.photos, self.rate("float32")
        lay_out(self.work_dir, photos)
        for plain_model, file_name in (
            (CHALLENGE, f"{CHALLENGE}.pt"),
            (DEFAULT, f"{DEFAULT}.pt"),
            (CHALLENGE, f"{DEFAULT}.pt"),
            (CHALLENGE, f"{DEFAULT}.onnx"),
            (CHALLENGE, INT8),
        ):
            if file_name.endswith(".onnx") and torch.cuda.is_available():
                continue
            model_type = CHALLENGE if file_name.startswith(f"{CHALLENGE}.") else DEFAULT
            self.add(
                f"`validate.py`, {photos} photographs, whole process, {file_name}; plain: {plain_model}",
                "seconds",
                ours=lambda file=file_name: self.validate(file),
                plain=lambda model=plain_model: self.predict_plainly(model),
                floor=photos * count_flops(model_type, self.args.image_size) / 1e9 / rate,
                check=(lambda: {"differing": differing_share(self.work_dir)}) if model_type == plain_model else None,
            )
        self.add(
            f"label maps of {photos} photographs; plain: all logits upsampled, then argmax",
            "seconds",
            ours=lambda: self.case("label_maps_ours", count=photos),
            plain=lambda: self.case("label_maps_plain", count=photos),
        )

    def training(self):
        rate = self.rate("bfloat16" if torch.cuda.is_available() else "float32")
        for model_type in (CHALLENGE, DEFAULT):
            self.add(
                f"training, {model_type}",
                "images_per_second",
                ours=lambda model=model_type: self.case("train_ours", model, self.args.training_images),
                plain=lambda model=model_type: self.case("train_plain", model, self.args.training_images),
                floor=rate / (TRAINING_PASSES * count_flops(model_type, self.args.image_size) / 1e9),
            )
        if torch.cuda.is_available():
            return  # the following two are about the memory of CPUs
        images = self.args.training_images
        for what, plain, options in (
            ("freed memory given back", "train_ours", {"environment": {"MALLOC_ARENA_MAX": "8"}}),
            ("contiguous gradients of upsampling", "train_without_hook", {}),
        ):
            self.add(
                f"training, {DEFAULT}; plain: {what}",
                "images_per_second",
                ours=lambda: self.case("train_ours", DEFAULT, images),
                plain=lambda plain=plain, options=options: self.case(plain, DEFAULT, images, **options),
            )

    def growth(self):
        for count in GROWTH:
            lay_out(self.work_dir, count)
            self.add(f"`f1score.py`, {count} pairs", "seconds", ours=lambda: self.score("f1score"))
            network = self.work_dir / f"{DEFAULT}.{'pt' if torch.cuda.is_available() else 'onnx'}"
            flags = ("--checkpoint", network, "--image_dir", self.work_dir / "photos", "--image_size", 128)
            self.add(
                f"`validate.py --image_size 128`, {count} photographs, {network.name}",
                "seconds",
                ours=lambda flags=flags: run_python(
                    "validate.py", *flags, "--output_dir", self.work_dir / "predictions"
                ),
            )


def table_row(row):
    """Return a row as a line of a Markdown table."""
    plain, ours, unit = row.get("plain"), row["ours"], UNITS[row["measure"]]
    notes = [
        f"{row['differing']:.1g} of the pixels differ" if "differing" in row else "",
        f"waits for data: {plain['data_wait']:.1%}, {ours['data_wait']:.1%}" if "data_wait" in ours else "",
        f"{ours['gflops_per_second']:.0f} GFLOP/s" if "gflops_per_second" in ours else "",
        f"kernel over user time: {plain['kernel_over_user']:.2f}, {ours['kernel_over_user']:.2f}" if plain else "",
    ]
    cells = (
        row["what"],
        f"{plain[row['measure']]:.3g} {unit}" if plain else "",
        f"{ours[row['measure']]:.3g} {unit}",
        f"{row['ratio']:.2f}" if plain else "",
        f"{row['floor']:.3g} {unit}" if row["floor"] else "",
        f"{plain['peak_mib']:.0f}, {ours['peak_mib']:.0f}" if plain else f"{ours['peak_mib']:.0f}",
        "; ".join(filter(None, notes)),
    )
    return f"| {' | '.join(cells)} |"


def hardware():
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{usable_cores()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def parse_args():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--growth", action="store_true", help=f"over {', '.join(map(str, GROWTH))} images instead")
    parser.add_argument("--image_size", type=network_input_size, default=512, help="of pictures and network input, px")
    parser.add_argument("--pairs", type=positive_int, default=1000, help="to score")
    parser.add_argument("--photos", type=positive_int, default=100, help="to predict on")
    parser.add_argument("--training_images", type=positive_int, default=704 if torch.cuda.is_available() else 32)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--repeats", type=positive_int, default=3, help="runs of which the median is taken")
    return parser.parse_args()


def main(args):
    print("| what | plain | ours | ratio | floor | peak memory, MiB | notes |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args)
        prepare(bench.work_dir, args.image_size, drawn=min(64, args.pairs))
        if args.growth:
            bench.growth()
        else:
            for part in args.parts:
                getattr(bench, part)()
    result = {"hardware": hardware(), "torch": torch.__version__, "flags": vars(args)}
    result |= {"matrix_product_gflops_per_second": bench.rates, "rows": bench.rows}
    with atomic_path("benchmarks.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
