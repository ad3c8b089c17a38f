"""Hostile input to every script: 0 or one clear line and status 2, no hang, nothing changed, no temporary files.

    make fuzz
    FUZZ_SEED=7 FUZZ_EVERY=5 make fuzz      # every fifth case

Prints a table of the cases and every failure.
"""

import os
import random
import shutil
import time
from collections import Counter
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path

import cv2
import helpers
import numpy as np
import pytest
import torch
from helpers import checkpoint_content, parser_of
from hostile import CHECKPOINTS, DAMAGE, IMAGES, ONNX, picture
from sandbox import run, tree

import evaluate

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]  # so that -m "not slow" leaves them out too
SEED, EVERY = int(os.environ.get("FUZZ_SEED", "0")), int(os.environ.get("FUZZ_EVERY", "1"))
PHOTO, MASK = "dataset/val/val_image/val_0002.jpg", "dataset/val/val_mask/val_0002.png"
TRAIN, PREDICT, MERGE = (" ".join(map(str, flags)) for flags in (helpers.TRAIN, helpers.PREDICT, helpers.MERGE))
SCORE = "--submit_dir predicted --truth_dir dataset/val/val_mask"
SCRIPTS = {  # module, before a colon: flags that work
    "main_deeplab": TRAIN,
    "main_deeplab:resume": f"{TRAIN} --epochs 2 --resume",
    "validate": PREDICT,
    "generate_labels": MERGE,
    "export_onnx": "--checkpoint model.pt --output out.onnx",
    "parse_faces": f"--checkpoint model.pt --image_size 32 {PHOTO}",
    "parse_faces:video": "--checkpoint model.pt --image_size 32 --whole clip.mp4",
    **dict.fromkeys(("evaluate", "iouclass", "f1score"), SCORE),
    "color_visualization": "--label_dir predicted --image_dir dataset/val/val_image --output_dir out",
    "class_imbalance_fig": "--label_dir dataset/val/val_mask",
    "tools.check_dataset": "--dataset_dir dataset --fix_left_right fixed",
    "tools.make_sample_dataset": "--train 1 --val 1 --test 1 --image_size 32 --output_dir sample",
    "tools.compare_scores": "predicted predicted --truth_dir dataset/val/val_mask",
    "tools.plot_runs": "checkpoints/deeplab --output runs.png",
    **dict.fromkeys(("tools.prepare_celebamask", "tools.prepare_lapa"), "--source nowhere --output_dir prepared"),
}
READ_MASKS = ("evaluate", "iouclass", "f1score", "generate_labels", "tools.check_dataset", "class_imbalance_fig")
READ_CHECKPOINTS = ("validate", "generate_labels", "export_onnx", "parse_faces")
NUMBERS = ("0", "-1", "nan", "inf", "-inf", "1e308", "99999999999999999999", "", "1.5", "0x10", "abc")
CLASSES = ('{"names": 3}', "[]", "{", '{"names": ["a", "a"]}', '{"names": ["a", 1]}', "[" * 100_000, "\\ud800")


def numeric_flags(module):
    """Return the flags of a script that take a number."""
    actions = parser_of(import_module(module))._actions
    actions = [action for action in actions if action.option_strings and action.type]
    return [action.option_strings[0] for action in actions if action.type.__name__ != "folder_name"]


def cases(chance):
    """Yield (name, key of SCRIPTS, further flags, {file: how to damage it})."""
    for name, make in IMAGES.items():
        yield f"photo {name}", "validate", "", {PHOTO: make}
        yield f"mask {name}", chance.choice(READ_MASKS), "", {MASK: make}
        yield f"faces {name}", "parse_faces", chance.choice(("", "--whole", "--cutout person")), {PHOTO: make}
    for name, make in CHECKPOINTS.items():
        yield f"checkpoint {name}", chance.choice(READ_CHECKPOINTS), "", {"model.pt": make}
    for name, make in ONNX.items():
        yield f"onnx {name}", "validate", "--checkpoint model.onnx", {"model.onnx": make}
    for name, make in DAMAGE.items():
        yield f"train photo {name}", "main_deeplab", "", {PHOTO: make}
        yield f"label map {name}", "color_visualization", "", {"predicted/val_0002.png": make}
        yield f"phone {name}", "validate", "--image_dir phone.heic", {"phone.heic": make}
        yield f"video {name}", "parse_faces:video", "", {"clip.mp4": make}
        yield f"resume state {name}", "main_deeplab:resume", "", {"checkpoints/deeplab/last.pt": make}
        if name not in ("pipe", "device"):  # nobody's log is one
            script = chance.choice(("main_deeplab:resume", "tools.plot_runs"))
            yield f"log {name}", script, "", {"checkpoints/deeplab/log.jsonl": make}
    for module in (key for key in SCRIPTS if ":" not in key):
        for flag in numeric_flags(module):
            value = chance.choice(NUMBERS)
            yield f"{module} {flag} {value!r}", module, f"{flag}={value}", {}
    for text in CLASSES:
        script = chance.choice(("evaluate", "class_imbalance_fig", "main_deeplab"))
        yield f"classes {text[:9]}", script, "--classes c.json", {"c.json": partial(write, text=text)}


