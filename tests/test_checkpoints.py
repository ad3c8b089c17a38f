"""Checkpoints: what is saved comes back, what does not fit is reported, no file runs code or ends in a traceback."""

import errno
import io
import os
import pickle
from dataclasses import replace

import pytest
import torch

from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.errors import InputError
from faceparse.inference import checkpoints
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
    """Return the model's weights with one tensor missing, one of another shape and one too many."""
    state_dict = {key: value.clone() for key, value in model.state_dict().items() if key != MISSING}
    return state_dict | {RESHAPED: torch.zeros(48, 13, 1, 1), "extra.weight": torch.zeros(2)}


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("class_set", [CELEBAMASK, LAPA], ids=len)
def test_round_trip_rebuilds_each_model(tmp_path, model_type, class_set):
    model = used(model_type, num_classes=len(class_set))
    checkpoints.save(tmp_path / "new/a.pt", checkpoints.describe(model_type, class_set, model.state_dict()))
    torch.manual_seed(99)  # a model that kept its fresh weights would differ
    loaded = checkpoints.load_model(tmp_path / "new/a.pt")
    assert type(loaded) is MODELS[model_type] and not any(module.training for module in loaded.modules())
    assert loaded.class_set == class_set and logits(loaded).shape[1] == len(class_set)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_bare_state_dict_is_the_challenge_network(tmp_path, challenge_model, prefix):
    torch.save({prefix + key: value for key, value in challenge_model.state_dict().items()}, tmp_path / "challenge.pt")
    assert torch.equal(logits(checkpoints.load_model(tmp_path / "challenge.pt")), logits(challenge_model))


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


def test_checkpoint_of_other_classes_than_wanted_is_refused(tmp_path):
    content = checkpoints.describe(CHALLENGE, LAPA, build_model(CHALLENGE, num_classes=11).state_dict())
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match="has other classes than --classes: 11, background, skin, l_brow"):
        checkpoints.load_model(tmp_path / "a.pt", class_set=CELEBAMASK)


def test_module_prefix_in_a_whole_checkpoint(tmp_path, challenge_model):
    state_dict = {f"module.{key}": value for key, value in challenge_model.state_dict().items()}
    checkpoints.save(tmp_path / "a.pt", checkpoints.describe(CHALLENGE, CELEBAMASK, state_dict))
    assert torch.equal(logits(checkpoints.load_model(tmp_path / "a.pt")), logits(challenge_model))


def test_further_content_is_read_as_it_was_saved(tmp_path, challenge_model):
    content = checkpoints.describe(CHALLENGE, CELEBAMASK, challenge_model.state_dict()) | {"epoch": 7, "mIoU": 0.5}
    checkpoints.save(tmp_path / "a.pt", content)
    result = checkpoints.read_checkpoint(tmp_path / "a.pt")
    assert result.keys() == content.keys() | {"class_set"} and (result["epoch"], result["mIoU"]) == (7, 0.5)


def test_float16_weights_load_as_float32(tmp_path, challenge_model):
    half = {
        key: value.half() if value.is_floating_point() else value for key, value in challenge_model.state_dict().items()
    }
    checkpoints.save(tmp_path / "half.pt", checkpoints.describe(CHALLENGE, CELEBAMASK, half))
    loaded = checkpoints.load_model(tmp_path / "half.pt").state_dict()
    for key, value in half.items():
        assert loaded[key].dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(loaded[key], value.to(loaded[key].dtype)), key


def test_strict_loading_lists_all_that_does_not_fit(tmp_path, challenge_model):
    checkpoints.save(tmp_path / "a.pt", checkpoints.describe(CHALLENGE, CELEBAMASK, spoiled(challenge_model)))
    with pytest.raises(InputError) as caught:
        checkpoints.load_model(tmp_path / "a.pt")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.pt'}: ") and "--load_not_strict" in message and "\n" not in message
    assert f"{MISSING} is missing" in message
    assert "extra.weight is not in the model" in message
    assert f"{RESHAPED} is [48, 13, 1, 1] here, [48, 12, 1, 1] in the model" in message
    assert message.count(";") == 2  # there are exactly three complaints


def test_not_strict_loads_what_fits_and_prints_the_rest(challenge_model, capsys):
    model = build_model(CHALLENGE)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    checkpoints.load_weights(model, spoiled(challenge_model), "a.pt", strict=False)
    for key, value in model.state_dict().items():
        source = fresh if key in (MISSING, RESHAPED) else challenge_model.state_dict()
        assert torch.equal(value, source[key]), key
    printed = capsys.readouterr().out
    assert printed.startswith("a.pt: loaded 282 of 284 tensors") and printed.count("\n") == 4
    for expected in (f"{MISSING} is missing", "extra.weight is not in the model", f"{RESHAPED} is [48, 13, 1, 1] here"):
        assert expected in printed


