"""The training commands in recipes/ take flags that exist, and pass further flags on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import parse

import main_deeplab

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.sh"))
STAGED = {
    "slim.sh": [("slim_256", 30), ("slim_512", 20)],
    "lite.sh": [("lite_256", 10), ("lite_384", 2), ("lite_512", 3), ("lite_512_late", 3), ("lite_512_portraits", 4)],
}


def run_recipe(folder, name, *flags, **variables):
    """Return the parsed flags of the trainings of a recipe, which runs in `folder`.

    A `python` that only records its arguments takes the place of the real one.
    """
    (folder / "python").write_text('#!/usr/bin/env bash\necho "$@" >> "$COMMANDS"\n')
    (folder / "python").chmod(0o755)
    # A recipe skips what it finds trained beside it.
    shutil.copytree(RECIPES[0].parent, folder / "recipes", dirs_exist_ok=True)
    (folder / "commands").write_text("")
    env = os.environ | variables | {"PATH": f"{folder}:{os.environ['PATH']}", "COMMANDS": str(folder / "commands")}
    subprocess.run(["bash", folder / "recipes" / name, *flags], env=env, check=True)
    commands = [line.split() for line in (folder / "commands").read_text().splitlines()]
    return [parse(main_deeplab, *flags) for script, *flags in commands if script == "main_deeplab.py"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipe_trains_with_known_flags_and_passes_flags_on(recipe, tmp_path):
    trainings = run_recipe(tmp_path, recipe.name, "--seed", "7", "--resume")
    assert trainings and all(each.seed == 7 and each.resume for each in trainings)


@pytest.mark.parametrize("recipe", STAGED)
def test_every_stage_starts_from_the_one_before_and_is_continued(recipe, tmp_path):
    names = STAGED[recipe]
    trainings = first, *later = run_recipe(tmp_path, recipe, EXTRA="people more")
    assert [(each.save_prefix, each.epochs) for each in trainings] == names
    assert (first.image_size, later[-1].image_size) == (256, 512) and first.pretrained == (recipe == "lite.sh")
    assert all(each.extra_dir == (["people", "more"] if recipe == "lite.sh" else []) for each in later)
    ends = [tmp_path / f"checkpoints/{name}/Deeplab_checkpoint_epoch_{epochs}.pt" for name, epochs in names]
    starts = [None, *(str(end.relative_to(tmp_path)) for end in ends)]
    assert [each.load_model_path for each in trainings] == starts[:-1]
    assert not any(each.resume for each in trainings)
    means = [line for line in (tmp_path / "commands").read_text().splitlines() if "average_checkpoints" in line]
    last_two = f"{starts[-2]} {starts[-1]}"
    expected = [f"-m tools.average_checkpoints {last_two} --output checkpoints/lite.pt"] * (recipe == "lite.sh")
    assert means == expected
    for number, end in enumerate(ends):
        end.parent.mkdir(parents=True)
        (end.parent / "previous.pt").touch()  # interrupted between two states
        resumed = [each.resume for each in run_recipe(tmp_path, recipe)]
        assert resumed == [True, *[False] * (len(ends) - 1 - number)]
        end.touch()
    assert run_recipe(tmp_path, recipe) == []


def test_the_challenges_recipe_in_full_and_short(tmp_path):
    (full,) = run_recipe(tmp_path, "challenge.sh")
    (short,) = run_recipe(tmp_path, "challenge.sh", SIZE="256", EPOCHS="30")
    assert (full.image_size, full.epochs, full.self_distill_epoch) == (512, 400, 30)
    assert (short.image_size, short.epochs, short.self_distill_epoch) == (256, 30, 0)
    assert full.save_prefix != short.save_prefix
