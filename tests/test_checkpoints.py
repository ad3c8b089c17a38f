"""Checkpoints: what is saved comes back, what does not fit is told, and no file runs code or ends in a traceback."""

import io
import os
import pickle

import pytest
import torch

from faceparse import checkpoints as checkpoint
from faceparse.errors import InputError
from models import MODELS, build_model

CHALLENGE, SLIM = "deeplabv3plus_mobilenet", "deeplabv3plus_mobilenet_slim"
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


def as_bytes(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def spoiled(model):
    """The model's weights with one tensor missing, one of another shape and one too many."""
    state_dict = {key: value.clone() for key, value in model.state_dict().items() if key != MISSING}
    return state_dict | {RESHAPED: torch.zeros(48, 13, 1, 1), "extra.weight": torch.zeros(2)}


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("num_classes", [19, 5])
def test_round_trip_rebuilds_each_model(tmp_path, model_type, num_classes):
    model = used(model_type, num_classes=num_classes)
    checkpoint.save(tmp_path / "new/a.pt", checkpoint.describe(model_type, num_classes, 3, model.state_dict()))
    torch.manual_seed(99)  # a model that kept its fresh weights would differ
    loaded = checkpoint.load_model(tmp_path / "new/a.pt")
    assert type(loaded) is MODELS[model_type] and not any(module.training for module in loaded.modules())
    assert logits(loaded).shape[1] == num_classes
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_state_dict_is_the_challenge_network(tmp_path, challenge_model, prefix):
    torch.save({prefix + key: value for key, value in challenge_model.state_dict().items()}, tmp_path / "challenge.pt")
    assert torch.equal(logits(checkpoint.load_model(tmp_path / "challenge.pt")), logits(challenge_model))


def test_bare_state_dict_tells_classes(tmp_path):
    model = used(CHALLENGE, num_classes=11)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    content = checkpoint.read(tmp_path / "a.pt")
    assert (content["model_type"], content["num_classes"], content["in_channels"]) == (CHALLENGE, 11, 3)
    assert torch.equal(logits(checkpoint.load_model(tmp_path / "a.pt")), logits(model))


@pytest.mark.parametrize("shape", [{"in_channels": 4}, {"num_classes": 25}])
@pytest.mark.parametrize("bare", [True, False])
def test_network_of_other_photographs_or_classes_is_refused(tmp_path, shape, bare):
    shape = {"num_classes": 19, "in_channels": 3} | shape
    state_dict = build_model(CHALLENGE, **shape).state_dict()
    content = checkpoint.describe(CHALLENGE, shape["num_classes"], shape["in_channels"], state_dict)
    torch.save(state_dict if bare else content, tmp_path / "a.pt")
    with pytest.raises(InputError, match="takes 3 and gives 2 to 19"):
        checkpoint.load_model(tmp_path / "a.pt")


def test_module_prefix_in_a_whole_checkpoint(tmp_path, challenge_model):
    state_dict = {f"module.{key}": value for key, value in challenge_model.state_dict().items()}
    checkpoint.save(tmp_path / "a.pt", checkpoint.describe(CHALLENGE, 19, 3, state_dict))
    assert torch.equal(logits(checkpoint.load_model(tmp_path / "a.pt")), logits(challenge_model))


def test_further_content_is_read_as_it_was_saved(tmp_path, challenge_model):
    content = checkpoint.describe(CHALLENGE, 19, 3, challenge_model.state_dict()) | {"epoch": 7, "mIoU": 0.5}
    checkpoint.save(tmp_path / "a.pt", content)
    read = checkpoint.read(tmp_path / "a.pt")
    assert read.keys() == content.keys() and (read["epoch"], read["mIoU"]) == (7, 0.5)


def test_float16_weights_load_as_float32(tmp_path, challenge_model):
    half = {
        key: value.half() if value.is_floating_point() else value for key, value in challenge_model.state_dict().items()
    }
    checkpoint.save(tmp_path / "half.pt", checkpoint.describe(CHALLENGE, 19, 3, half))
    loaded = checkpoint.load_model(tmp_path / "half.pt").state_dict()
    for key, value in half.items():
        assert loaded[key].dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(loaded[key], value.to(loaded[key].dtype)), key


def test_strict_loading_lists_all_that_does_not_fit(tmp_path, challenge_model):
    checkpoint.save(tmp_path / "a.pt", checkpoint.describe(CHALLENGE, 19, 3, spoiled(challenge_model)))
    with pytest.raises(InputError) as caught:
        checkpoint.load_model(tmp_path / "a.pt")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.pt'}: ") and "--load_not_strict" in message and "\n" not in message
    assert f"{MISSING} is missing" in message
    assert "extra.weight is not in the model" in message
    assert f"{RESHAPED} is [48, 13, 1, 1] here, [48, 12, 1, 1] in the model" in message
    assert message.count(";") == 2  # three complaints, no more


def test_not_strict_loads_what_fits_and_prints_the_rest(challenge_model, capsys):
    model = build_model(CHALLENGE)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    checkpoint.load_weights(model, spoiled(challenge_model), "a.pt", strict=False)
    for key, value in model.state_dict().items():
        source = fresh if key in (MISSING, RESHAPED) else challenge_model.state_dict()
        assert torch.equal(value, source[key]), key
    printed = capsys.readouterr().out
    assert printed.startswith("a.pt: loaded 282 of 284 tensors") and printed.count("\n") == 4
    for expected in (f"{MISSING} is missing", "extra.weight is not in the model", f"{RESHAPED} is [48, 13, 1, 1] here"):
        assert expected in printed


def test_not_strict_prints_nothing_when_all_fits(challenge_model, capsys):
    checkpoint.load_weights(build_model(CHALLENGE), challenge_model.state_dict(), "a.pt", strict=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("strict", [True, False])
def test_loading_that_fits_nothing_is_an_error(challenge_model, strict):
    model = build_model(SLIM)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match="fit"):
        checkpoint.load_weights(model, challenge_model.state_dict(), "a.pt", strict)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class MakesFolder:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("hidden", [False, True], ids=["plain pickle", "inside a whole checkpoint"])
def test_file_that_would_run_code_is_refused_and_runs_none(tmp_path, challenge_model, hidden):
    folder, content = tmp_path / "made", MakesFolder(tmp_path / "made")
    if hidden:
        content = checkpoint.describe(CHALLENGE, 19, 3, challenge_model.state_dict()) | {"optimizer": content}
    (tmp_path / "a.pt").write_bytes(as_bytes(content) if hidden else pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match=r"a\.pt: refused"):
        checkpoint.load_model(tmp_path / "a.pt")
    assert not folder.exists()
    if hidden:  # the trap works: a reader that unpickles anything falls into it
        torch.load(tmp_path / "a.pt", weights_only=False)
    else:
        pickle.loads((tmp_path / "a.pt").read_bytes())
    assert folder.exists()


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(InputError, match=f"{path.name}: no such checkpoint"):
            checkpoint.load_model(path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99, 0.9999])
