"""Save, read and rebuild models. A checkpoint names its model; a bare state_dict is the challenge's network."""

import pickle
import warnings
from pathlib import Path

import torch

from faceparse import distributed
from faceparse.classes import NUM_CLASSES
from faceparse.errors import InputError
from faceparse.images import atomic_path
from models import MODELS, build_model

CHALLENGE_MODEL_TYPE = "deeplabv3plus_mobilenet"
CHALLENGE_IMAGE_SIZE = 512
LISTED = 20  # misfits that an error names; another network differs in hundreds


def save(path, content):
    """torch.save, atomically. Raises InputError where the file cannot be written."""
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how torch tells of a full disk
            raise InputError(f"{path}: cannot be written ({str(error).splitlines()[0]})") from None


def describe(model_type, num_classes, in_channels, state_dict):
    """Return what a checkpoint file holds at least: the weights and what rebuilds their model."""
    return {
        "model_type": model_type,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "state_dict": state_dict,
    }


def unpickle(path):
    """torch.load of tensors and plain containers alone, on the CPU; a file that would run code is refused.

    Raises InputError for a file that is missing, refused or damaged.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint; train one with main_deeplab.py or give the path of another")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a refusal is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: refused, holds more than weights or is not a checkpoint at all") from None
    except Exception as error:  # damaged files make torch.load raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint, perhaps truncated ({reason})") from None


def read_state_dict(path):
    """Return the weights alone, of a file of `save` or of a bare state_dict of any network."""
    content = unpickle(path)
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else content
    if not is_state_dict(state_dict):
        raise InputError(f"{path}: holds neither a checkpoint of this project nor a state_dict")
    return state_dict


def read(path):
    """Read a file of `save`, or a bare state_dict of the challenge's network: the dict that `describe` makes, and more.

    Raises InputError as `unpickle` does, and for what describes no model of this project.
    """
    content = unpickle(path)
    if is_state_dict(content):
        content = describe_bare(path, without_module_prefix(content))
    fields = {"model_type": str, "num_classes": int, "in_channels": int, "state_dict": dict}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in fields.items()):
        raise InputError(f"{path}: holds neither a checkpoint of this project nor a state_dict")
    if not is_state_dict(content["state_dict"]):
        raise InputError(f"{path}: its state_dict holds something else than tensors")
    if content["model_type"] not in MODELS:
        raise InputError(f"{path}: holds model {content['model_type']!r}; known are {', '.join(MODELS)}")
    if content["in_channels"] != 3 or not 2 <= content["num_classes"] <= NUM_CLASSES:
        raise InputError(
            f"{path}: takes {content['in_channels']} channels and gives {content['num_classes']} classes; "
            f"a network here takes 3 and gives 2 to {NUM_CLASSES}"
        )
    return content


def is_state_dict(content):
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
    )


def describe_bare(path, state_dict):
    """Describe a bare state_dict, which must be of the challenge's network."""
    stem = state_dict.get("backbone.low_level_features.0.0.weight")
    head = state_dict.get("classifier.classifier.3.bias")
    if stem is None or head is None or stem.dim() != 4 or head.dim() != 1:
        raise InputError(f"{path}: a bare state_dict, but not of {CHALLENGE_MODEL_TYPE}")
    return describe(CHALLENGE_MODEL_TYPE, len(head), stem.shape[1], state_dict)


def without_module_prefix(state_dict):
    """Undo the renaming by DataParallel and DistributedDataParallel."""
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def load_weights(model, state_dict, path, strict=True):
    """Copy weights into a model.

    Raises InputError that lists what differs; without `strict` copies what fits, and prints what was left out.
    """
    state_dict, own = without_module_prefix(state_dict), model.state_dict()
    misfits = [f"{key} is missing" for key in own if key not in state_dict]
    misfits += [f"{key} is not in the model" for key in state_dict if key not in own]
    fitting = {key: value for key, value in state_dict.items() if key in own and value.shape == own[key].shape}
    misfits += [
        f"{key} is {list(value.shape)} here, {list(own[key].shape)} in the model"
        for key, value in state_dict.items()
        if key in own and key not in fitting
    ]
    if misfits and strict:
        listed = "; ".join(misfits[:LISTED]) + (f"; and {len(misfits) - LISTED} more" if misfits[LISTED:] else "")
        raise InputError(f"{path}: does not fit the model (--load_not_strict loads what does): {listed}")
    if not fitting:
        raise InputError(f"{path}: nothing in it fits the model")
    if misfits and distributed.rank() == 0:
        print(f"{path}: loaded {len(fitting)} of {len(own)} tensors; left out:")
        print("\n".join(f"  {misfit}" for misfit in misfits))
    model.load_state_dict(fitting, strict=False)


def load_model(path, device="cpu"):
    """Rebuild the model of a checkpoint or bare state_dict, in eval mode, with float32 weights.

    Its attribute `image_size` is the side, in px, that it was trained at.

    Raises InputError as `read` and `load_weights` do.
    """
    content = read(path)
    model = build_model(content["model_type"], num_classes=content["num_classes"], in_channels=content["in_channels"])
    load_weights(model, content["state_dict"], path)
    model.image_size = content.get("image_size", CHALLENGE_IMAGE_SIZE)
    return model.to(device).eval()
