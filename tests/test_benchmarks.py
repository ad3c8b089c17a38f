"""The plain versions that the benchmarks compare with must do the same job, or the ratio means nothing."""

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from benchmarks import cases, frontier, plain_network, plain_scores, preparation, reading, step, video
from benchmarks.__main__ import DEFAULT, Bench, differing_share, lay_out
from benchmarks.measure import run_python
from benchmarks.plain_network import mixed_loss
from dataset_utils import PairDataset, find_pairs
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import list_images, match_pairs, read_mask, write_label_map
from faceparse.inference import checkpoints
from faceparse.inference.metrics import Scores, score_folders
from faceparse.inference.prediction import load_network
from faceparse.inference.torch_network import TorchNetwork
from loss import cross_entropy, dice_loss, focal_loss
from models import build_model
from validate import write_predictions

CPU = torch.device("cpu")


def test_plain_scores_are_ours(sample_dataset, tmp_path):
    truth_dir = sample_dataset / "train/train_mask"
    for path in list_images(truth_dir).values():
        write_label_map(tmp_path / path.name, np.roll(read_mask(path), 3, axis=1))
    scores = Scores(score_folders(tmp_path, truth_dir)[0])
    pairs = list(plain_scores.read_pairs(tmp_path, truth_dir))
    np.testing.assert_allclose(plain_scores.iou_of_classes(pairs), scores.iou)
    np.testing.assert_allclose(plain_scores.f1_of_classes(pairs), scores.f1)


def test_plain_prediction_is_ours(sample_dataset, tmp_path):
    torch.manual_seed(0)
    model = build_model(DEFAULT).eval()
    photos = list_images(sample_dataset / "val/val_image")
    plain_network.predict(model, photos, tmp_path / "plain", image_size=64, batch_size=2, device=CPU)
    model.class_set, model.image_size = CELEBAMASK, 64
    write_predictions(TorchNetwork(model, CPU), photos, tmp_path / "ours", image_size=64, batch_size=2, workers=0)
    assert len(list_images(tmp_path / "plain")) == 5
    for path in list_images(tmp_path / "plain").values():
        assert np.mean(read_mask(path) != read_mask(tmp_path / "ours" / path.name)) < 1e-3


def test_plain_loss_is_ours():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 19, 8, 8, generator=generator)
    target = torch.randint(0, 19, (2, 8, 8), generator=generator)
    pixel = 0.1 * focal_loss(logits, target) + 0.9 * cross_entropy(logits, target)
    ours = 0.4 * pixel + 0.6 * dice_loss(logits, target, all_classes=True)
    assert mixed_loss(logits, target).item() == pytest.approx(ours.item(), rel=1e-5)


def test_plain_training_takes_steps(sample_dataset):
    torch.manual_seed(0)
    model = build_model(DEFAULT)
    before = model.classifier.bias.detach().clone()
    pairs = find_pairs(sample_dataset, "train")
    images_per_second, data_wait = plain_network.train(model, pairs, image_size=32, batch_size=4, device=CPU)
    assert images_per_second > 0 and 0 < data_wait < 1
    assert not torch.equal(model.classifier.bias, before)