def test_truncated_file_is_named(tmp_path, challenge_model, kept):
    data = as_bytes(checkpoint.describe(CHALLENGE, 19, 3, challenge_model.state_dict()))
    (tmp_path / "a.pt").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"a\.pt: (not a readable|refused)"):
        checkpoint.load_model(tmp_path / "a.pt")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"# notes\n", b"<html></html>", b"best model\n"])
def test_files_of_other_kinds_are_refused(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.pt: "):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_refused(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for length in [1, 2, 3, 10, 1000] * 40:
        (tmp_path / "a.pt").write_bytes(bytes(torch.randint(256, (length,), generator=generator).tolist()))
        with pytest.raises(InputError, match=r"a\.pt: "):
            checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (checkpoint.describe("unet", 19, 3, {"weight": torch.zeros(2)}), "holds model 'unet'; known are"),
        (checkpoint.describe(["unet"], 19, 3, {"weight": torch.zeros(2)}), "neither a checkpoint"),
        ({"model_type": CHALLENGE, "state_dict": {"weight": torch.zeros(2)}}, "neither a checkpoint"),
        ({"state_dict": {}}, "neither a checkpoint"),
        ({"epoch": 3}, "neither a checkpoint"),
        ({}, "neither a checkpoint"),
        ([torch.zeros(2)], "neither a checkpoint"),
        (torch.zeros(2), "neither a checkpoint"),
        ({"fc.weight": torch.zeros(2)}, "a bare state_dict, but not of deeplabv3plus_mobilenet"),
    ],
)
def test_weights_of_something_else_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=message):
        checkpoint.load_model(tmp_path / "a.pt")


def test_bare_state_dict_of_the_slim_network_is_not_taken_for_the_challenges(tmp_path):
    torch.save(build_model(SLIM).state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match="a bare state_dict, but not of"):
        checkpoint.load_model(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("interruption", "seen"),
    # torch tells of a full disk by a RuntimeError
    [(KeyboardInterrupt, KeyboardInterrupt), (OSError, InputError), (RuntimeError("unexpected pos 64"), InputError)],
)
def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch, interruption, seen):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"weight": torch.ones(2)})

    def half(content, file):
        file.write_bytes(b"half of the n")
        raise interruption

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(seen):
        checkpoint.save(path, {"weight": torch.zeros(2)})
    assert torch.load(path)["weight"].tolist() == [1, 1] and list(tmp_path.iterdir()) == [path]
