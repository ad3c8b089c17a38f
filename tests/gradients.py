"""Print how far a training step is from one in float64: `python tests/gradients.py DEVICE SIZE [train flags]`.

test_gradients.py calls `compare` on the CPU; test_cuda.py runs this on a GPU, in a process of its own.
"""

import copy
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from helpers import SLIM_WEIGHTS, parse
from torch.nn import functional as F

import main_deeplab
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import read_photo, resize
from faceparse.training.optimisation import Precision, build_optimizer
from faceparse.training.state import TrainingState
from loss import DICE_SMOOTH
from main_deeplab import build_training, train_one_epoch

# The challenge's losses, which are all that there are; AdamW's decay would be part of the step.
FLAGS = "--focal_weight 0.1 --dice_weight 0.6 --dice_all_classes --optimizer adam --weight_decay 1e-5 --augment none"
TOLERANCES = {64: 0.01, 512: 0.06}  # by size; seen: 0.3 % and 2.5 %, because many more numbers are summed
PORTRAIT = Path(__file__).parents[1] / "assets/astronaut.jpg"


def batch(model, size):
    """Return the portrait and a darker crop of it, uint8 [2, 3, S, S], and the model's labels, somewhat moved."""
    photo = read_photo(PORTRAIT)
    crop = (photo[photo.shape[0] // 4 :, photo.shape[1] // 4 :] * 0.7).astype("uint8")
    photos = torch.stack([torch.from_numpy(resize(each, size, size)).permute(2, 0, 1) for each in (photo, crop)])
    with torch.no_grad():
        masks = model.eval()(photos.float() / 255).argmax(dim=1).byte()
    masks = masks.roll((size // 32, size // 32), dims=(1, 2))
    masks[:, : size // 16] = 255
    return photos, masks


def reference_gradients(model, photos, masks):
    """Return the gradients in float64 of 0.4 * (0.1 focal + 0.9 cross-entropy) + 0.6 Dice, each from its formula."""
    model = copy.deepcopy(model).double().train()
    logits = F.interpolate(model.coarse_logits(photos.double() / 255), size=photos.shape[2:], mode="bilinear")
    masks, p = masks.long(), logits.softmax(dim=1)
    valid = masks != 255
    cross_entropy = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")[valid]
    pixel = (0.1 * (1 - (-cross_entropy).exp()) ** 2 * cross_entropy + 0.9 * cross_entropy).mean()
    one_hot = F.one_hot(masks.where(valid, 0), logits.shape[1]).permute(0, 3, 1, 2) * valid[:, None]
    p = p * valid[:, None]
    dice = (2 * (p * one_hot).sum((0, 2, 3)) + DICE_SMOOTH) / ((p + one_hot).sum((0, 2, 3)) + DICE_SMOOTH)
    (0.4 * pixel + 0.6 * (1 - dice.mean())).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def compare(device, size, flags=()):
    """Train one step of epoch 21 with all losses; return two dicts, by parameter.

    The first has the relative error of its gradient, |g - g64| / |g64|, the second how far it went against the sign of
    the gradient, as a share of the learning rate: Adam's first step is 1, and rounding turns few signs.
    """
    args = parse(main_deeplab, "--load_model_path", SLIM_WEIGHTS, *FLAGS.split(), *flags)
    model = build_training(args, torch.device("cpu"), CELEBAMASK).model
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # its random numbers are others on each device
    photos, masks = batch(model, size)
    expected = reference_gradients(model, photos, masks)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    device = torch.device(device)
    model = model.to(device)
    training_set = SimpleNamespace(
        steps=lambda batch_size: 1, batches=lambda *_: [(photos.to(device), masks.to(device))]
    )
    state = TrainingState(args, model, None, build_optimizer(args, model), Precision(device, args.float32))
    # The usual first scale of 65,536 is about as much as fp16 holds of the largest gradient, which is nearly 1.
    state.precision.scaler = torch.amp.GradScaler(
        device.type, init_scale=1024, enabled=state.precision.scaler.is_enabled()
    )
    train_one_epoch(state, 21, model, training_set, device)
    errors, steps = {}, {}
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, parameter in model.named_parameters():
        if expected[name].norm() < 1e-8 * whole:  # 0 but for rounding: the next BatchNorm takes this bias away
            continue
        error = (parameter.grad.double().cpu() - expected[name]).norm() / expected[name].norm()
        errors[name] = error.item()
        moved = (before[name] - parameter.detach().cpu()) / state.optimizer.param_groups[0]["lr"]
        steps[name] = (moved * expected[name].sign()).mean().item()
    return errors, steps


def assert_close(errors, steps, tolerance):
    assert max(errors.values()) < tolerance, sorted(errors.items(), key=lambda item: -item[1])[:5]
    assert_steps_follow(steps, 0.9)


def assert_steps_follow(steps, least):
    """Assert that the step went against the gradient, and in Adam's length. Random ones and no step give about 0."""
    assert least < sum(steps.values()) / len(steps) and max(steps.values()) < 1.01


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False
    print(json.dumps(compare(sys.argv[1], int(sys.argv[2]), sys.argv[3:])))
