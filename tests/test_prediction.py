"""validate.py and generate_labels.py as a user runs them, against loops that do one photograph at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CHALLENGE, MERGE, call, checkpoint_content
from PIL import Image
from torch.nn import functional as F

import generate_labels
import validate
from dataset_utils import to_tensor
from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.classes import CELEBAMASK, find_class_set
from faceparse.data.images import list_images, read_maker, read_mask, read_photo, write_label_map
from faceparse.errors import InputError
from faceparse.inference import checkpoints, prediction
from faceparse.inference.networks import load_network
from faceparse.inference.prediction import FlipAndScale
from faceparse.training.self_distillation import merge, pseudo_label
from models import build_model

OWN_SIZE = ("--image_size", 64, "--workers", 0)
ROOT = Path(__file__).parents[1]
UPRIGHT = {  # (width, height) of the photographs that `photos` stores, when shown upright
    "grey": (50, 64),
    "large": (150, 200),
    "my face.v2": (64, 64),
    "one of three": (64, 64),
    "rgba": (64, 50),
    "tall": (40, 72),
    "turned": (40, 72),
    "wide": (80, 48),
}


@pytest.fixture(scope="module")
def model(sample_dataset):
    """A network whose predictions vary: random weights, BatchNorm statistics of the drawn photographs."""
    torch.manual_seed(0)
    model = build_model(CHALLENGE)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics become the mean over all batches
    photos = list_images(sample_dataset / "train/train_image").values()
    with torch.no_grad():
        model.train()(torch.stack([to_tensor(read_photo(photo)) for photo in photos]) / 255)
    model.class_set, model.image_size = CELEBAMASK, 64
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint_path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    checkpoints.save(path, checkpoints.describe(CHALLENGE, CELEBAMASK, model.state_dict()))
    return path


@pytest.fixture(scope="module")
def photos(sample_dataset, tmp_path_factory):
    """A folder of photographs in many sizes and forms, without masks."""
    folder = tmp_path_factory.mktemp("photos")
    faces = [Image.open(path) for path in list_images(sample_dataset / "val/val_image").values()]
    faces[0].convert("L").resize(UPRIGHT["grey"]).save(folder / "grey.png")
    faces[1].resize(UPRIGHT["large"]).save(folder / "large.jpg")
    faces[2].save(folder / "my face.v2.png")
    faces[3].save(folder / "one of three.JPG")
    faces[4].resize(UPRIGHT["rgba"]).convert("RGBA").save(folder / "rgba.png")
    tall = faces[0].resize(UPRIGHT["tall"])
    tall.save(folder / "tall.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the tag Orientation: the picture is to be shown turned a quarter clockwise
    tall.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    faces[3].resize(UPRIGHT["wide"]).save(folder / "wide.jpg")
    return folder


def predict(checkpoint_path, image_dir, output_dir, *flags):
    """Run validate.py; return {file name: label map}."""
    flags = ("--checkpoint", checkpoint_path, "--image_dir", image_dir, "--output_dir", output_dir, *OWN_SIZE, *flags)
    call(validate, *flags)
    return {path.stem: read_mask(path) for path in sorted(output_dir.glob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def predicted(checkpoint_path, photos, tmp_path_factory):
    """The output folder of validate.py for `photos`, and its label maps."""
    folder = tmp_path_factory.mktemp("predicted") / "labels"
    flags = ("--batch_size", 3, "--workers", 2, "--save_visualizations")
    return folder, predict(checkpoint_path, photos, folder, *flags)


def naive_logits(network, path):
    """Return logits [19, H, W] of one photograph at its own size; `network` gets it at 64 px, in multiples of 16."""
    photo = Image.fromarray(read_photo(path))
    scale = 64 / max(photo.size)
    small = photo.resize([max(32, 16 * round(side * scale / 16)) for side in photo.size], Image.Resampling.BILINEAR)
    with torch.no_grad():
        logits = network(torch.tensor(np.array(small)).permute(2, 0, 1)[None] / 255)
    return F.interpolate(logits, size=(photo.height, photo.width), mode="bilinear", align_corners=False)[0]


def assert_same_but_for_ties(labels, logits):
    """Assert that `labels` are the argmax of `logits`, except where its two best classes are equal up to rounding."""
    best = logits.topk(2, dim=0).values
    tie = (best[0] - best[1] < 1e-3).numpy()
    np.testing.assert_array_equal(labels[~tie], logits.argmax(dim=0).numpy()[~tie])
    assert tie.mean() < 0.01


def test_predictions_are_those_of_a_naive_loop(predicted, model, photos):
    labels = predicted[1]
    assert len(np.unique(np.concatenate([each.flatten() for each in labels.values()]))) >= 15
    for stem, path in list_images(photos).items():
        assert_same_but_for_ties(labels[stem], naive_logits(model.coarse_logits, path))


def test_each_photograph_gets_a_label_map_and_an_overlay_of_its_own_upright_size(predicted, photos):
    folder, labels = predicted
    assert sorted(path.name for path in folder.glob("*.*")) == sorted(f"{stem}.png" for stem in UPRIGHT)
    assert sorted(path.stem for path in (folder / "overlays").iterdir()) == sorted(UPRIGHT)
    for stem, path in list_images(photos).items():
        with Image.open(folder / f"{stem}.png") as image:
            assert image.format == "PNG" and image.mode == "L" and image.size == UPRIGHT[stem]
        overlay = np.array(Image.open(folder / f"overlays/{stem}.png"))
        expected = (read_photo(path).astype(float) + np.array(CELEBAMASK.colours)[labels[stem]]) / 2
        assert overlay.shape == expected.shape and np.abs(overlay - expected).max() <= 0.5


def test_defaults_are_the_shipped_checkpoint_and_the_validation_photographs(sample_dataset, tmp_path, monkeypatch):
    """The shipped checkpoint lies beside the script and is found from every working directory."""
    (tmp_path / "dataset").symlink_to(sample_dataset)
    monkeypatch.chdir(tmp_path)
    call(validate, *OWN_SIZE)
    assert sorted(list_images(tmp_path / "predictions")) == [f"val_{index:04d}" for index in range(5)]


def test_photographs_are_read_at_the_size_of_the_training(tmp_path, monkeypatch):
    """A network trained at 96 px must not see faces of another scale, unless --image_size says so."""
    torch.save(checkpoint_content(image_size=96), tmp_path / "a.pt")
    Image.new("RGB", (200, 100)).save(tmp_path / "me.png")
    sizes = []
    monkeypatch.setattr(validate, "write_predictions", lambda *_, image_size, **__: sizes.append(image_size))
    for more in ((), ("--image_size", 64)):
        flags = ("--image_dir", tmp_path / "me.png", "--output_dir", tmp_path / "out", *more)
        call(validate, "--checkpoint", tmp_path / "a.pt", *flags)
    assert sizes == [96, 64]


def test_the_shipped_checkpoint_finds_the_parts_of_a_face(tmp_path):
    labels = predict(SHIPPED_CHECKPOINT, ROOT / "assets/astronaut.jpg", tmp_path, "--image_size", 512)
    parts = {name: np.argwhere(labels["astronaut"] == index) for index, name in enumerate(CELEBAMASK.names)}
    share = {name: len(part) / labels["astronaut"].size for name, part in parts.items()}
    assert 0.1 < share["skin"] < 0.3 and 0.1 < share["hair"] < 0.4
    features = ("l_eye", "r_eye", "l_brow", "r_brow", "nose", "u_lip", "l_lip")
    assert all(0.0005 < share[name] < 0.03 for name in features)
    (y, x) = ({name: parts[name].mean(axis=0)[axis] for name in features} for axis in (0, 1))
    assert x["r_eye"] < x["nose"] < x["l_eye"] and x["r_brow"] < x["nose"] < x["l_brow"]  # the subject's own sides
    assert max(y["l_brow"], y["r_brow"]) < min(y["l_eye"], y["r_eye"]) < y["nose"] < y["u_lip"] < y["l_lip"]


def test_the_width_of_a_photograph_shifts_no_labels():
    """Without rounding to the encoder's stride 1.4 % and 2.4 % of the labels differ from those of the full picture."""
    network = load_network(SHIPPED_CHECKPOINT)
    with Image.open(ROOT / "assets/astronaut.jpg") as image:
        photo = np.asarray(image.resize((512, 512), Image.Resampling.BICUBIC))
    photos = [photo, photo[:, :500], photo[:, :497]]
    predictions = prediction.predict(network, photos, image_size=512, batch_size=1, workers=0, progress=None)
    full, *cut = (prediction.label_map(logits, size) for _, logits, size in predictions)
    for labels in cut:
        assert labels.shape[0] == 512 and (labels != full[:, : labels.shape[1]]).mean() < 0.005


