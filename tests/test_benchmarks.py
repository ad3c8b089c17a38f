"""The plain versions that the benchmarks compare with must do the same job, or the ratio means nothing."""

import shutil

import numpy as np
import pytest
import torch
from helpers import parse

import main_deeplab
from benchmarks import cases, plain_network, plain_scores
from benchmarks.__main__ import lay_out
from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.images import list_images, read_mask, write_label_map
from faceparse.inference import checkpoints
from faceparse.inference.metrics import Scores, score_folders
from faceparse.inference.networks import TorchNetwork
from loss import loss_at_epoch
from validate import write_predictions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def work_dir(sample_dataset, tmp_path_factory):
    """A folder with what `benchmarks.__main__.prepare` writes, without ONNX files."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(sample_dataset, folder / "dataset")
    for path in list_images(sample_dataset / "train/train_mask").values():
        write_label_map(folder / "shifted" / path.name, np.roll(read_mask(path), 3, axis=1))
    shutil.copy(SHIPPED_CHECKPOINT, folder / "shipped.pt")
    lay_out(folder, 10)
    return folder


def test_plain_scores_are_ours(work_dir):
    folders = work_dir / "submit", work_dir / "truth"
    scores, pairs = Scores(score_folders(*folders)[0].sum(axis=0)), list(plain_scores.read_pairs(*folders))
    np.testing.assert_allclose(plain_scores.iou_of_classes(pairs), scores.iou)
    np.testing.assert_allclose(plain_scores.f1_of_classes(pairs), scores.f1)


def test_plain_prediction_is_ours(work_dir, tmp_path):
    model = checkpoints.load_model(work_dir / "shipped.pt", CPU)
    photos = list_images(work_dir / "dataset/val/val_image")
    plain_network.predict(model, photos, tmp_path / "plain", image_size=64, batch_size=2, device=CPU)
    write_predictions(TorchNetwork(model, CPU), photos, tmp_path / "ours", image_size=64, batch_size=2, workers=0)
    for name in photos:
        plain, ours = (read_mask(tmp_path / way / f"{name}.png") for way in ("plain", "ours"))
        assert np.mean(plain != ours) < 1e-3


def test_plain_loss_is_ours():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 19, 8, 8, generator=generator)
    target = torch.randint(0, 19, (2, 8, 8), generator=generator)
    args = parse(main_deeplab, "--focal_weight", 0.1, "--dice_weight", 0.6, "--dice_all_classes")
    ours = loss_at_epoch(args, 1)(logits, target)
    assert plain_network.mixed_loss(logits, target).item() == pytest.approx(ours.item(), rel=1e-5)


@pytest.mark.parametrize("case", [cases.train_plain, cases.train_ours])
def test_training_runs_on_as_many_images_as_asked_for(work_dir, case, monkeypatch):
    monkeypatch.setattr(cases, "TRAINING_BATCH", {"cpu": 4, "cuda": 4})
    steps, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: steps.append(1) or step(self))
    assert case("shipped", work_dir, 32, 12)["images_per_second"] > 0
    assert len(steps) == 1 + 3  # one to warm up