@pytest.fixture(scope="module")
def work_dir(sample_dataset, tmp_path_factory):
    """A folder with what `benchmarks.__main__.prepare` writes, without ONNX files."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(sample_dataset, folder / "dataset")
    shutil.copytree(sample_dataset / "train/train_mask", folder / "shifted")
    torch.manual_seed(0)
    state_dict = build_model(DEFAULT).state_dict()
    content = checkpoints.describe(DEFAULT, CELEBAMASK, state_dict)
    checkpoints.save(folder / f"{DEFAULT}.pt", content | {"image_size": 64})
    lay_out(folder, 10)
    return folder


@pytest.mark.slow
def test_both_predictions_cover_the_photographs_and_agree(work_dir):
    bench = Bench(work_dir, SimpleNamespace(image_size=64))
    for measured in (bench.predict_plainly(DEFAULT), bench.validate(f"{DEFAULT}.pt")):
        assert measured["seconds"] > 0 and measured["kernel_over_user"] > 0
    assert len(list_images(work_dir / "labels/plain")) == len(list_images(work_dir / "labels/ours")) == 10
    assert differing_share(work_dir) < 1e-3
    labels = read_mask(work_dir / "labels/plain/000000.png")
    write_label_map(work_dir / "labels/ours/000000.png", (labels + 1) % 19)
    assert differing_share(work_dir) == pytest.approx(1 / 10, abs=1e-3)


@pytest.mark.parametrize("case", [cases.train_plain, cases.train_ours, cases.train_without_hook])
def test_training_runs_on_as_many_images_as_asked_for(work_dir, case, monkeypatch):
    """More names are laid out than pictures were drawn."""
    monkeypatch.setattr(cases, "TRAINING_BATCH", {"cpu": 4, "cuda": 4})
    steps, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(1) or step(self))
    assert case(DEFAULT, work_dir, 32, 12)["images_per_second"] > 0
    assert len(steps) == 1 + 3  # one to warm up


def test_both_ways_to_label_maps_are_timed(work_dir):
    for case in (cases.label_maps_plain, cases.label_maps_ours):
        assert case("-", work_dir, 64, 2)["seconds"] > 0


@pytest.mark.slow
def test_reading_is_measured_in_every_way(tmp_path):
    reading.draw(tmp_path / "dataset", 24, 64)
    assert len(list_images(tmp_path / "dataset/train/train_mask")) == 24
    pairs = find_pairs(tmp_path / "dataset", "train")
    args = SimpleNamespace(image_size=32, photo_size=64, steps=2, device=CPU)
    rows = dict(reading.reading_rows(args, pairs))
    assert len(rows) == 4 and min(rows.values()) > 0
    draft, plain = (kind(pairs, 32, CELEBAMASK)[0] for kind in (reading.DraftPairs, PairDataset))
    assert (draft[0].float() - plain[0].float()).abs().mean() < 5 and torch.equal(draft[1], plain[1])
    trained = list(reading.training_rows(args, pairs))
    assert len(trained) == 4 and all(rate > 0 and 0 <= wait < 1 for _, rate, wait in trained)


def test_a_process_is_measured():
    # Long enough to be seen by a kernel that counts processor time in ticks.
    program = """sum(range(10**7)); print('text'); print('{"answer": 42}')"""
    measured = run_python("-c", program, prints_json=True)
    assert measured["answer"] == 42 and measured["seconds"] > 0 and measured["processor_seconds"] > 0
    with pytest.raises(SystemExit, match="status 1"):
        run_python("-c", "raise SystemExit(1)")


def test_the_clip_has_the_frames_asked_for_and_moves(tmp_path):
    video.write_clip(tmp_path / "clip.mp4", 13)
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    frames = [capture.read()[1] for _ in range(13)]
    assert all(frame.shape == (480, 640, 3) for frame in frames) and not capture.read()[0]
    assert np.abs(frames[0].astype(int) - frames[12]).mean() > 5


def test_the_parts_of_a_step_are_those_of_training():
    args = SimpleNamespace(model_type=DEFAULT, image_size=33, batch_size=2, steps=2)
    whole, parts, _ = step.measure(args, CPU, graphs=False)
    assert list(parts) == ["augmentation", "forward", "loss", "backward and optimiser", "average"]
    assert min(parts.values()) > 0 and sum(parts.values()) <= whole


@pytest.mark.slow
def test_preparation_is_measured_beside_its_floor(capsys):
    preparation.main(SimpleNamespace(floor=None, pictures=4, repeats=1))
    pictures, *measured = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert pictures == "4" and len(measured) == 5 and all(float(each) > 0 for each in measured)


def test_the_frontier_has_the_scores_of_the_scripts(work_dir, tmp_path):
    checkpoint, (image_dir, mask_dir) = work_dir / f"{DEFAULT}.pt", sorted(work_dir.glob("dataset/val/val_*"))
    (size, gflops, miou, macro_f1), smaller = frontier.measure(checkpoint, match_pairs(image_dir, mask_dir), (64, 32))
    network = load_network(checkpoint)
    write_predictions(network, list_images(image_dir), tmp_path / "labels", image_size=64, batch_size=1, workers=0)
    scores = Scores(score_folders(tmp_path / "labels", mask_dir)[0])
    assert (size, miou, macro_f1) == (64, scores.miou, scores.macro_f1)
    assert gflops == pytest.approx(4 * smaller[1], rel=0.01)  # four times the pixels
    frontier.draw(tmp_path / "frontier.png", {"a.pt": [(size, gflops, miou, macro_f1), smaller]})
    assert cv2.imread(str(tmp_path / "frontier.png")).shape[1] > 500
