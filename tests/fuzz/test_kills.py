"""Kills at random moments and full disks: each run is continued to its end and equals the undisturbed one bit for bit.

make kills
FUZZ_SEED=7 FUZZ_KILLS=300 make kills
"""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from downloads import make_celebamask_download
from hostile import model_content
from sandbox import run, start, tree
from test_training import FULL, assert_same_run

import generate_labels
import main_deeplab
import options
import validate
from faceparse.training.state import STATES
from tools import prepare_celebamask

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]  # so that -m "not slow" leaves them out too
SEED = int(os.environ.get("FUZZ_SEED", "0"))
KILLS = int(os.environ.get("FUZZ_KILLS", "100"))
OTHER_KILLS, FULL_DISKS = 20, 10
PREDICT = ["--checkpoint", "../model.pt", "--image_size", "32", "--workers", "0"]


def killed_after(seconds, script, parser, flags, folder):
    """Run a script in a fork, kill it and its workers after some seconds; tell whether it was still running."""
    log = Path(f"{folder}.log")
    child = start(script, parser, flags, folder, (log, log))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # InputError has status 2. This one means that the kill before came after the last file.
    complete = status == 0 or (status == 2 and "has 3 epochs already" in log.read_text())
    assert complete or status == -signal.SIGKILL, log.read_text()[-2000:]
    return not complete


def train_flags(folder, dataset):
    states = [folder / "checkpoints/deeplab" / name for name in STATES]
    return ["--dataset_dir", dataset, *FULL, *(["--resume"] if any(map(Path.exists, states)) else [])]


@pytest.fixture(scope="module")
def reference(sample_dataset, tmp_path_factory):
    """(the folder of an undisturbed training, its seconds)."""
    folder = tmp_path_factory.mktemp("reference")
    begin = time.monotonic()
    assert not killed_after(600, main_deeplab, options.train_parser, train_flags(folder, sample_dataset), folder)
    return folder / "checkpoints/deeplab", time.monotonic() - begin


def test_killed_trainings(sample_dataset, reference, tmp_path, capfd):
    chance, kills, runs = random.Random(SEED), 0, 0
    run_dir, seconds = reference
    while kills < KILLS:
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        # Up to three quarters of a run, so that most runs are killed several times; more with each kill, because a
        # machine that has become slower would never get to an end.
        longest = 0.75 * seconds
        while killed_after(
            chance.uniform(0, longest),
            *(main_deeplab, options.train_parser, train_flags(folder, sample_dataset), folder),
        ):
            kills, longest = kills + 1, 1.1 * longest
        assert_same_run(folder / "checkpoints/deeplab", run_dir)
        assert not [path for path in folder.rglob("*") if ".tmp." in path.name or ".unfinished" in path.name]
        shutil.rmtree(folder)
        runs += 1
        with capfd.disabled():
            print(f"{kills} kills over {runs} trainings, seed {SEED}: 0 lost, 0 differing", flush=True)


def test_killed_predictions_relabellings_and_preparations(sample_dataset, tmp_path, capfd):
    torch.save(model_content(), tmp_path / "model.pt")
    download = tmp_path / "download"
    make_celebamask_download(download, [*list(range(0, 12)), 170000, 170001, 190000])
    photos, labels = sample_dataset / "train/train_image", sample_dataset / "train/train_mask"
    merge = ["--image_dir", photos, "--label_dir", labels, "--output_dir", "merged", "--colored_dir", "colored"]
    commands = (
        (validate, options.validate_parser, [*PREDICT, "--image_dir", photos]),
        (generate_labels, options.generate_labels_parser, [*PREDICT, *merge]),
        (prepare_celebamask, options.preparation_parser, ["--source", download, "--image_size", 64]),
    )
    expected, seconds = [], []
    for number, command in enumerate(commands):
        folder = tmp_path / f"expected{number}"
        folder.mkdir()
        begin = time.monotonic()
        assert not killed_after(600, *command, folder)
        seconds.append(time.monotonic() - begin)
        expected.append({path.relative_to(folder): value for path, value in tree(folder).items()})
    chance, kills, runs = random.Random(SEED), [0, 0, 0], 0
    while sum(kills) < OTHER_KILLS or 0 in kills:
        number = runs % len(commands)
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        while killed_after(chance.uniform(0, 1.2 * seconds[number]), *commands[number], folder):
            kills[number] += 1
        assert {path.relative_to(folder): value for path, value in tree(folder).items()} == expected[number]
        runs += 1
    with capfd.disabled():
        print(f"\n{kills} kills over prediction, relabelling, preparation, seed {SEED}: 0 lost, 0 differing")


def test_full_disks(sample_dataset, reference, tmp_path, capfd):
    chance, full = random.Random(SEED), 0
    for number in range(FULL_DISKS):
        folder = tmp_path / f"disk{number}"
        folder.mkdir()
        size = chance.randrange(50_000, 60_000_000)  # a whole run takes about 70 MB
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            outcome = run(main_deeplab, options.train_parser, train_flags(folder, sample_dataset), folder)
            assert outcome.status == 2 and "Traceback" not in outcome.err, outcome.err[-2000:]
            assert "No space left" in outcome.err or "cannot be written" in outcome.err, outcome.err[-2000:]
            full += 1
            subprocess.run(["mount", "-o", "remount,size=300m", folder], check=True)
            outcome = run(main_deeplab, options.train_parser, train_flags(folder, sample_dataset), folder)
            assert outcome.status == 0, outcome.err[-2000:]
            assert_same_run(folder / "checkpoints/deeplab", reference[0])
        finally:
            subprocess.run(["umount", folder], check=False)
    with capfd.disabled():
        print(f"\n{full} full disks, seed {SEED}: 0 lost, 0 differing")
