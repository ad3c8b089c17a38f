"""The training commands in recipes/ take flags that exist, and pass further flags on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from options import generate_labels_parser, train_parser

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.sh"))
RECORDER = """#!/usr/bin/env bash
echo "$@" >> "$COMMANDS"
"""


def run_recipe(folder, name, *flags):
    """Return the parsed flags of the trainings and of the labellings of a recipe, which runs in `folder`.

    A `python` that only records its arguments takes the place of the real one.
    """
    (folder / "python").write_text(RECORDER)
    (folder / "python").chmod(0o755)
    # A recipe skips what it finds trained beside it.
    shutil.copytree(RECIPES[0].parent, folder / "recipes", dirs_exist_ok=True)
    (folder / "commands").write_text("")
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "COMMANDS": str(folder / "commands")}
    subprocess.run(["bash", folder / "recipes" / name, *flags], env=env, check=True)
    commands = [line.split() for line in (folder / "commands").read_text().splitlines()]
    parsers = {"main_deeplab.py": train_parser("Train."), "generate_labels.py": generate_labels_parser("Label.")}
    return [
        [parser.parse_args(flags) for script, *flags in commands if script == name] for name, parser in parsers.items()
    ]


@pytest.fixture(autouse=True)
def photographs_without_masks(tmp_path):
    (tmp_path / "dataset/test_image").mkdir(parents=True)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipe_trains_with_known_flags_and_passes_flags_on(recipe, tmp_path):
    trainings, _ = run_recipe(tmp_path, recipe.name, "--seed", "7", "--resume")
    assert trainings and trainings[-1].seed == 7 and trainings[-1].resume


def test_every_stage_starts_from_the_one_before_and_learns_from_its_labels(tmp_path):
    trainings, labellings = run_recipe(tmp_path, "slim.sh")
    ends = [f"checkpoints/{each.save_prefix}/Deeplab_checkpoint_epoch_{each.epochs}.pt" for each in trainings]
    assert [each.load_model_path for each in trainings] == [None, *ends[:-1]]
    assert [each.checkpoint for each in labellings] == [ends[0], ends[2], ends[3], ends[4]]
    learnt = [each.label_dir for each in trainings if each.unlabelled_dir]
    assert learnt == [each.output_dir for each in labellings] and len(set(learnt)) == 4
    assert not any(each.resume for each in trainings)


def test_what_is_complete_is_skipped_and_what_was_interrupted_continues(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "slim_512_more").mkdir(parents=True)
    (checkpoints / "slim_512_more/Deeplab_checkpoint_epoch_18.pt").touch()  # the stages before it are not there
    trainings, labellings = run_recipe(tmp_path, "slim.sh")
    assert [each.save_prefix for each in trainings] == ["slim_512_strong"] and not trainings[0].resume
    assert [dict(each.doubtful)["ear_r"] for each in labellings] == [0.05]
    (tmp_path / labellings[0].output_dir).mkdir(parents=True)
    (checkpoints / "slim_512_strong").mkdir()
    (checkpoints / "slim_512_strong/last.pt").touch()
    trainings, labellings = run_recipe(tmp_path, "slim.sh")
    assert [each.resume for each in trainings] == [True] and not labellings
    (checkpoints / "slim_512_strong/Deeplab_checkpoint_epoch_12.pt").touch()
    assert run_recipe(tmp_path, "slim.sh") == [[], []]


def test_a_test_split_is_not_trained_on(tmp_path, monkeypatch):
    (tmp_path / "dataset/test_mask").mkdir(parents=True)
    trainings, labellings = run_recipe(tmp_path, "slim.sh")
    assert len(trainings) == 6 and len(labellings) == 4
    assert not any(each.unlabelled_dir or each.doubtful for each in trainings + labellings)
    (tmp_path / "more").mkdir()
    monkeypatch.setenv("UNLABELLED", "more")
    trainings, _ = run_recipe(tmp_path, "slim.sh")
    assert [each.unlabelled_dir for each in trainings] == [[], ["more"], [], ["more"], ["more"], ["more"]]


def test_masks_alone_are_enough_but_not_for_partial_masks(tmp_path, monkeypatch, capfd):
    (tmp_path / "dataset/test_image").rmdir()
    trainings, _ = run_recipe(tmp_path, "slim.sh")
    assert len(trainings) == 6 and not any(each.unlabelled_dir for each in trainings)
    (tmp_path / "hair").mkdir()
    monkeypatch.setenv("PARTIAL_MASKS", "hair=hair")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_recipe(tmp_path, "slim.sh")
    assert failed.value.returncode == 2 and "error: PARTIAL_MASKS needs UNLABELLED" in capfd.readouterr().err


def test_a_missing_folder_of_photographs_is_said_before_the_first_stage(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("UNLABELLED", "dataset/test_image mistyped")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_recipe(tmp_path, "slim.sh")
    assert failed.value.returncode == 2 and "error: mistyped: no such folder" in capfd.readouterr().err
    assert not (tmp_path / "commands").read_text()
