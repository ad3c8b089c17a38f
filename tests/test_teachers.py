"""What several networks teach, and that a training learns it."""

from pathlib import Path
from shlex import split

import pytest
import torch

from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX
from faceparse.errors import InputError
from faceparse.inference import checkpoints
from faceparse.training.teachers import Teachers
from loss import loss_at_epoch
from main_deeplab import build_training, training_loss
from options import train_parser

CPU = torch.device("cpu")
BEFORE = Path(__file__).parents[1] / "recipes/slim_512_more.pt"  # another network of 512 px
PATHS = [SHIPPED_CHECKPOINT, BEFORE]


def test_teachers_give_the_mean_of_their_probabilities():
    photos = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = [checkpoints.load_model(path)(photos).softmax(dim=1) for path in PATHS]
    found = Teachers(PATHS, CELEBAMASK, 512, CPU).probabilities(photos)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, atol=1e-4, rtol=0)
    assert not found.requires_grad and (each[0] - each[1]).abs().max() > 0.1


def test_a_teacher_of_another_size_or_of_other_classes_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"was trained at 512 px .* it needs --image_size 512"):
        Teachers(PATHS, CELEBAMASK, 256, CPU)
    content = checkpoints.unpickle(SHIPPED_CHECKPOINT)
    names = content["classes"]["names"][::-1]
    checkpoints.save(tmp_path / "other.pt", content | {"classes": content["classes"] | {"names": names}})
    with pytest.raises(InputError, match="has other classes"):
        Teachers([tmp_path / "other.pt"], CELEBAMASK, 512, CPU)


def test_a_student_comes_nearer_to_its_teacher_without_any_mask():
    flags = split("--image_size 512 --learning_rate 0.0005 --teacher_weight 1")
    args = train_parser("Train.").parse_args(
        [*flags, "--load_model_path", str(BEFORE), "--teacher", str(SHIPPED_CHECKPOINT)]
    )
    torch.manual_seed(0)
    state = build_training(args, CPU, CELEBAMASK)
    state.model.eval()  # so that the same photographs give the same logits but for the weights
    photos, ignored = torch.rand(2, 3, 64, 64), torch.full((2, 64, 64), IGNORE_INDEX)
    loss_function, losses = loss_at_epoch(args, 1), []
    for _ in range(12):
        loss = training_loss(state, state.model, photos, ignored, loss_function)
        state.precision.step(loss, state.optimizer)
        losses.append(loss.item())
    assert not state.teachers.networks[0].training
    taught = state.teachers.probabilities(photos)
    lowest = -(taught * taught.log()).sum(dim=1).mean().item()  # the cross-entropy of the teacher with itself
    assert losses[-1] - lowest < 0.8 * (losses[0] - lowest)
