"""The ONNX file computes what PyTorch does. Skipped where the optional packages are missing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import export_onnx
import validate
from faceparse.data.classes import CELEBAMASK
from faceparse.errors import InputError
from faceparse.inference import checkpoints
from faceparse.inference.networks import OnnxNetwork, load_network
from faceparse.inference.upsampling import label_map
from models import build_model
from options import export_parser, validate_parser

ROOT = Path(__file__).parent.parent
SLIM = "deeplabv3plus_mobilenet_slim"


def test_missing_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no network")
    for name in ("a.onnx", "b.onnx"):
        with pytest.raises(InputError, match=name):
            OnnxNetwork(tmp_path / name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    checkpoints.save(folder / "a.pt", checkpoints.describe(SLIM, CELEBAMASK, build_model(SLIM).state_dict()))
    flags = ["--checkpoint", str(folder / "a.pt"), "--output", str(folder / "a.onnx")]
    export_onnx.main(export_parser("Export.").parse_args(flags))
    return folder


def test_a_file_of_another_kind_is_never_replaced(tmp_path):
    (tmp_path / "best.pt").write_text("a checkpoint")
    with pytest.raises(InputError, match=r"best\.pt: must end in \.onnx"):
        export_onnx.main(export_parser("Export.").parse_args(["--output", str(tmp_path / "best.pt")]))
    assert (tmp_path / "best.pt").read_text() == "a checkpoint"


@pytest.mark.slow
def test_logits_of_any_batch_and_size_are_pytorchs(exported):
    network, onnx_network = load_network(exported / "a.pt"), load_network(exported / "a.onnx")
    for shape in ((1, 3, 32, 32), (3, 3, 51, 70)):
        photos = np.random.default_rng(0).random(shape, dtype=np.float32)
        expected = network.coarse_logits(photos)
        np.testing.assert_allclose(onnx_network.coarse_logits(photos), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_classes_are_in_the_metadata(exported):
    network = OnnxNetwork(exported / "a.onnx")
    metadata = network.session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"])["names"] == list(CELEBAMASK.names)
    assert network.class_set == CELEBAMASK


@pytest.mark.slow
def test_validate_takes_the_file_in_place_of_a_checkpoint(exported, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "me.png")
    for name in ("a.pt", "a.onnx"):
        flags = ["--checkpoint", str(exported / name), "--image_dir", str(tmp_path / "me.png"), "--workers", "0"]
        validate.main(validate_parser("V.").parse_args([*flags, "--output_dir", str(tmp_path / name)]))
    labels = [np.asarray(Image.open(tmp_path / name / "me.png")) for name in ("a.pt", "a.onnx")]
    assert labels[0].shape == (60, 80) and (labels[0] != labels[1]).mean() < 1e-3


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        photo = np.random.default_rng(index).integers(0, 256, (64, 48, 3), dtype=np.uint8)
        Image.fromarray(photo).resize((96, 96)).save(tmp_path / f"photos/{index}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_int8_file_is_smaller_and_labels_as_float32_does_or_is_not_written(exported, photos, tmp_path, monkeypatch):
    flags = ["--checkpoint", str(exported / "a.pt"), "--output", str(tmp_path / "8.onnx"), "--int8", str(photos)]
    args = export_parser("Export.").parse_args(flags)
    # With random weights many labels depend on the last digit.
    monkeypatch.setattr(export_onnx, "LABELS_HOLD", 0.5)
    export_onnx.main(args)
    assert (tmp_path / "8.onnx").stat().st_size < 0.5 * (exported / "a.onnx").stat().st_size
    assert OnnxNetwork(tmp_path / "8.onnx").image_size == 512
    written = (tmp_path / "8.onnx").read_bytes()
    monkeypatch.setattr(export_onnx, "LABELS_HOLD", -1)
    with pytest.raises(
        InputError, match=r"8.onnx: not written, int8 changes \d+.\d\d% of the labels of 2 other photographs"
    ):
        export_onnx.main(args)
    assert (tmp_path / "8.onnx").read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["8.onnx", "photos"]


@pytest.mark.slow
def test_labels_are_those_of_our_own_loop(exported, tmp_path, monkeypatch):
    """Of any size and batch; the sizes are such that the decoder's stride does not divide them."""
    import onnxruntime

    flags = ["--checkpoint", str(exported / "a.pt"), "--output", str(tmp_path / "labels.onnx"), "--labels"]
    export_onnx.main(export_parser("Export.").parse_args(flags))
    session = onnxruntime.InferenceSession(str(tmp_path / "labels.onnx"), providers=["CPUExecutionProvider"])
    network = load_network(exported / "a.pt")
    for shape in ((1, 3, 64, 64), (2, 3, 51, 70)):
        photos = np.random.default_rng(0).random(shape, dtype=np.float32)
        (labels,) = session.run(["labels"], {"photos": photos})
        assert labels.dtype == np.uint8 and labels.shape == (shape[0], *shape[2:])
        expected = [label_map(logits, shape[2:]) for logits in network.coarse_logits(photos)]
        assert (labels != np.stack(expected)).mean() < 1e-3
    with pytest.raises(InputError, match="gives label maps, and the scripts need logits"):
        load_network(tmp_path / "labels.onnx")
    monkeypatch.setattr(export_onnx, "LABELS_EXACT", -1)
    with pytest.raises(InputError, match=r"labels.onnx: not written, 0.\d\d% of its labels are not those of PyTorch"):
        export_onnx.main(export_parser("Export.").parse_args(flags))


@pytest.mark.slow
def test_validate_runs_an_onnx_file_without_torch(exported, tmp_path):
    """A laptop or a web service needs NumPy, Pillow, tqdm and ONNX Runtime alone."""
    Image.new("RGB", (60, 80), (200, 150, 120)).save(tmp_path / "me.png")
    code = "import sys; sys.modules |= dict.fromkeys(['torch', 'torchvision', 'cv2', 'matplotlib']); import validate; "
    code += "validate.main(validate.validate_parser('V.').parse_args(sys.argv[1:]))"
    flags = ["--image_dir", tmp_path / "me.png", "--output_dir", tmp_path / "out", "--save_visualizations"]

    def run(*more):
        command = [sys.executable, "-c", code, *flags, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run("--checkpoint", exported / "a.onnx").returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["me.png", "overlays"]
    assert "a.pt: needs PyTorch" in run("--checkpoint", exported / "a.pt").stderr
    assert "--tta needs PyTorch" in run("--checkpoint", exported / "a.onnx", "--tta").stderr
