"""Hostile input to every script: 0 or one clear line and status 2, no hang, nothing changed, no temporary files.

    make fuzz
    FUZZ_SEED=7 make fuzz

Prints a table of the cases and every failure.
"""

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hostile import (
    CHECKPOINTS,
    IMAGES,
    ONNX,
    cut,
    device,
    empty,
    flip_bits,
    folder,
    loop,
    model_content,
    noise,
    picture,
    pipe,
)
from sandbox import error_lines, run, tree

import class_imbalance_fig
import color_visualization
import evaluate
import export_onnx
import f1score
import generate_labels
import iouclass
import main_deeplab
import options
import parse_faces
import validate
from faceparse.errors import InputError
from tools import check_dataset, make_sample_dataset, plot_runs, prepare_celebamask, prepare_lapa

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]  # so that -m "not slow" leaves them out too
SEED = int(os.environ.get("FUZZ_SEED", "0"))
PHOTO, MASK = "dataset/val/val_image/val_0002.jpg", "dataset/val/val_mask/val_0002.png"
SMALL = "--image_size 32 --workers 0"
TRAIN = f"--dataset_dir dataset --batch_size 4 --epochs 1 {SMALL}"
SCRIPTS = {  # name: (script, parser, flags that work)
    "train": (main_deeplab, options.train_parser, TRAIN),
    "resume": (main_deeplab, options.train_parser, f"{TRAIN} --epochs 2 --resume"),
    "validate": (
        validate,
        options.validate_parser,
        f"--checkpoint model.pt --image_dir dataset/val/val_image {SMALL}",
    ),
    "relabel": (
        generate_labels,
        options.generate_labels_parser,
        f"--checkpoint model.pt --image_dir dataset/val/val_image --label_dir dataset/val/val_mask {SMALL} "
        "--output_dir merged --colored_dir colored",
    ),
    "export": (export_onnx, options.export_parser, "--checkpoint model.pt --output out.onnx"),
    "faces": (parse_faces, options.parse_faces_parser, f"--checkpoint model.pt --image_size 32 {PHOTO}"),
    "video": (parse_faces, options.parse_faces_parser, "--checkpoint model.pt --image_size 32 --whole clip.mp4"),
    "evaluate": (evaluate, options.score_parser, "--submit_dir predicted --truth_dir dataset/val/val_mask"),
    "iou": (iouclass, options.score_parser, "--submit_dir predicted --truth_dir dataset/val/val_mask"),
    "f1": (f1score, options.f1score_parser, "--submit_dir predicted --truth_dir dataset/val/val_mask"),
    "colour": (
        color_visualization,
        options.color_parser,
        "--label_dir predicted --image_dir dataset/val/val_image --output_dir out",
    ),
    "counts": (class_imbalance_fig, options.class_imbalance_parser, "--label_dir dataset/val/val_mask"),
    "check": (check_dataset, options.check_dataset_parser, "--dataset_dir dataset --fix_left_right fixed"),
    "sample": (
        make_sample_dataset,
        options.sample_dataset_parser,
        "--train 1 --val 1 --test 1 --image_size 32 --output_dir sample",
    ),
    "plot": (plot_runs, options.plot_runs_parser, "checkpoints/deeplab --output runs.png"),
    "celebamask": (prepare_celebamask, options.preparation_parser, "--source nowhere --output_dir prepared"),
    "lapa": (prepare_lapa, options.preparation_parser, "--source nowhere --output_dir prepared"),
}
NUMBERS = ("0", "-1", "nan", "inf", "-inf", "1e308", "99999999999999999999", "", "1.5", "0x10", "abc")


def numeric_flags(parser):
    """Return the flags of a parser that take a number."""
    return [
        action.option_strings[0]
        for action in parser("Run.")._actions
        if action.type is not None and action.option_strings and action.type.__name__ != "folder_name"
    ]


def cases(chance):
    """Yield (name, script's name, further flags, {file: how to damage it})."""
    for name, make in IMAGES.items():
        yield f"photo {name}", "validate", "", {PHOTO: make}
        script = chance.choice(("evaluate", "iou", "f1", "relabel", "check", "counts", "colour"))
        yield f"mask {name}", script, "", {(MASK if script != "colour" else "predicted/val_0002.png"): make}
    for name in ("bomb", "pipe", "cut 0", "bits 1", "loop"):
        yield f"train photo {name}", "train", "", {PHOTO: IMAGES[name]}
    for name, make in CHECKPOINTS.items():
        yield f"checkpoint {name}", chance.choice(("validate", "relabel")), "", {"model.pt": make}
    for name, make in ONNX.items():
        yield f"onnx {name}", "validate", "--checkpoint model.onnx", {"model.onnx": make}
    for name in ("nan", "cut 0", "bits 0", "pipe", "shape", "image_size huge", "classes dict"):
        yield f"export checkpoint {name}", "export", "", {"model.pt": CHECKPOINTS[name]}
    for name in ("bomb", "pipe", "cut 0", "noise 0"):
        yield f"export photo {name}", "export", "--int8 dataset/val/val_image", {PHOTO: IMAGES[name]}
    for output in ("dataset", "model.pt", "nowhere/out.onnx", "model.pt/out.onnx"):
        yield f"export to {output}", "export", f"--output {output}", {}
    for name, make in IMAGES.items():
        yield f"faces {name}", "faces", chance.choice(("", "--whole", "--cutout person")), {PHOTO: make}
    for name in ("nan", "cut 1", "bits 1", "pipe", "meta"):
        yield f"faces checkpoint {name}", "faces", "", {"model.pt": CHECKPOINTS[name]}
    for number, make in enumerate((*[cut] * 6, *[flip_bits] * 12, noise, empty, pipe)):
        yield f"phone {number} {make.__name__}", "validate", "--image_dir phone.heic", {"phone.heic": make}
    for number, make in enumerate((cut, cut, cut, flip_bits, flip_bits, flip_bits, noise, empty, pipe, loop, device)):
        yield f"video {number} {make.__name__}", "video", "", {"clip.mp4": make}
    for file, makes in {
        "last.pt": (cut, flip_bits, flip_bits, noise, empty, pipe, loop, device, folder),
        "log.jsonl": (cut, flip_bits, flip_bits, noise, empty, loop, folder),
    }.items():
        for number, make in enumerate(makes):
            path = f"checkpoints/deeplab/{file}"
            yield f"resume {file} {number} {make.__name__}", "resume", "", {path: make}
            if file == "log.jsonl":
                yield f"plot {file} {number} {make.__name__}", "plot", "", {path: make}
    for script, (_, parser, _) in SCRIPTS.items():
        flags = numeric_flags(parser) if script != "resume" else []
        for flag in flags:
            value = chance.choice(NUMBERS)
            # What follows overrides; a count of epochs or pictures may be large in earnest, so only hostile ones.
            yield f"{script} {flag} {value!r}", script, f"{flag}={value}", {}
    for text in ('{"names": 3}', "[]", "{", '{"names": ["a", "a"]}', '{"names": ["a", 1]}', "[" * 100_000, "\\ud800"):
        yield (
            f"classes {text[:20]}",
            chance.choice(("evaluate", "counts", "train")),
            "--classes c.json",
            {"c.json": text},
        )


