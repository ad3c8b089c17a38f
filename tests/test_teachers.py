"""What several networks teach, and that a training learns it."""

import pytest
import torch

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX, LAPA
from faceparse.errors import InputError
from faceparse.inference import checkpoints
from faceparse.training.teachers import Teachers
from loss import loss_at_epoch
from main_deeplab import build_training, training_loss
from options import train_parser

CPU = torch.device("cpu")


def build(*flags):
    return build_training(train_parser("Train.").parse_args(["--image_size", "64", *map(str, flags)]), CPU, CELEBAMASK)


@pytest.fixture
def paths(tmp_path):
    for seed in range(2):
        content = build("--seed", seed).content(1)
        content["state_dict"]["classifier.bias"].normal_()  # else the probabilities would be nearly uniform
        checkpoints.save(tmp_path / f"{seed}.pt", content)
    return [tmp_path / "0.pt", tmp_path / "1.pt"]


def test_teachers_give_the_mean_of_their_probabilities(paths):
    photos = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = [checkpoints.load_model(path)(photos).softmax(dim=1) for path in paths]
    found = Teachers(paths, CELEBAMASK, 64, CPU).probabilities(photos)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, atol=1e-4, rtol=0)
    assert not found.requires_grad and (each[0] - each[1]).abs().max() > 0.1


def test_a_teacher_of_another_size_or_of_other_classes_is_refused(paths):
    with pytest.raises(InputError, match=r"0\.pt: needs --image_size 64, at which it was trained"):
        Teachers(paths, CELEBAMASK, 256, CPU)
    with pytest.raises(InputError, match=r"0\.pt.*classes"):
        Teachers(paths, LAPA, 64, CPU)


def test_a_student_comes_nearer_to_its_teacher_without_any_mask(paths):
    state = build("--load_model_path", paths[0], "--teacher", paths[1], "--teacher_weight", 1)
    photos, ignored = torch.rand(2, 3, 64, 64), torch.full((2, 64, 64), IGNORE_INDEX)
    loss_function, losses = loss_at_epoch(state.args, 1), []
    for _ in range(12):
        loss = training_loss(state, state.model, photos, ignored, loss_function)
        state.precision.step(loss, state.optimizer)
        losses.append(loss.item())
    taught = state.teachers.probabilities(photos)
    lowest = -(taught * taught.log()).sum(dim=1).mean().item()  # the cross-entropy of the teacher with itself
    assert losses[-1] - lowest < 0.8 * (losses[0] - lowest)