def test_not_strict_prints_nothing_when_all_fits(challenge_model, capsys):
    checkpoints.load_weights(build_model(CHALLENGE), challenge_model.state_dict(), "a.pt", strict=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("strict", [True, False])
def test_loading_that_fits_nothing_is_an_error(challenge_model, strict):
    model = build_model(SLIM)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match="fit"):
        checkpoints.load_weights(model, challenge_model.state_dict(), "a.pt", strict)
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
        content = checkpoints.describe(CHALLENGE, CELEBAMASK, challenge_model.state_dict()) | {"optimizer": content}
    (tmp_path / "a.pt").write_bytes(as_bytes(content) if hidden else pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match=r"a\.pt: refused"):
        checkpoints.load_model(tmp_path / "a.pt")
    assert not folder.exists()
    if hidden:  # the trap works with a reader that unpickles anything
        torch.load(tmp_path / "a.pt", weights_only=False)
    else:
        pickle.loads((tmp_path / "a.pt").read_bytes())
    assert folder.exists()


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.pt: no such checkpoint"):
        checkpoints.load_model(tmp_path / "missing.pt")
    with pytest.raises(InputError, match=f"{tmp_path.name}: is a folder"):
        checkpoints.load_model(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99, 0.9999])
def test_truncated_file_is_named(tmp_path, challenge_model, kept):
    data = as_bytes(checkpoints.describe(CHALLENGE, CELEBAMASK, challenge_model.state_dict()))
    (tmp_path / "a.pt").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"a\.pt: (not a readable|refused)"):
        checkpoints.load_model(tmp_path / "a.pt")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"# notes\n", b"<html></html>", b"best model\n"])
def test_files_of_other_kinds_are_refused(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.pt: "):
        checkpoints.read_checkpoint(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_refused(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for length in [1, 2, 3, 10, 1000] * 40:
        (tmp_path / "a.pt").write_bytes(bytes(torch.randint(256, (length,), generator=generator).tolist()))
        with pytest.raises(InputError, match=r"a\.pt: "):
            checkpoints.read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (checkpoints.describe("unet", CELEBAMASK, {"weight": torch.zeros(2)}), "holds model 'unet'; known are"),
        (checkpoints.describe(["unet"], CELEBAMASK, {"weight": torch.zeros(2)}), "neither a checkpoint"),
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
        checkpoints.load_model(tmp_path / "a.pt")


def test_bare_state_dict_of_the_slim_network_is_not_taken_for_the_challenges(tmp_path):
    torch.save(build_model(SLIM).state_dict(), tmp_path / "a.pt")
    with pytest.raises(InputError, match="a bare state_dict, but not of"):
        checkpoints.load_model(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("interruption", "seen"),
    # torch tells of a full disk by a RuntimeError
    [
        (KeyboardInterrupt, KeyboardInterrupt),
        (OSError(errno.ENOSPC, "full"), InputError),
        (OSError("a bug"), OSError),
        (RuntimeError("unexpected pos 64"), InputError),
    ],
)
def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch, interruption, seen):
    path = tmp_path / "last.pt"
    checkpoints.save(path, {"weight": torch.ones(2)})

    def half(content, file):
        file.write_bytes(b"half of the n")
        raise interruption

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(seen):
        checkpoints.save(path, {"weight": torch.zeros(2)})
    assert torch.load(path)["weight"].tolist() == [1, 1] and list(tmp_path.iterdir()) == [path]


def test_a_start_needs_the_same_classes_unless_asked_for_what_fits(tmp_path, challenge_model):
    """Classes of the same number and other names fit by shape, but mean something else."""
    renamed = replace(CELEBAMASK, names=("backdrop", *CELEBAMASK.names[1:]))
    checkpoints.save(tmp_path / "a.pt", checkpoints.describe(CHALLENGE, renamed, challenge_model.state_dict()))
    model = build_model(CHALLENGE)
    model.class_set = CELEBAMASK
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match="its 19 classes are not those of --classes"):
        checkpoints.load_start(model, tmp_path / "a.pt", strict=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    checkpoints.load_start(model, tmp_path / "a.pt", strict=False)
    assert torch.equal(logits(model.eval()), logits(challenge_model))


def test_a_training_starts_from_a_bare_state_dict(tmp_path):
    source, model = used(SLIM), build_model(SLIM)
    model.class_set = CELEBAMASK
    torch.save(source.state_dict(), tmp_path / "bare.pt")
    checkpoints.load_start(model, tmp_path / "bare.pt", strict=True)
    assert torch.equal(logits(model.eval()), logits(source))


@pytest.mark.parametrize("damage", [{"exp_avg": torch.zeros(3, 1)}, {"exp_avg_sq": None}])
def test_an_optimiser_s_state_of_another_shape_is_refused(damage):
    """torch takes it as it is, and its fused step would read memory that is not the tensor's."""
    layer = torch.nn.Linear(2, 3, bias=False)
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    checkpoints.load_optimizer(optimizer, state, "last.pt")
    state["state"][0] |= damage
    with pytest.raises(InputError, match=r"last\.pt: its optimiser's state is damaged"):
        checkpoints.load_optimizer(torch.optim.Adam(layer.parameters(), fused=True), state, "last.pt")


def test_a_bare_state_dict_is_of_the_challenge_s_size(tmp_path, challenge_model):
    torch.save(challenge_model.state_dict(), tmp_path / "bare.pt")
    assert checkpoints.load_model(tmp_path / "bare.pt").image_size == 512
