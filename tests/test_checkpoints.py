"""Checkpoints: what is saved comes back, what does not fit is reported, no file runs code or ends in a traceback."""

from dataclasses import replace

import pytest
import torch
from helpers import CHALLENGE, SLIM, call

from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.errors import InputError
from faceparse.inference import checkpoints
from models import MODELS, build_model
from tools import average_checkpoints

MISSING, RESHAPED = "backbone.low_level_features.0.1.bias", "classifier.project.0.weight"


def used(model_type, **options):
    """A model whose BatchNorm statistics are no longer those of a fresh one, in eval mode."""
    torch.manual_seed(0)
    model = build_model(model_type, **options)
    model(torch.rand(2, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def challenge_model():
    """The challenge's network; no test changes it."""
    return used(CHALLENGE)


def logits(model):
    with torch.inference_mode():
        return model(torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(1)))


def spoiled(model):
    """Return the model's weights with one tensor missing, one of another shape and one too many."""
    state_dict = {key: value.clone() for key, value in model.state_dict().items() if key != MISSING}
    return state_dict | {RESHAPED: torch.zeros(48, 13, 1, 1), "extra.weight": torch.zeros(2)}


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("class_set", [CELEBAMASK, LAPA], ids=len)
def test_round_trip_rebuilds_each_model(tmp_path, model_type, class_set):
    model = used(model_type, num_classes=len(class_set))
    content = checkpoints.describe(model_type, class_set, model.state_dict()) | {"epoch": 7}
    checkpoints.save(tmp_path / "new/a.pt", content)
    torch.manual_seed(99)  # a model that kept its fresh weights would differ
    loaded = checkpoints.load_model(tmp_path / "new/a.pt")
    assert type(loaded) is MODELS[model_type] and not any(module.training for module in loaded.modules())
    assert loaded.class_set == class_set and logits(loaded).shape[1] == len(class_set)
    assert torch.equal(logits(loaded), logits(model))
    read = checkpoints.read_checkpoint(tmp_path / "new/a.pt")
    assert read.keys() == content.keys() | {"class_set"} and read["epoch"] == 7


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_bare_state_dict_is_the_challenge_s_and_wrappers_may_have_renamed_it(tmp_path, challenge_model, prefix):
    torch.save({prefix + key: value for key, value in challenge_model.state_dict().items()}, tmp_path / "a.pt")
    loaded = checkpoints.load_model(tmp_path / "a.pt")
    assert torch.equal(logits(loaded), logits(challenge_model)) and loaded.image_size == 512


def test_bare_state_dict_of_other_classes_needs_their_names(tmp_path):
    model = used(CHALLENGE, num_classes=11)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match="does not say what its 11 classes are; name them by --classes"):
        checkpoints.read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(InputError, match="has 11 classes, but the class set has 19"):
        checkpoints.read_checkpoint(tmp_path / "a.pt", CELEBAMASK)
    content = checkpoints.read_checkpoint(tmp_path / "a.pt", LAPA)
    assert (content["model_type"], content["num_classes"], content["class_set"]) == (CHALLENGE, 11, LAPA)
    assert torch.equal(logits(checkpoints.load_model(tmp_path / "a.pt", class_set=LAPA)), logits(model))


def test_strict_loading_lists_all_that_does_not_fit_and_the_other_loads_what_does(challenge_model):
    misfits = [
        f"{MISSING} is missing here, [32] in the model",
        f"{RESHAPED} is [48, 13, 1, 1] here, [48, 12, 1, 1] in the model",
        "extra.weight is [2] here, missing in the model",
    ]
    model = build_model(CHALLENGE)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        checkpoints.load_weights(model, spoiled(challenge_model), "a.pt")
    message = "a.pt: does not fit the model (--load_not_strict loads what does): "
    assert str(caught.value) == message + "; ".join(misfits)
    lines = checkpoints.load_weights(model, spoiled(challenge_model), "a.pt", strict=False)
    assert lines == ["a.pt: loaded 282 of 284 tensors; left out:", *(f"  {misfit}" for misfit in misfits)]
    for key, value in model.state_dict().items():
        source = fresh if key in (MISSING, RESHAPED) else challenge_model.state_dict()
        assert torch.equal(value, source[key]), key
    assert checkpoints.load_weights(model, challenge_model.state_dict(), "a.pt", strict=False) == []
    with pytest.raises(InputError, match=r"does not fit the model .*; and 620 more"):
        checkpoints.load_weights(build_model(SLIM), challenge_model.state_dict(), "a.pt")


def test_a_start_needs_the_same_classes_unless_asked_for_what_fits(tmp_path, challenge_model):
    """Classes of the same number and other names fit by shape, but mean something else."""
    renamed = replace(CELEBAMASK, names=("backdrop", *CELEBAMASK.names[1:]))
    checkpoints.save(tmp_path / "a.pt", checkpoints.describe(CHALLENGE, renamed, challenge_model.state_dict()))
    model = build_model(CHALLENGE)
    model.class_set = CELEBAMASK
    with pytest.raises(InputError, match="its 19 classes are not those of --classes"):
        checkpoints.load_start(model, tmp_path / "a.pt", strict=True)
    assert not torch.equal(logits(model.eval()), logits(challenge_model))
    checkpoints.load_start(model, tmp_path / "a.pt", strict=False)
    assert torch.equal(logits(model.eval()), logits(challenge_model))


def test_the_mean_of_two_checkpoints(challenge_model, tmp_path, refusal):
    for name, factor in (("a", 1), ("b", 4)):
        weights = {key: factor * each for key, each in challenge_model.state_dict().items()}
        content = checkpoints.describe(CHALLENGE, CELEBAMASK, weights) | {"epoch": factor}
        checkpoints.save(tmp_path / f"{name}.pt", content)
    paths = tmp_path / "a.pt", tmp_path / "b.pt", "--output", tmp_path / "mean.pt"
    call(average_checkpoints, *paths)
    mean = checkpoints.read_checkpoint(tmp_path / "mean.pt")
    assert mean["epoch"] == 4
    for key, each in challenge_model.state_dict().items():
        torch.testing.assert_close(mean["state_dict"][key], (2.5 * each).to(each.dtype))
    assert "mean.pt: exists already" in refusal(average_checkpoints, *paths)
    checkpoints.save(tmp_path / "c.pt", checkpoints.describe(SLIM, CELEBAMASK, build_model(SLIM).state_dict()))
    others = tmp_path / "c.pt", tmp_path / "b.pt", "--output", tmp_path / "other.pt"
    assert "c.pt: its weights are not those of" in refusal(average_checkpoints, *others)
