"""What several test files share beside the fixtures of conftest.py."""

import re
from pathlib import Path

import torch

from faceparse.data.classes import CELEBAMASK
from faceparse.inference import checkpoints
from models import build_model

SLIM_WEIGHTS = Path(__file__).parents[1] / "Deeplab_checkpoint_epoch_128.pt"
SLIM, CHALLENGE = "deeplabv3plus_mobilenet_slim", "deeplabv3plus_mobilenet"
THEIR_IDS = (0, 1, 10, 6, 4, 5, 2, 3, 7, 8, 11, 12, 13, 17, 18, 9, 15, 14, 16)  # by ours, as zllrunning's readme has it
SMALL = ("--image_size", 32, "--workers", 0)
# Flags that work in the working directory of the fixture `place`.
TRAIN = ("--dataset_dir", "dataset", "--batch_size", 4, "--epochs", 1, "--save_every", 1, *SMALL)
PREDICT = ("--checkpoint", "model.pt", "--image_dir", "dataset/val/val_image", *SMALL)
MERGE = (*PREDICT, "--label_dir", "dataset/val/val_mask", "--output_dir", "merged", "--colored_dir", "colored")


def parser_of(script):
    """Return the parser of a script's flags, by the one function that it imports for that."""
    (make,) = (value for name, value in vars(script).items() if name.endswith("_parser"))
    return make("Run.")


def parse(script, *flags):
    """Return what a script's parser makes of flags, which may be numbers and paths."""
    return parser_of(script).parse_args([str(flag) for flag in flags])


def call(script, *flags):
    """Run a script's main in this process; InputError stays one."""
    script.main(parse(script, *flags))


def contents(folder):
    """Return {path within the folder: bytes} of all its files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def the_error(stderr):
    """Return the only error line of what a script printed; progress bars return to the start of a line or go up one."""
    assert "Traceback" not in stderr
    lines = [line for line in re.split(r"[\r\n]|\x1b\[A", stderr) if "error:" in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def checkpoint_content(seed=0, **changes):
    """Return the content of a checkpoint of the slim network with random weights, for photographs of 32 px."""
    torch.manual_seed(seed)
    content = checkpoints.describe(SLIM, CELEBAMASK, build_model(SLIM).state_dict())
    return content | {"image_size": 32, "epoch": 1} | changes
