"""The ONNX file computes what PyTorch does. Skipped if the optional packages are missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SLIM, THEIR_IDS, call
from PIL import Image

import export_onnx
import validate
from faceparse.data.classes import LAPA
from faceparse.errors import InputError
from faceparse.inference import checkpoints
from faceparse.inference.networks import OnnxNetwork, load_network
from models import build_model

ROOT = Path(__file__).parent.parent


def random_photo(seed=0, size=(80, 60)):
    photo = np.random.default_rng(seed).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    return Image.fromarray(photo).resize(size)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a checkpoint of LaPa's classes, a.pt, and its network as a.onnx."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    model = build_model(SLIM, num_classes=len(LAPA))
    checkpoints.save(folder / "a.pt", checkpoints.describe(SLIM, LAPA, model.state_dict()))
    call(export_onnx, "--checkpoint", folder / "a.pt", "--output", folder / "a.onnx")
    return folder


def test_missing_and_damaged_files_are_refused_and_no_other_kind_is_replaced(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no network")
    for name in ("a.onnx", "b.onnx"):
        with pytest.raises(InputError, match=name):
            OnnxNetwork(tmp_path / name)
    (tmp_path / "best.pt").write_text("a checkpoint")
    with pytest.raises(InputError, match=r"best\.pt: must end in \.onnx"):
        call(export_onnx, "--output", tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_text() == "a checkpoint"


@pytest.mark.slow
def test_logits_of_any_batch_and_size_are_pytorchs(exported):
    network, onnx_network = load_network(exported / "a.pt"), load_network(exported / "a.onnx")
    for shape in ((1, 3, 32, 32), (3, 3, 51, 70)):
        photos = np.random.default_rng(0).random(shape, dtype=np.float32)
        expected = network.coarse_logits(photos)
        np.testing.assert_allclose(onnx_network.coarse_logits(photos), expected, rtol=1e-3, atol=1e-3)
    assert (onnx_network.class_set, onnx_network.image_size) == (LAPA, 512)


@pytest.mark.slow
def test_int8_file_is_smaller_and_labels_as_float32_does_or_is_not_written(exported, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        random_photo(index, (96, 96)).save(tmp_path / f"photos/{index}.png")
    flags = ("--checkpoint", exported / "a.pt", "--output", tmp_path / "8.onnx", "--int8", tmp_path / "photos")
    monkeypatch.setattr(export_onnx, "export", lambda module, path, *_: shutil.copy(exported / "a.onnx", path))
    monkeypatch.setattr(export_onnx, "MAX_CHANGED_BY_INT8", 0.5)  # random weights: many depend on the last digit
    call(export_onnx, *flags)
    assert (tmp_path / "8.onnx").stat().st_size < 0.5 * (exported / "a.onnx").stat().st_size
    assert OnnxNetwork(tmp_path / "8.onnx").image_size == 512
    written = (tmp_path / "8.onnx").read_bytes()
    monkeypatch.setattr(export_onnx, "MAX_CHANGED_BY_INT8", -1)
    with pytest.raises(InputError, match=r"8.onnx: not written, \d+.\d\d% of the labels of 2 other photographs"):
        call(export_onnx, *flags)
    assert (tmp_path / "8.onnx").read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["8.onnx", "photos"]


@pytest.mark.slow
def test_validate_runs_an_onnx_file_without_torch(exported, tmp_path):
    """A laptop or a web service needs NumPy, Pillow, tqdm and ONNX Runtime alone; FaceParser OpenCV too."""
    random_photo().save(tmp_path / "me.png")
    flags = ["--image_dir", tmp_path / "me.png", "--output_dir", tmp_path / "out", "--save_visualizations"]

    def run(code, *arguments, without):
        code = f"import sys; sys.modules |= dict.fromkeys({without}); {code}"
        return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)

    def run_validate(*more):
        code = "import validate; validate.main(validate.validate_parser('V.').parse_args(sys.argv[1:]))"
        return run(code, *flags, *more, without=["torch", "torchvision", "cv2", "matplotlib"])

    assert run_validate("--checkpoint", exported / "a.onnx").returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["me.png", "overlays"]
    assert "a.pt: a .pt needs the repository" in run_validate("--checkpoint", exported / "a.pt").stderr
    assert "--tta needs PyTorch" in run_validate("--checkpoint", exported / "a.onnx", "--tta").stderr
    code = "from faceparse import FaceParser; import faceparse.faces.video"
    code += "; print(FaceParser(sys.argv[1])(sys.argv[2], whole=True).labels.shape)"
    done = run(code, exported / "a.onnx", tmp_path / "me.png", without=["torch", "torchvision", "matplotlib"])
    assert done.stdout == "(60, 80)\n", done.stderr


# Core ML, TensorFlow Lite and OpenVINO have them all.
SIMPLE = {"Add", "Clip", "Concat", "Conv", "Div", "Expand", "ReduceMean", "Relu", "Resize", "Sub"}


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A file of --fixed, an input and what ONNX Runtime makes of it."""
    path = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    pytest.importorskip("onnxscript")
    import onnxruntime

    call(export_onnx, "--fixed", "--image_size", 100, "--output", path)
    photo = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    return path, photo, onnxruntime.InferenceSession(str(path)).run(["logits"], {"photos": photo})[0]