# Tests of test-time augmentation.


class ByPosition:
    """Logits that follow from each pixel's place and colour."""

    class_set = CELEBAMASK

    def coarse_logits(self, photos):
        photos = torch.from_numpy(photos)
        y, x = (torch.linspace(0, 1, side) for side in photos.shape[2:])
        classes = torch.arange(19.0)[:, None, None]
        place = torch.sin(classes * x + 3 * y[:, None]) * 2 + torch.cos(5 * classes * x)
        return (place + photos.mean(dim=1, keepdim=True) * torch.sin(classes) * 3).numpy()


@pytest.mark.parametrize("size", [(64, 64), (33, 80), (32, 40)])  # 0.75 of 32 is too small for the network
def test_tta_against_a_naive_loop(size):
    photos = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    network, probabilities = ByPosition(), []
    for photo in photos.numpy():
        for scale in (0.75, 1, 1.25):
            height, width = (max(32, 16 * round(side * scale / 16)) for side in size)
            scaled = [Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR) for channel in photo]
            scaled = np.stack([np.array(channel) for channel in scaled])
            for mirror in (False, True):
                logits = torch.from_numpy(
                    network.coarse_logits((scaled[:, :, ::-1].copy() if mirror else scaled)[None])[0]
                )
                if mirror:
                    logits = logits.flip(2)
                    for left, right in CELEBAMASK.left_right_pairs:
                        logits[[left, right]] = logits[[right, left]]
                logits = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
                probabilities.append(torch.softmax(logits, dim=0))
    expected = torch.stack(probabilities).view(2, 6, 19, *size).mean(dim=1).log()
    averaged = FlipAndScale(network).coarse_logits(photos.numpy())
    torch.testing.assert_close(torch.from_numpy(averaged), expected, rtol=1e-4, atol=1e-4)


