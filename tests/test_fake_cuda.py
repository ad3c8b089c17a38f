"""The lines that run on CUDA, without a GPU: PyTorch's fake tensors have shape, type and device, but no values.

They show if tensors of two devices meet, if types or shapes do not fit, and if the host would wait for a value from the
GPU, which fake tensors do not have. All else is for tests/test_cuda.py, on a GPU.
"""

from shlex import split

import pytest
import torch
from helpers import SLIM, SMALL, parse
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

import main_deeplab
from dataset_utils import TrainingSet, find_pairs
from faceparse.data.augmentation import constant
from faceparse.data.classes import CELEBAMASK
from faceparse.training import distributed, optimisation
from faceparse.training.optimisation import AveragedModel, Precision, build_optimizer
from faceparse.training.state import TrainingState
from models import MODELS, build_model

CUDA = torch.device("cuda", 0)
FLAGS = (*SMALL, *split("--batch_size 4 --cache ram --focal_weight 0.5"))


def with_values(function):
    """Let a function that needs values, all of the CPU, compute with real tensors."""

    def wrapped(*args, **kwargs):
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return wrapped


class FakeGenerator:
    """Stands in for a generator on CUDA, which cannot be made without a GPU; those of the CPU are real."""

    def __new__(cls, device="cpu"):
        return REAL_GENERATOR(device) if torch.device(device).type == "cpu" else object.__new__(cls)

    def manual_seed(self, seed):
        return None  # normal_ takes None as well


REAL_GENERATOR = torch.Generator


@pytest.fixture(params=["bf16", "fp16"])
def fake_cuda(request, monkeypatch):
    """Computes with fake tensors; what asks the driver gets the answer of a GPU with or without bf16."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: request.param == "bf16")
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    for name in ("reset_peak_memory_stats", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(torch, "Generator", FakeGenerator)
    monkeypatch.setattr(optimisation, "deepcopy", rebuild)  # would copy the storages, which fakes do not have
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: 7)  # only a seed is drawn by it
    monkeypatch.setattr(TrainingSet, "order", with_values(TrainingSet.order))
    monkeypatch.setattr(TrainingSet, "steps", with_values(TrainingSet.steps))
    constant.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        try:
            torch.empty(1, 3, 4, 4, device=CUDA).uniform_().contiguous(memory_format=torch.channels_last)
        except RuntimeError as error:
            pytest.skip(f"this build of PyTorch has no fake CUDA tensors ({error})")
        yield request.param
    constant.cache_clear()


def fill_gradients(model):
    """Return what stands in for Tensor.backward: it gives the parameters gradients, of the loss's device."""

    def backward(loss):
        assert loss.device == CUDA and loss.dtype == torch.float32 and loss.shape == ()
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter, device=loss.device)

    return backward


def rebuild(model):
    with torch.device(CUDA):
        return type(model)(num_classes=19)


def training(args):
    """Return a TrainingState on fake CUDA, as `build_training` does, whose `Module.to` fakes refuse."""
    with torch.device(CUDA):
        model = build_model(args.model_type, num_classes=19)
    model.class_set, model.image_size = CELEBAMASK, args.image_size
    return TrainingState(args, model, AveragedModel(model, args.ema), build_optimizer(args, model), Precision(CUDA))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fake_cuda", "model_type"), [("fp16", SLIM), *(("bf16", name) for name in MODELS)], indirect=["fake_cuda"]
)
def test_an_epoch_of_training(fake_cuda, sample_dataset, monkeypatch, model_type):
    args = parse(main_deeplab, *FLAGS, "--model_type", model_type)
    state = training(args)
    model = state.model
    assert state.precision.scaler.is_enabled() == (fake_cuda == "fp16")
    with unset_fake_temporarily():
        pairs = find_pairs(sample_dataset, "train")
        training_set = main_deeplab.read_training_set(args, pairs, CELEBAMASK, torch.device("cpu"))
    training_set.device = CUDA
    monkeypatch.setattr(torch.Tensor, "backward", fill_gradients(model))
    main_deeplab.try_largest_step(state, model, len(pairs), CUDA)

    class Sum(Exception):
        """Raised when the epoch reads its loss, the one value it takes from the GPU."""

    with pytest.MonkeyPatch.context() as patch:

        def read(total):
            assert total.device == CUDA and total.dtype == torch.float32
            raise Sum

        patch.setattr(distributed, "sum_over_processes", read)
        with pytest.raises(Sum):
            main_deeplab.train_one_epoch(state, 1, model, training_set, CUDA)
    for module in (model, state.evaluated):
        for tensor in module.state_dict().values():
            assert isinstance(tensor, FakeTensor) and tensor.device == CUDA
            assert tensor.dtype in (torch.float32, torch.int64)
    assert len(state.optimizer.state) == len(list(model.parameters()))
    for parameter, moments in state.optimizer.state.items():
        assert parameter.grad.dtype == torch.float32
        assert moments["exp_avg"].device == CUDA and moments["exp_avg"].shape == parameter.shape