@pytest.fixture(scope="module")
def template(sample_dataset, tmp_path_factory):
    """A folder with a data set, a checkpoint, predictions and a run of one epoch."""
    pytest.importorskip("pi_heif")  # without it every HEIC file would be refused for that
    place = tmp_path_factory.mktemp("fuzz") / "template"
    shutil.copytree(sample_dataset, place / "dataset")
    torch.save(model_content(), place / "model.pt")
    shutil.copy(Path(__file__).parents[1] / "phone.heic", place)
    clip = cv2.VideoWriter(str(place / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(5):
        clip.write(np.array(picture()))
    clip.release()
    for name in ("train", "validate"):
        script, parser, flags = SCRIPTS[name]
        done = run(script, parser, [*flags.split(), *(["--output_dir", "predicted"] * (name == "validate"))], place)
        assert done.status == 0, done.err
    return place


def find_fault(outcome, before, after, script_name=""):
    """Return what is wrong with an outcome, "" where nothing is."""
    no_face = script_name in ("faces", "video") and outcome.status == 1
    if outcome.status not in (0, 2) and not no_face:
        return f"status {outcome.status}"
    lines = error_lines(outcome.err)
    if "Traceback" in outcome.err:
        return "traceback"
    if outcome.status == 2 and len(lines) != 1:
        return f"{len(lines)} error lines"
    changed = [path for path in before if after.get(path) != before[path]]
    if outcome.status == 2 and after != before:
        return f"changed: {changed or sorted(after.keys() - before.keys())}"
    if outcome.status == 0 and [path for path in changed if "checkpoints" not in path.parts]:
        return f"changed: {changed}"
    left = [path for path in after.keys() - before.keys() if path.name.startswith(".") or ".unfinished" in str(path)]
    return f"left: {left}" if left else ""


def test_hostile_input(template, tmp_path, capfd):
    chance, rows, faults = random.Random(SEED), Counter(), []
    for number, (name, script_name, more, damages) in enumerate(cases(chance)):
        place = tmp_path / f"case{number}"
        shutil.copytree(template, place)
        for file, make in damages.items():
            if isinstance(make, str):
                (place / file).write_text(make)
            else:
                make(place / file, chance)
        script, parser, flags = SCRIPTS[script_name]
        before = tree(place)
        outcome = run(script, parser, [*flags.split(), *more.split()], place)
        fault = find_fault(outcome, before, tree(place), script_name)
        rows[script_name, "fault" if fault else f"status {outcome.status}"] += 1
        if fault:
            faults.append(f"{name} ({script_name}): {fault}\n{outcome.err[-1500:]}")
        shutil.rmtree(place)
    with capfd.disabled():
        print(f"\n{sum(rows.values())} hostile inputs, seed {SEED}: {len(faults)} faults")
        for script_name in SCRIPTS:
            found = {kind: count for (each, kind), count in sorted(rows.items()) if each == script_name}
            print(f"{script_name:<12}" + "".join(f"{kind} {count:>4}   " for kind, count in found.items()))
        print("\n".join(faults))
    assert sum(rows.values()) >= 200 and not faults


def test_the_sandbox_sees_hangs_tracebacks_and_changes(tmp_path, monkeypatch):
    """Without this the test above would prove nothing."""
    import sandbox

    class Script:
        @staticmethod
        def main(args):
            args()

    class Parser:
        def __init__(self, action):
            self.action = action

        def __call__(self, _):
            return self

        def parse_args(self, _):
            return self.action

    def bug():
        raise KeyError("a bug")

    def bad():
        raise InputError("a.png: bad")

    monkeypatch.setattr(sandbox, "TIME", 1)
    (tmp_path / "a").mkdir()
    assert find_fault(run(Script, Parser(bug), [], tmp_path / "a"), {}, {}) == "status 1"
    assert find_fault(run(Script, Parser(lambda: __import__("time").sleep(9)), [], tmp_path / "a"), {}, {}) == (
        "status hang"
    )
    outcome = run(Script, Parser(bad), [], tmp_path / "a")
    assert outcome.status == 2 and find_fault(outcome, {}, {}) == ""
    assert find_fault(outcome, {"a": "1"}, {"a": "2"}).startswith("changed")
