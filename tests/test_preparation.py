"""The official downloads become a data set that trains: masks, splits, interruptions, and what is refused."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from downloads import draw_lapa, make_celebamask_download
from helpers import call, contents
from PIL import Image

from faceparse.data.classes import CELEBAMASK, IGNORE_INDEX, LAPA
from faceparse.data.images import read_mask, read_photo
from faceparse.data.preparation import Example, read_reduced, select
from faceparse.errors import InputError
from faceparse.parallel import in_parallel
from tools import prepare_celebamask, prepare_lapa

ORIG_IDX = [162770, 162771, 182637, 182638, 0, 202598]  # both sides of each boundary, and the ends
PLACES = [f"{folder}_{{}}/0000{idx}" for idx, folder in enumerate(("train/train", *["val/val"] * 2, "test"))]
PLACES += ["train/train_{}/00004", "test_{}/00005"]
AT_64 = ("--image_size", 64)


@pytest.fixture(scope="session")
def download(tmp_path_factory):
    """Six faces as the official download of CelebAMask-HQ has them, and their masks. Read it, never change it."""
    folder = tmp_path_factory.mktemp("download") / "CelebAMask-HQ"
    return folder, make_celebamask_download(folder, ORIG_IDX)


@pytest.fixture
def own_download(download, tmp_path):
    """A copy of the download that a test may damage."""
    return Path(shutil.copytree(download[0], tmp_path / "CelebAMask-HQ"))


def prepare(source, output_dir, *flags, script=prepare_celebamask):
    call(script, "--source", source, "--output_dir", output_dir, *flags)


def shorten(path):
    os.truncate(path, path.stat().st_size - 5000)


def overwrite(path, start, data):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def empty(path):
    path.write_bytes(b"")


def damage_each(source, damages):
    """Damage the files of {path in the download: (how, what is wrong then)}; return the lines that must name them."""
    for name, (damage, _) in damages.items():
        damage(source / name)
    return [f"{source / name}: {problem}" for name, (_, problem) in damages.items()]


def test_masks_are_the_merged_truth_in_the_official_splits(download, tmp_path, capsys, monkeypatch):
    """The drawn parts overlap, so that painting them in another order would give another mask."""
    monkeypatch.setattr("faceparse.data.preparation.in_parallel", partial(in_parallel, chunk=1))  # processes
    source, masks = download
    prepare(source, tmp_path / "out", "--seed", 3)
    for place, mask in zip(PLACES, masks, strict=True):
        file = tmp_path / f"out/{place.format('mask')}.png"
        np.testing.assert_array_equal(read_mask(file), mask)
        assert Image.open(file).getpalette()[3:6] == list(CELEBAMASK.colours[1])
        assert read_photo(tmp_path / f"out/{place.format('image')}.jpg").shape == (512, 512, 3)
    assert len(contents(tmp_path / "out")) == 12 + 1
    record = json.loads((tmp_path / "out/prepared.json").read_text())
    assert (record["data_set"], record["seed"], record["split"]) == ("CelebAMask-HQ", 3, None)
    printed = capsys.readouterr().out
    assert "6 pairs, 6 of them written now" in printed and "left out" not in printed
    assert "test: 2 pairs; sizes 512x512 (2)" in printed and "fit to train on" in printed


def test_photographs_are_the_antialiased_originals(download):
    path = download[0] / "CelebA-HQ-img/0.jpg"
    with Image.open(path) as image:
        filters = (Image.Resampling.LANCZOS, Image.Resampling.NEAREST)
        expected, nearest = (np.asarray(image.resize((256, 256), each), dtype=float) for each in filters)
    errors = (((each - expected) ** 2).mean() for each in (np.asarray(read_reduced(path, 256)), nearest))
    psnr, psnr_of_nearest = (10 * np.log10(255**2 / error) for error in errors)
    assert psnr > 40 > psnr_of_nearest + 5
    assert [read_reduced(path, size).size for size in (100, 700)] == [(100, 100), (700, 700)]


def test_masks_of_another_size_are_resized_by_nearest(download, tmp_path):
    source, masks = download
    prepare(source, tmp_path / "out", "--image_size", 256)
    expected = masks[1][1::2, 1::2]  # of two pixels, Pillow takes the one whose corner lies in the middle
    np.testing.assert_array_equal(read_mask(tmp_path / "out/val/val_mask/00001.png"), expected)


def test_a_rerun_writes_nothing_but_what_is_missing(download, tmp_path, capsys):
    out = tmp_path / "out"
    prepare(download[0], out, *AT_64)
    before, first = contents(out), out / "train/train_image/00000.jpg"
    os.utime(first, (0, 0))
    for name in ("val/val_image/00001.jpg", "test_mask/00005.png"):
        (out / name).unlink()
    (out / "val/val_mask/00002.png").write_bytes(b"")  # as a power cut may leave it
    (out / "val/val_mask/.00002.123.tmp.png").write_bytes(b"left by a killed run")
    prepare(download[0], out, *AT_64)
    assert contents(out) == before and first.stat().st_mtime == 0
    assert "6 pairs, 3 of them written now" in capsys.readouterr().out


def test_other_flags_and_other_data_sets_do_not_mix_with_what_is_there(download, place, refusal):
    flags = ("--source", download[0], "--output_dir")
    assert "is of another data set" in refusal(prepare_celebamask, *flags, "dataset")
    record = {"data_set": "CelebAMask-HQ", "photo_format": "jpg", "image_size": 64, "split": None, "seed": 0}
    Path("prepared.json").write_text(json.dumps(record | {"limit": None}))  # a flag that is no more
    for changed in (("--image_size", 32), ("--image_size", 64, "--seed", 1)):
        assert f"was prepared with {changed[-2][2:]} " in refusal(prepare_celebamask, *flags, ".", *changed)


def test_faces_without_any_part_are_named_and_left_out(own_download, tmp_path, capsys):
    """As number 4790 of the official download, whose part files are all black; others have none."""
    parts, out = own_download / "CelebAMask-HQ-mask-anno/0", tmp_path / "out"
    for file in parts.glob("00000_*"):
        Image.new("RGB", (512, 512)).save(file)
    for file in parts.glob("00002_*"):
        file.unlink()
    for written in (4, 0):
        prepare(own_download, out, *AT_64)
        printed = capsys.readouterr().out
        assert "left out 2 photographs:" in printed and f"4 pairs, {written} of them written now" in printed
        assert "0.jpg: its mask holds no class\n" in printed and "2.jpg: its mask holds no class\n" in printed
        stems = {path.stem for path in out.rglob("0*")}
        assert stems == {"00001", "00003", "00004", "00005"}


PHOTOS, PARTS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
CELEBAMASK_DAMAGES = {
    f"{PHOTOS}/0.jpg": (Path.unlink, "no such file"),
    f"{PHOTOS}/1.jpg": (shorten, "is cut off"),
    f"{PHOTOS}/2.jpg": (Image.new("RGB", (1024, 1000)).save, "is 1024 x 1000, not 1024 x 1024"),
    f"{PHOTOS}/77.jpg": (empty, "does not belong to this download"),
    f"{PARTS}/0/00004_skin.png": (empty, "not a readable image"),
    f"{PARTS}/0/00004_hair.png": (lambda path: overwrite(path, 800, bytes(100)), "not a readable image"),  # Pillow can
    f"{PARTS}/0/00005_nose.png": (Image.new("L", (256, 256)).save, "is 256 x 256, not 512 x 512"),
}


def test_all_that_is_wrong_is_named_before_anything_is_written(own_download, tmp_path, capsys):
    expected = damage_each(own_download, CELEBAMASK_DAMAGES)
    empty(own_download / PHOTOS / "Thumbs.db")  # left by Windows
    with pytest.raises(InputError, match=rf"{len(expected)} problems.* nothing was written"):
        prepare(own_download, tmp_path / "out")
    printed = capsys.readouterr().out
    assert [line for line in expected if line not in printed] == []
    shutil.rmtree(own_download / PARTS / "0")
    with pytest.raises(InputError, match="nothing was written"):
        prepare(own_download, tmp_path / "out")
    assert "mask-anno/0: no such folder, or empty" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_selection_draws_within_the_official_splits():
    counts = (("train", 50), ("val", 20), ("test", 9))
    examples = [Example(split, f"{split}{index}", None, ()) for split, n in counts for index in range(n)]
    drawn = select(examples, {"train": 5, "val": 3}, seed=0)
    assert [example.split for example in drawn] == ["train"] * 5 + ["val"] * 3
    assert drawn == sorted(drawn, key=examples.index) and len(set(drawn)) == 8
    assert drawn == select(examples, {"train": 5, "val": 3}, 0) != select(examples, {"train": 5, "val": 3}, 1)
    assert select(examples, None, seed=0) == examples
    with pytest.raises(InputError, match="--split val=21: the source has 20"):
        select(examples, {"train": 5, "val": 21}, seed=0)
    with pytest.raises(InputError, match="left for val"):
        select(examples[:50], None, seed=0)


def test_lapa_is_cut_to_squares_around_the_face(tmp_path, capsys):
    masks = draw_lapa(tmp_path / "LaPa")
    prepare(tmp_path / "LaPa", tmp_path / "out", "--image_size", 96, script=prepare_lapa)
    assert len(contents(tmp_path / "out")) == 2 * 4 + 1
    assert "no mask has left and right reversed" in capsys.readouterr().out
    mask = read_mask(tmp_path / "out/train/train_mask/0_0.png", LAPA)
    assert mask.shape == (96, 96) and read_photo(tmp_path / "out/test_image/0_0.jpg").shape == (96, 96, 3)
    left_brow, right_brow = (np.nonzero(mask == class_id)[1].mean() for class_id in (2, 3))
    assert left_brow < right_brow  # seen by the viewer
    points = prepare_lapa.read_landmarks(tmp_path / "LaPa/train/landmarks/0_0.txt")
    left, top, side = prepare_lapa.face_square(points)
    for row in range(96):  # each pixel is the one below its middle, 255 outside the photograph
        for column in range(96):
            y, x = top + int((row + 0.5) * side / 96), left + int((column + 0.5) * side / 96)
            inside = 0 <= y < 150 and 0 <= x < 200
            assert mask[row, column] == (masks["train", 0][y, x] if inside else IGNORE_INDEX)