# Tests of relabelling.


def test_merge_worked_out():
    """Probabilities of two classes: 1/2, 3/4 and 9/10 for class 1; the threshold itself does not relabel."""
    logits = np.log([[[1.0, 1, 1, 1]], [[1, 3, 9, 9]]])
    mask = np.array([[7, 7, 7, 255]], dtype=np.uint8)
    for threshold, expected in (
        (0.95, [7, 7, 7, 255]),
        (0.8, [7, 7, 1, 255]),
        (0.74, [7, 1, 1, 255]),
        (0.5, [7, 1, 1, 255]),
        (0.49, [0, 1, 1, 255]),
    ):
        merged = merge(logits, mask, threshold)
        assert merged.dtype == np.uint8 and merged.tolist() == [expected], threshold
    assert mask.tolist() == [[7, 7, 7, 255]]


def test_pseudo_labels_worked_out():
    """The same probabilities: a pixel of which the network is unsure is ignored."""
    logits = np.log([[[1.0, 1, 1]], [[1, 3, 9]]])
    for threshold, expected in ((0.8, [255, 255, 1]), (0.6, [255, 1, 1]), (0.49, [0, 1, 1])):
        labels = pseudo_label(logits, threshold)
        assert labels.dtype == np.uint8 and labels.tolist() == [expected], threshold


def relabel(checkpoint_path, val, out, threshold, *flags):
    """Run generate_labels.py; return {stem: merged mask}."""
    flags += ("--checkpoint", checkpoint_path, "--image_dir", val / "val_image", "--label_dir", val / "val_mask")
    flags += OWN_SIZE
    flags += ("--output_dir", out / "merged", "--colored_dir", out / "colored", "--threshold", threshold)
    call(generate_labels, *flags)
    return {path.stem: read_mask(path) for path in sorted((out / "merged").iterdir())}