@pytest.mark.slow
def test_a_fixed_file_holds_nothing_that_a_converter_lacks(fixed):
    import onnx

    network = onnx.load(fixed[0])
    onnx.checker.check_model(network, full_check=True)
    assert [(each.domain, each.version) for each in network.opset_import] == [("", 17)]
    assert {node.op_type for node in network.graph.node} <= SIMPLE
    for value in (*network.graph.input, *network.graph.output):
        assert all(side.dim_value > 0 for side in value.type.tensor_type.shape.dim)
    assert {each.key for each in network.metadata_props} == {"image_size", "classes"}
    with pytest.raises(InputError, match=r"fixed.onnx: takes photographs of one size .* without --fixed"):
        load_network(fixed[0])


@pytest.mark.slow
def test_opencv_runs_a_fixed_file(fixed):
    cv2 = pytest.importorskip("cv2")
    path, photo, expected = fixed
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(photo)
    np.testing.assert_allclose(network.forward(), expected, atol=1e-3)


@pytest.fixture(scope="module")
def bisenet(tmp_path_factory):
    """The shipped network in that layout."""
    path = tmp_path_factory.mktemp("bisenet") / "resnet18.onnx"
    pytest.importorskip("onnxscript")
    call(export_onnx, "--layout", "bisenet", "--output", path)
    return path


@pytest.mark.slow
def test_a_client_of_the_other_network_gets_our_labels_in_its_order(bisenet, tmp_path, monkeypatch):
    """uniface's class, unchanged but for where it finds its weights; without uniface what its documentation says."""
    portrait = Image.open(ROOT / "assets/astronaut.jpg").resize((512, 512), Image.Resampling.BICUBIC)
    portrait.save(tmp_path / "portrait.png")
    call(validate, "--image_dir", tmp_path / "portrait.png", "--output_dir", tmp_path / "ours", "--image_size", 512)
    expected = np.array(THEIR_IDS)[np.array(Image.open(tmp_path / "ours/portrait.png"))]
    photo = np.array(portrait.convert("RGB"))
    try:
        from uniface.parsing import BiSeNet
        from uniface.parsing import bisenet as module
    except ImportError:
        import onnxruntime

        normalised = (photo / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        session = onnxruntime.InferenceSession(str(bisenet))
        logits = session.run(["output"], {"input": normalised.transpose(2, 0, 1)[None].astype(np.float32)})[0]
        labels = logits[0].argmax(axis=0)
    else:
        monkeypatch.setattr(module, "verify_model_weights", lambda name: str(bisenet))
        labels = BiSeNet(providers=["CPUExecutionProvider"]).parse(photo[..., ::-1])
    assert (labels == expected).mean() > 0.995
