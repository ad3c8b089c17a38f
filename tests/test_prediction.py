"""validate.py and generate_labels.py as a user runs them, against loops that do one photograph at a time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import generate_labels
import validate
from dataset_utils import to_tensor
from faceparse import SHIPPED_CHECKPOINT
from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.data.images import list_images, read_maker, read_mask, read_photo, write_label_map
from faceparse.errors import InputError
from faceparse.inference import checkpoints, prediction, upsampling
from faceparse.inference.networks import TorchNetwork, load_network
from faceparse.inference.tta import FlipAndScale
from faceparse.training.self_distillation import format_changes, merge, pseudo_label
from models import build_model
from options import generate_labels_parser, validate_parser

SMALL = ("--image_size", 64, "--workers", 0)
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
    model = build_model("deeplabv3plus_mobilenet")
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
    checkpoints.save(path, checkpoints.describe("deeplabv3plus_mobilenet", CELEBAMASK, model.state_dict()))
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


def parse(parser, *flags):
    return parser("Run.").parse_args([str(flag) for flag in flags])


def predict(checkpoint_path, image_dir, output_dir, *flags):
    """Run validate.py; return {file name: label map}."""
    flags = ["--checkpoint", checkpoint_path, "--image_dir", image_dir, "--output_dir", output_dir, *SMALL, *flags]
    validate.main(parse(validate_parser, *flags))
    return {path.stem: read_mask(path) for path in sorted(output_dir.glob("*")) if path.is_file()}


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


def test_each_photograph_gets_a_label_map_of_its_own_upright_size(checkpoint_path, photos, tmp_path):
    predict(checkpoint_path, photos, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{stem}.png" for stem in UPRIGHT)
    seen = set()
    for stem, size in UPRIGHT.items():
        with Image.open(tmp_path / f"{stem}.png") as image:
            assert image.format == "PNG" and image.mode == "L" and image.size == size
            seen.update(np.unique(np.array(image)).tolist())
    assert seen <= set(range(19)) and len(seen) > 10


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predictions_are_those_of_a_naive_loop(checkpoint_path, model, photos, tmp_path, batch_size):
    labels = predict(checkpoint_path, photos, tmp_path, "--batch_size", batch_size)
    for stem, path in list_images(photos).items():
        assert_same_but_for_ties(labels[stem], naive_logits(model.coarse_logits, path))


def test_batches_and_workers_keep_the_order(checkpoint_path, model, sample_dataset, tmp_path):
    """Eight photographs of one size are predicted three at a time and read by two threads."""
    folder = sample_dataset / "train/train_image"
    labels = predict(checkpoint_path, folder, tmp_path, "--batch_size", 3, "--workers", 2)
    assert list(labels) == [f"train_{index:04d}" for index in range(8)]
    for stem, path in list_images(folder).items():
        assert_same_but_for_ties(labels[stem], naive_logits(model.coarse_logits, path))


def test_same_picture_stored_in_other_ways_gives_the_same_label_map(checkpoint_path, photos, tmp_path):
    labels = predict(checkpoint_path, photos, tmp_path / "all")
    np.testing.assert_array_equal(labels["turned"], labels["tall"])
    for stem in ("rgba", "grey"):
        (tmp_path / "rgb").mkdir(exist_ok=True)
        Image.open(photos / f"{stem}.png").convert("RGB").save(tmp_path / f"rgb/{stem}.png")
    for stem, as_rgb in predict(checkpoint_path, tmp_path / "rgb", tmp_path / "from_rgb").items():
        np.testing.assert_array_equal(labels[stem], as_rgb)


def test_a_single_file(checkpoint_path, model, photos, tmp_path, capsys):
    labels = predict(checkpoint_path, photos / "wide.jpg", tmp_path)
    assert list(labels) == ["wide"]
    assert_same_but_for_ties(labels["wide"], naive_logits(model.coarse_logits, photos / "wide.jpg"))
    assert f"1 label map in {tmp_path}" in capsys.readouterr().out


def test_defaults_are_the_shipped_checkpoint_and_the_validation_photographs(sample_dataset, tmp_path, monkeypatch):
    """The shipped checkpoint lies beside the script and is found from every working directory."""
    (tmp_path / "dataset").symlink_to(sample_dataset)
    monkeypatch.chdir(tmp_path)
    validate.main(parse(validate_parser, *SMALL))
    assert sorted(list_images(tmp_path / "predictions")) == [f"val_{index:04d}" for index in range(5)]


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
    full, *cut = (upsampling.label_map(logits, size) for _, logits, size in predictions)
    for labels in cut:
        assert labels.shape[0] == 512 and (labels != full[:, : labels.shape[1]]).mean() < 0.005


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_bare_state_dict_predicts_the_same(checkpoint_path, model, photos, tmp_path, prefix):
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "bare.pt")
    bare = predict(tmp_path / "bare.pt", photos / "wide.jpg", tmp_path / "bare")
    np.testing.assert_array_equal(
        bare["wide"], predict(checkpoint_path, photos / "wide.jpg", tmp_path / "ours")["wide"]
    )


def test_visualizations_blend_the_colours_over_the_upright_photograph(checkpoint_path, photos, tmp_path):
    labels = predict(checkpoint_path, photos, tmp_path, "--save_visualizations")
    assert sorted(path.stem for path in (tmp_path / "overlays").iterdir()) == sorted(labels) == sorted(UPRIGHT)
    for stem, path in list_images(photos).items():
        overlay = np.array(Image.open(tmp_path / f"overlays/{stem}.png"))
        expected = (read_photo(path).astype(float) + np.array(CELEBAMASK.colours)[labels[stem]]) / 2
        assert overlay.shape == expected.shape and np.abs(overlay - expected).max() <= 0.5


def test_photographs_are_never_overwritten(checkpoint_path, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "mine")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    with pytest.raises(InputError, match="--output_dir"):
        predict(checkpoint_path, tmp_path / "mine", tmp_path / "mine")
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_a_data_set_s_masks_are_never_overwritten(checkpoint_path, sample_dataset, tmp_path):
    masks = Path(shutil.copytree(sample_dataset / "val/val_mask", tmp_path / "val_mask"))
    before = {path.name: path.read_bytes() for path in masks.iterdir()}
    with pytest.raises(InputError, match=r"--output_dir .*val_0000\.png does not say that this program made it"):
        predict(checkpoint_path, sample_dataset / "val/val_image", masks)
    assert {path.name: path.read_bytes() for path in masks.iterdir()} == before
    for _ in range(2):  # predictions may be replaced
        predict(checkpoint_path, sample_dataset / "val/val_image", tmp_path / "predictions")


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


@pytest.mark.parametrize("classes", [CELEBAMASK, LAPA], ids=["celebamask", "lapa"])
def test_tta_keeps_left_and_right_worked_out(classes):
    """The left eye lies in the right half, in the mirrored picture too: all six views agree after the swap."""
    left, right = classes.id_of("l_eye"), classes.id_of("r_eye")

    class Eyes:
        class_set = classes

        def coarse_logits(self, photos):
            logits = np.zeros((len(photos), len(classes), *photos.shape[2:]), dtype=np.float32)
            half = photos.shape[3] // 2
            logits[:, left, :, half:] = logits[:, right, :, :half] = 50
            return logits

    probabilities = np.exp(FlipAndScale(Eyes()).coarse_logits(np.zeros((1, 3, 64, 64), dtype=np.float32)))
    assert (probabilities[0, left, :, 34:] > 0.999).all()  # without the swap: a half
    assert (probabilities[0, right, :, :30] > 0.999).all()


def test_tta_of_a_mirror_symmetric_photograph_is_symmetric(checkpoint_path, photos, tmp_path):
    """It is symmetric after swapping left and right ids, although the network is not: the swap must be right."""
    half = read_photo(photos / "my face.v2.png")[:, :32]
    Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1)).save(tmp_path / "face.png")
    swap = np.arange(19)
    for left, right in CELEBAMASK.left_right_pairs:
        swap[[left, right]] = right, left

    def asymmetry(labels):
        return (labels != swap[labels[:, ::-1]]).mean()

    plain = predict(checkpoint_path, tmp_path / "face.png", tmp_path / "plain")["face"]
    averaged = predict(checkpoint_path, tmp_path / "face.png", tmp_path / "tta", "--tta")["face"]
    assert asymmetry(plain) > 0.2
    assert asymmetry(averaged) < 0.005  # only ties differ
    assert np.isin(averaged, np.array(CELEBAMASK.left_right_pairs)).mean() > 0.05


def test_tta_of_every_size_against_a_naive_loop(checkpoint_path, model, photos, tmp_path):
    labels = predict(checkpoint_path, photos, tmp_path, "--tta", "--batch_size", 3)
    assert {stem: each.shape[::-1] for stem, each in labels.items()} == UPRIGHT
    network = FlipAndScale(TorchNetwork(model, torch.device("cpu")))

    def averaged(photos):
        return torch.from_numpy(network.coarse_logits(photos.numpy()))

    for stem, path in list_images(photos).items():
        assert_same_but_for_ties(labels[stem], naive_logits(averaged, path))


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


def test_table_of_changes_worked_out():
    changes = np.zeros((19, 19), dtype=np.int64)
    changes[0, 0], changes[0, 1], changes[1, 1], changes[1, 2], changes[2, 1] = 90, 4, 5, 3, 8
    rows = [line.split() for line in format_changes(changes).splitlines()]
    assert rows[0] == ["class", "before", "lost", "gained", "after"]
    assert rows[1:4] == [
        ["background", "94", "4", "0", "90"],
        ["skin", "8", "3", "12", "17"],
        ["nose", "8", "8", "3", "3"],
    ]
    assert rows[-1] == ["15", "pixels", "changed,", "13.64%", "of", "all"]


@pytest.fixture
def pairs(sample_dataset, tmp_path):
    """Folders of photographs and masks; a corner of every mask is ignored."""
    shutil.copytree(sample_dataset / "val", tmp_path / "val")
    for path in (tmp_path / "val/val_mask").iterdir():
        mask = read_mask(path)
        mask[:8, :8] = 255
        write_label_map(path, mask, palette_of=CELEBAMASK)
    return tmp_path / "val/val_image", tmp_path / "val/val_mask"


def relabel(checkpoint_path, pairs, out, threshold):
    """Run generate_labels.py; return {stem: merged mask}."""
    flags = ["--checkpoint", checkpoint_path, "--image_dir", pairs[0], "--label_dir", pairs[1], *SMALL]
    flags += ["--output_dir", out / "merged", "--colored_dir", out / "colored", "--threshold", threshold]
    generate_labels.main(parse(generate_labels_parser, *flags))
    return {path.stem: read_mask(path) for path in sorted((out / "merged").iterdir())}


def test_confident_predictions_replace_labels_and_the_rest_stays(checkpoint_path, model, pairs, tmp_path, capsys):
    merged = relabel(checkpoint_path, pairs, tmp_path / "out", 0.6)
    masks = {stem: read_mask(path) for stem, path in list_images(pairs[1]).items()}
    assert list(merged) == list(masks)
    changed = 0
    for stem, path in list_images(pairs[0]).items():
        confidence, prediction = naive_logits(model.coarse_logits, path).softmax(dim=0).max(dim=0)
        expected = np.where((confidence.numpy() > 0.6) & (masks[stem] != 255), prediction.numpy(), masks[stem])
        sure = (confidence - 0.6).abs().numpy() > 1e-3
        np.testing.assert_array_equal(merged[stem][sure], expected[sure])
        assert sure.mean() > 0.98 and (merged[stem][:8, :8] == 255).all()
        changed += (merged[stem] != masks[stem]).sum()
    pixels = 5 * (64 * 64 - 8 * 8)
    assert 0.1 < changed / pixels < 0.9
    printed = capsys.readouterr().out.splitlines()
    assert f"{changed} pixels changed, {changed / pixels:.2%} of all" in printed
    for index, name in enumerate(CELEBAMASK.names):
        before, after = (sum((each == index).sum() for each in maps.values()) for maps in (masks, merged))
        row = next(line.split() for line in printed if line.startswith(f"{name} "))
        assert [int(row[1]), int(row[4])] == [before, after]


def test_merged_masks_are_palette_pngs_with_a_coloured_twin(checkpoint_path, pairs, tmp_path):
    merged = relabel(checkpoint_path, pairs, tmp_path, 0.6)
    colours = np.full((256, 3), 128)  # ignored pixels are grey
    colours[:19] = CELEBAMASK.colours
    for stem, mask in merged.items():
        with Image.open(tmp_path / f"merged/{stem}.png") as image, Image.open(pairs[0] / f"{stem}.jpg") as photo:
            assert image.mode == "P" and image.size == photo.size
        with Image.open(tmp_path / f"colored/{stem}.png") as image:
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.array(image), colours[mask])
    assert len(list((tmp_path / "colored").iterdir())) == len(merged) == 5


def test_threshold_1_changes_nothing_and_threshold_0_takes_every_prediction(checkpoint_path, pairs, tmp_path, capsys):
    unchanged = relabel(checkpoint_path, pairs, tmp_path / "one", 1.0)
    assert "0 pixels changed, 0.00% of all" in capsys.readouterr().out.splitlines()
    for stem, path in list_images(pairs[1]).items():
        np.testing.assert_array_equal(unchanged[stem], read_mask(path))
    predictions = predict(checkpoint_path, pairs[0], tmp_path / "predictions")
    for stem, mask in relabel(checkpoint_path, pairs, tmp_path / "zero", 0.0).items():
        predictions[stem][:8, :8] = 255
        np.testing.assert_array_equal(mask, predictions[stem])


def test_photographs_without_masks_get_the_predictions(checkpoint_path, pairs, photos, tmp_path, capsys):
    """Those of the same name as a photograph with a mask are refused, since their masks would lie in one folder."""
    flags = ["--checkpoint", checkpoint_path, "--image_dir", pairs[0], "--label_dir", pairs[1], *SMALL]
    flags += ["--output_dir", tmp_path / "merged", "--colored_dir", tmp_path / "colored", "--threshold", 1]
    flags += ["--unlabelled_threshold", 0, "--unlabelled_dir"]
    with pytest.raises(InputError, match="has the same stem as"):
        generate_labels.main(parse(generate_labels_parser, *flags, photos, pairs[0]))
    generate_labels.main(parse(generate_labels_parser, *flags, photos))
    assert "0 pixels changed, 0.00% of all" in capsys.readouterr().out.splitlines()
    labels = {path.stem: read_mask(path) for path in (tmp_path / "merged").iterdir()}
    for stem, path in list_images(pairs[1]).items():
        np.testing.assert_array_equal(labels.pop(stem), read_mask(path))
    predictions = predict(checkpoint_path, photos, tmp_path / "predictions")
    assert labels.keys() == predictions.keys()
    for stem, label_map in predictions.items():
        np.testing.assert_array_equal(labels[stem], label_map)
    rules = f"relabelling {pairs[1]} above 1, unlabelled above 0"
    assert read_maker(tmp_path / "merged" / f"{stem}.png").endswith(rules)


def test_given_masks_are_never_overwritten(checkpoint_path, pairs, tmp_path):
    before = {path.name: path.read_bytes() for path in pairs[1].iterdir()}
    flags = ["--checkpoint", checkpoint_path, "--image_dir", pairs[0], "--label_dir", pairs[1], *SMALL]
    flags += ["--output_dir", pairs[1], "--colored_dir", tmp_path / "colored", "--threshold", 0]
    with pytest.raises(InputError, match="--output_dir"):
        generate_labels.main(parse(generate_labels_parser, *flags))
    copies = tmp_path / "copies"
    shutil.copytree(pairs[1], copies)
    flags += ["--output_dir", tmp_path / "merged", "--colored_dir", copies]
    with pytest.raises(InputError, match=r"--colored_dir .* does not say that this program made it"):
        generate_labels.main(parse(generate_labels_parser, *flags))
    for folder in (pairs[1], copies):
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_photographs_are_read_at_the_size_of_the_training(tmp_path, monkeypatch):
    """A network trained at 96 px must not see faces of another scale, unless --image_size says so."""
    torch.manual_seed(0)
    state_dict = build_model("deeplabv3plus_mobilenet_slim").state_dict()
    content = checkpoints.describe("deeplabv3plus_mobilenet_slim", CELEBAMASK, state_dict) | {"image_size": 96}
    checkpoints.save(tmp_path / "a.pt", content)
    Image.new("RGB", (200, 100)).save(tmp_path / "me.png")
    sizes = []
    monkeypatch.setattr(validate, "write_predictions", lambda *_, image_size, **__: sizes.append(image_size))
    flags = ["--checkpoint", str(tmp_path / "a.pt"), "--image_dir", str(tmp_path / "me.png")]
    for more in ([], ["--image_size", "64"]):
        validate.main(validate_parser("V.").parse_args([*flags, "--output_dir", str(tmp_path / "out"), *more]))
    assert sizes == [96, 64]


def test_the_table_counts_the_masks_that_threshold_1_keeps(checkpoint_path, pairs, tmp_path, capsys):
    relabel(checkpoint_path, pairs, tmp_path, 1.0)
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    masks = [np.array(Image.open(path)) for path in pairs[1].iterdir()]
    for index, name in enumerate(CELEBAMASK.names):
        pixels = str(sum((mask == index).sum() for mask in masks))
        assert rows[name] == [pixels, "0", "0", pixels]
