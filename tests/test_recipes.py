"""The training commands in recipes/ take flags that exist, and pass further flags on."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from options import train_parser

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.sh"))
RECORDER = """#!/usr/bin/env bash
echo "$@" >> "$COMMANDS"
"""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipe_trains_with_known_flags_and_passes_flags_on(recipe, tmp_path):
    """A `python` that only records its arguments takes the place of the real one."""
    (tmp_path / "python").write_text(RECORDER)
    (tmp_path / "python").chmod(0o755)
    shutil.copytree(recipe.parent, tmp_path / "recipes")  # a recipe skips what it finds trained beside it
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COMMANDS": str(tmp_path / "commands")}
    subprocess.run(["bash", tmp_path / "recipes" / recipe.name, "--seed", "7", "--resume"], env=env, check=True)
    commands = [line.split() for line in (tmp_path / "commands").read_text().splitlines()]
    trainings = [train_parser("Train.").parse_args(flags) for script, *flags in commands if script == "main_deeplab.py"]
    assert trainings and trainings[-1].seed == 7 and trainings[-1].resume