def write(path, _, text):
    path.write_text(text)


@pytest.fixture(scope="module")
def template(sample_dataset, tmp_path_factory):
    """A folder with a data set, a checkpoint, predictions and a run of one epoch."""
    pytest.importorskip("pi_heif")  # without it every HEIC file would be refused for that
    place = tmp_path_factory.mktemp("fuzz") / "template"
    shutil.copytree(sample_dataset, place / "dataset")
    torch.save(checkpoint_content(), place / "model.pt")
    shutil.copy(Path(__file__).parents[1] / "phone.heic", place)
    clip = cv2.VideoWriter(str(place / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(5):
        clip.write(np.array(picture()))
    clip.release()
    for more in ("main_deeplab", "validate --output_dir predicted", "export_onnx --output model.onnx"):
        name, *more = more.split()
        status, printed = run(import_module(name), [*SCRIPTS[name].split(), *more], place)
        assert status == 0, printed
    return place


def find_fault(status, printed, before, after, script_name=""):
    """Return what is wrong with an outcome, "" if nothing is; `before` and `after` are the trees."""
    allowed = {0, 1, 2} if script_name.startswith("parse_faces") else {0, 2}  # 1: no face found
    if "Traceback" in printed or status not in allowed:
        return f"status {status}" if status not in allowed else "traceback"
    lines = printed.count("error: ")
    if status == 2 and lines != 1:
        return f"{lines} error lines"
    changed = [path for path in before if after.get(path) != before[path]]
    replaced = [path for path in changed if "checkpoints" not in path.parts]  # a training goes on there
    if (status == 2 and after != before) or (status == 0 and replaced):
        return f"changed: {changed or sorted(after.keys() - before.keys())}"
    left = [path for path in after.keys() - before.keys() if path.name.startswith(".") or ".unfinished" in str(path)]
    return f"left: {left}" if left else ""


def test_hostile_input(template, tmp_path, capfd):
    chance, rows, faults = random.Random(SEED), Counter(), []
    for number, (name, script_name, more, damages) in islice(enumerate(cases(chance)), SEED % EVERY, None, EVERY):
        place = tmp_path / f"case{number}"
        shutil.copytree(template, place)
        for file, make in damages.items():
            make(place / file, chance)
        before, script = tree(place), import_module(script_name.split(":")[0])
        status, printed = run(script, f"{SCRIPTS[script_name]} {more}".split(), place)
        fault = find_fault(status, printed, before, tree(place), script_name)
        rows[script_name, "fault" if fault else f"status {status}"] += 1
        if fault:
            faults.append(f"{name} ({script_name}): {fault}\n{printed[-1500:]}")
        shutil.rmtree(place)
    with capfd.disabled():
        print(f"\n{sum(rows.values())} hostile inputs, seed {SEED}: {len(faults)} faults")
        print("\n".join([*(f"{' '.join(kind)}: {count}" for kind, count in sorted(rows.items())), *faults]))
    assert sum(rows.values()) >= 200 // EVERY and not faults


def test_the_sandbox_sees_hangs_and_tracebacks(tmp_path, monkeypatch):
    """Without this the test above would prove nothing."""
    monkeypatch.setattr("sandbox.TIME", 2)
    for main, fault in ((lambda _: {}["a bug"], "status 1"), (lambda _: time.sleep(9), "status -9")):
        monkeypatch.setattr(evaluate, "main", main)
        assert find_fault(*run(evaluate, [], tmp_path), {}, {}) == fault