def assert_counted(printed, before, after):
    """Assert that the table has each class's pixels in two dicts of masks."""
    for index, name in enumerate(CELEBAMASK.names):
        row = next(line.split() for line in printed if line.startswith(f"{name} "))
        counts = [sum((mask == index).sum() for mask in masks.values()) for masks in (before, after)]
        assert [int(row[1]), int(row[4])] == counts


def test_confident_predictions_replace_labels(checkpoint_path, model, sample_dataset, tmp_path, capsys):
    """The masks are palette PNGs with a coloured twin."""
    merged = relabel(checkpoint_path, sample_dataset / "val", tmp_path, 0.6)
    masks = {stem: read_mask(path) for stem, path in list_images(sample_dataset / "val/val_mask").items()}
    assert list(merged) == list(masks) == sorted(list_images(tmp_path / "colored"))
    for stem, path in list_images(sample_dataset / "val/val_image").items():
        confidence, prediction = naive_logits(model.coarse_logits, path).softmax(dim=0).max(dim=0)
        expected = np.where(confidence.numpy() > 0.6, prediction.numpy(), masks[stem])
        sure = (confidence - 0.6).abs().numpy() > 1e-3
        np.testing.assert_array_equal(merged[stem][sure], expected[sure])
        assert sure.mean() > 0.98
        with Image.open(tmp_path / f"merged/{stem}.png") as image, Image.open(tmp_path / f"colored/{stem}.png") as twin:
            assert (image.mode, twin.mode) == ("P", "RGB")
            np.testing.assert_array_equal(np.array(twin), np.array(CELEBAMASK.colours)[merged[stem]])
    changed, pixels = sum((merged[stem] != masks[stem]).sum() for stem in masks), 5 * 64 * 64
    assert 0.1 < changed / pixels < 0.9
    printed = capsys.readouterr().out.splitlines()
    assert f"{changed} pixels changed, {changed / pixels:.2%} of all" in printed
    assert_counted(printed, masks, merged)


def test_pixels_of_sets_of_classes_stay(place):
    Path("sets.json").write_text(json.dumps(CELEBAMASK.to_dict() | {"sets": {"19": ["hair", "hat"]}}))
    write_label_map("dataset/val/val_mask/val_0000.png", np.uint8([[1] * 64] * 32 + [[19] * 64] * 32))
    call(generate_labels, *MERGE, "--classes", "sets.json", "--threshold", 0)
    merged = read_mask("merged/val_0000.png", find_class_set("sets.json"), keep_sets=True)
    assert (merged[32:] == 19).all() and (merged[:32] < 19).all() and (merged[:32] != 1).any()


def test_photographs_without_masks_get_labels(predicted, checkpoint_path, sample_dataset, photos, tmp_path, capsys):
    """Those of the same name as a photograph with a mask are refused, since their masks would lie in one folder.
    Threshold 1 changes no mask."""
    val, flags = sample_dataset / "val", ("--unlabelled_threshold", 0, "--unlabelled_dir", photos)
    with pytest.raises(InputError, match="has the same stem as"):
        relabel(checkpoint_path, val, tmp_path, 1, *flags, val / "val_image")
    labels = relabel(checkpoint_path, val, tmp_path, 1, *flags)
    masks = {stem: read_mask(path) for stem, path in list_images(val / "val_mask").items()}
    printed = capsys.readouterr().out.splitlines()
    assert "0 pixels changed, 0.00% of all" in printed
    assert_counted(printed, masks, masks)
    assert labels.keys() == masks.keys() | predicted[1].keys()
    for stem, mask in masks.items():
        np.testing.assert_array_equal(labels[stem], mask)
    for stem, label_map in predicted[1].items():
        assert (labels[stem] == label_map).mean() > 0.999
    rules = f"relabelling {val / 'val_mask'} above 1, unlabelled above 0"
    assert read_maker(tmp_path / "merged/wide.png").endswith(rules)
