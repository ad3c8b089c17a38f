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

import pytest
import torch
from downloads import make_celebamask_download
from helpers import SMALL, checkpoint_content
from sandbox import run, tree
from test_training import FULL, assert_same_run

import generate_labels
import main_deeplab
import validate
from faceparse.training.state import STATES
from tools import prepare_celebamask

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]  # so that -m "not slow" leaves them out too
SEED = int(os.environ.get("FUZZ_SEED", "0"))
KILLS = int(os.environ.get("FUZZ_KILLS", "100"))
OTHER_KILLS, FULL_DISKS = -(-KILLS // 5), -(-KILLS // 10)


def killed_after(seconds, script, flags, folder):
    """Run a script in a fork, kill it and its workers after some seconds; tell whether it was still running."""
    status, printed = run(script, flags, folder, seconds, memory=2**40)
    # InputError has status 2. This one means that the kill before came after the last file.
    complete = status == 0 or (status == 2 and "has 3 epochs already" in printed)
    assert complete or status == -signal.SIGKILL, printed[-2000:]
    return not complete


def train_flags(folder, dataset):
    has_state = any((folder / "checkpoints/deeplab" / name).exists() for name in STATES)
    return ["--dataset_dir", dataset, *FULL, *["--resume"] * has_state]


def timed(script, flags, folder):
    """Run a script undisturbed in a new folder; return its seconds."""
    folder.mkdir()
    begin = time.monotonic()
    assert not killed_after(600, script, flags, folder)
    return time.monotonic() - begin


@pytest.fixture(scope="module")
def reference(sample_dataset, tmp_path_factory):
    """(the folder of an undisturbed training, its seconds)."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    seconds = timed(main_deeplab, train_flags(folder, sample_dataset), folder)
    return folder / "checkpoints/deeplab", seconds


def test_killed_trainings(sample_dataset, reference, tmp_path, capfd):
    chance, kills, runs = random.Random(SEED), 0, 0
    run_dir, seconds = reference
    while kills < KILLS:
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        # Up to three quarters of a run, so that most runs are killed several times; more with each kill, because a
        # machine that has become slower would never get to an end.
        longest = 0.75 * seconds
        while killed_after(chance.uniform(0, longest), main_deeplab, train_flags(folder, sample_dataset), folder):
            kills, longest = kills + 1, 1.1 * longest
        assert_same_run(folder / "checkpoints/deeplab", run_dir)
        assert not [path for path in tree(folder) if ".tmp." in path.name or ".unfinished" in str(path)]
        shutil.rmtree(folder)
        runs += 1
    with capfd.disabled():
        print(f"\n{kills} kills over {runs} trainings, seed {SEED}: 0 lost, 0 differing")


def test_killed_predictions_relabellings_and_preparations(sample_dataset, tmp_path, capfd):
    torch.save(checkpoint_content(), tmp_path / "model.pt")
    download = tmp_path / "download"
    make_celebamask_download(download, [*list(range(0, 12)), 170000, 170001, 190000])
    predict = ["--checkpoint", "../model.pt", *SMALL, "--image_dir", sample_dataset / "train/train_image"]
    merge = ["--label_dir", sample_dataset / "train/train_mask", "--output_dir", "merged", "--colored_dir", "colored"]
    prepare = ["--source", download, "--image_size", 64]
    commands = [(validate, predict), (generate_labels, [*predict, *merge]), (prepare_celebamask, prepare)]
    seconds = [timed(*command, tmp_path / f"expected{number}") for number, command in enumerate(commands)]
    chance, kills, runs = random.Random(SEED), [0, 0, 0], 0
    while sum(kills) < OTHER_KILLS or 0 in kills:
        number, folder = runs % len(commands), tmp_path / f"run{runs}"
        folder.mkdir()
        while killed_after(chance.uniform(0, 1.2 * seconds[number]), *commands[number], folder):
            kills[number] += 1
        assert tree(folder) == tree(tmp_path / f"expected{number}")
        runs += 1
    with capfd.disabled():
        print(f"\n{kills} kills over prediction, relabelling, preparation, seed {SEED}: 0 lost, 0 differing")


def test_full_disks(sample_dataset, reference, tmp_path, capfd):
    chance = random.Random(SEED)
    for number in range(FULL_DISKS):
        folder = tmp_path / f"disk{number}"
        folder.mkdir()
        size = chance.randrange(50_000, 60_000_000)  # a whole run takes about 70 MB
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            status, printed = run(main_deeplab, train_flags(folder, sample_dataset), folder)
            assert status == 2 and "Traceback" not in printed, printed[-2000:]
            assert "No space left" in printed or "cannot be written" in printed, printed[-2000:]
            subprocess.run(["mount", "-o", "remount,size=300m", folder], check=True)
            status, printed = run(main_deeplab, train_flags(folder, sample_dataset), folder)
            assert status == 0, printed[-2000:]
            assert_same_run(folder / "checkpoints/deeplab", reference[0])
        finally:
            subprocess.run(["umount", folder], check=False)
    with capfd.disabled():
        print(f"\n{FULL_DISKS} full disks, seed {SEED}: 0 lost, 0 differing")
