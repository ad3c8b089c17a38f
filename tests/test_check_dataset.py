"""The data set's checks: left and right, near-duplicates, what it writes and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import TRAIN, call, contents
from PIL import Image

import main_deeplab
from faceparse.data.checks import (
    ROWS_AT_A_TIME,
    hash_photo,
    left_right_reversed,
    listing,
    near_duplicates,
)
from faceparse.data.classes import CELEBAMASK, LAPA, find_class_set
from faceparse.data.images import read_mask, read_pair, write_label_map
from faceparse.errors import InputError
from tools import check_dataset


def check(*flags):
    call(check_dataset, "--dataset_dir", ".", *flags)


def train(*flags):
    call(main_deeplab, *TRAIN, "--dataset_dir", ".", "--batch_size", 2, *flags)


def face(*reversed_pairs):
    """Return a 32 x 32 mask with eyes 4, 5, brows 6, 7 and ears 8, 9, the subject's left at the right, or reversed."""
    mask = np.ones((32, 32), dtype=np.uint8)
    for row, (left, right) in zip((12, 6, 16), ((4, 5), (6, 7), (8, 9)), strict=True):
        left, right = (right, left) if (left, right) in reversed_pairs else (left, right)
        mask[row : row + 2, 20:26], mask[row : row + 2, 6:12] = left, right
    mask[25, 10:20], mask[26, 10:20], mask[31] = 11, 12, 255
    return mask


ALL = (4, 5), (6, 7), (8, 9)


def picture(seed):
    """Return a smooth random picture, 32 x 32, which survives resampling and compression as a photograph does."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """3 train and 2 val pairs; train/b and val/e reversed; val/d a copy of train/c, the test picture a mirrored a.

    It is the working directory.
    """
    masks = {"train": {"a": face(), "b": face(*ALL), "c": face()}, "val": {"d": face(), "e": face(*ALL)}}
    for split, stems in masks.items():
        (tmp_path / f"data/{split}/{split}_image").mkdir(parents=True)
        for stem, mask in stems.items():
            write_label_map(tmp_path / f"data/{split}/{split}_mask/{stem}.png", mask, palette_of=CELEBAMASK)
            seed = ord("c" if stem == "d" else stem)
            picture(seed).save(tmp_path / f"data/{split}/{split}_image/{stem}.jpg", quality=60 if stem == "d" else 95)
    (tmp_path / "data/test_image").mkdir()
    Image.fromarray(np.array(picture(ord("a")))[:, ::-1]).save(tmp_path / "data/test_image/f.jpg")
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path / "data"


def test_majority_of_the_pairs_on_both_sides_decides():
    assert not left_right_reversed(face())
    assert left_right_reversed(face(*ALL))
    assert left_right_reversed(face(*ALL[:2]))
    assert not left_right_reversed(face(ALL[0]))
    one_sided = face(*ALL)
    one_sided[np.isin(one_sided, (5, 7))] = 1  # only the ears are left to vote
    assert left_right_reversed(one_sided)
    tie = face(ALL[0])
    tie[tie == 8] = 1
    assert not left_right_reversed(tie)


def test_lapas_left_is_the_viewers():
    """The mask of `left_eye`, id 4, lies in the left half of an upright face, which facer's models call right eye."""
    mask = np.ones((32, 32), dtype=np.uint8)
    mask[12:14, 6:12], mask[12:14, 20:26] = 4, 5
    assert LAPA.names[4:6] == ("l_eye", "r_eye")
    assert not left_right_reversed(mask, LAPA) and left_right_reversed(mask[:, ::-1], LAPA)


def test_near_duplicates_are_found_through_size_compression_and_mirroring():
    photos = [np.array(picture(seed)) for seed in range(8)]
    copy = np.array(picture(3).resize((50, 50), Image.Resampling.BILINEAR))
    hashes = np.array([hash_photo(photo) for photo in photos])
    found = near_duplicates(hashes, np.array([hash_photo(copy), hash_photo(photos[5][:, ::-1])]))
    assert sorted((i, j) for _, i, j in found) == [(3, 0), (5, 1)] and (0, 5, 1) in found


def test_near_duplicates_of_many_are_those_of_a_naive_search():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2, (ROWS_AT_A_TIME + 9, 2, 256)).astype(bool)
    others = rng.integers(0, 2, (5, 2, 256)).astype(bool)
    others[2, 1] = hashes[ROWS_AT_A_TIME + 3, 0]
    others[2, 1, :30] ^= True
    naive = [
        (int(min((one[0] != each).sum() for each in other)), i, j)
        for i, one in enumerate(hashes)
        for j, other in enumerate(others)
    ]
    assert near_duplicates(hashes, others) == sorted(entry for entry in naive if entry[0] <= 32)
    assert near_duplicates(hashes, others) == [(30, ROWS_AT_A_TIME + 3, 2)]


def test_report(dataset, capsys):
    write_label_map("test_mask/f.png", face(*ALL))
    check("--dataset_dir", dataset)
    printed = capsys.readouterr().out
    assert "train: 3 pairs; sizes 32x32 (3)" in printed and "test: 1 pair;" in printed
    assert "reversed in 1 mask of 3\n  b\n" in printed
    assert "reversed in 1 mask of 2\n  e\n" in printed
    assert "of train and val (32 bits of 256 or fewer): 1\n  train c, val d: " in printed
    assert "of train and test (32 bits of 256 or fewer): 1\n  train a, test f: " in printed
    assert "of val and test (32 bits of 256 or fewer): 0" in printed
    assert "are reversed in 3 masks of 6: write corrected copies" in printed
    assert f"python -m tools.check_dataset --dataset_dir {dataset} --classes celebamask --fix_left_right OUT" in printed
    assert listing(list(map(str, range(53)))).splitlines()[-2:] == ["  49", "  ... and 3 more"]


def test_corrected_copies_and_sheet(dataset, tmp_path):
    before = contents(dataset)
    out = tmp_path / "new/corrected"
    check("--dataset_dir", dataset, "--fix_left_right", out, "--sheet", tmp_path / "sheet.png")
    assert contents(dataset) == before
    assert sorted(contents(out)) == [f"train_mask/{stem}.png" for stem in "abc"] + [f"val_mask/{s}.png" for s in "de"]
    for file in out.rglob("*.png"):
        np.testing.assert_array_equal(read_mask(file), face())
    assert (out / "train_mask/a.png").read_bytes() == (dataset / "train/train_mask/a.png").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["corrected"]
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"


def test_corrected_copies_keep_sets_of_classes_and_swap_their_sides(dataset):
    sets = {"19": ["l_eye", "l_brow"], "20": ["r_brow", "r_eye"], "21": ["l_ear", "hair"], "0": ["background", "neck"]}
    Path("classes.json").write_text(json.dumps(CELEBAMASK.to_dict() | {"sets": sets}))
    mask = np.concatenate([face(*ALL)[1:], np.uint8([[19, 20, 21, 0] * 8])])
    write_label_map("train/train_mask/b.png", mask)
    check("--classes", "classes.json", "--fix_left_right", "corrected")
    corrected = read_mask("corrected/train_mask/b.png", find_class_set("classes.json"), keep_sets=True)
    assert corrected[-1, :4].tolist() == [20, 19, 255, 0]  # no set is the mirror image of the third


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sheet", "train/train_mask/a.png"), "holds the files to read"),
        (("--fix_left_right", "train/train_mask"), "lies in the data set's own folders"),
        (("--fix_left_right", "link/inside"), "lies in the data set's own folders"),
        (("--fix_left_right", "."), "exists already"),
    ],
)
def test_outputs_are_new_and_elsewhere(dataset, refusal, flags, message):
    Path("link").symlink_to("val/val_mask")
    assert message in refusal(check_dataset, "--dataset_dir", ".", *flags)


def test_every_bad_file_is_listed_before_the_script_ends(dataset, capsys):
    Image.new("RGB", (32, 32)).save("train/train_mask/a.png")
    write_label_map(Path("train/train_mask/b.png"), np.full((32, 32), 19, dtype=np.uint8))
    write_label_map(Path("val/val_mask/d.png"), np.zeros((32, 31), dtype=np.uint8))
    with pytest.raises(InputError, match="3 pairs cannot be used"):
        check("--fix_left_right", "out")
    printed = capsys.readouterr().out
    assert "a.png: a mask has one" in printed and "b.png: holds class id 19" in printed
    assert "d.png: is 31 x 32 but its photograph is 32 x 32" in printed
    assert not Path("out").exists()


def test_a_square_mask_that_may_lie_either_way_is_named(dataset, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    picture(1).save("train/train_image/b.jpg", exif=exif)
    with pytest.raises(InputError, match="1 pair cannot be used"):
        check()
    assert "b.png: its photograph is turned by EXIF data" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"b\.png: its photograph is turned by EXIF data"):
        train()
    write_label_map(Path("train/train_mask/b.png"), face(*ALL), is_upright=True)
    check("--fix_left_right", "corrected")
    np.testing.assert_array_equal(read_pair("train/train_image/b.jpg", "corrected/train_mask/b.png")[1], face())


def test_masks_without_any_class_are_named(dataset, capsys):
    write_label_map(Path("train/train_mask/c.png"), np.zeros((32, 32), dtype=np.uint8))
    check()
    expected = "no class but the background in 1 mask: training takes all of it for background\n  c\n"
    assert expected in capsys.readouterr().out
    for file in dataset.glob("*/*_mask/*.png"):  # as of an editor that writes white, 255, for the face
        write_label_map(file, np.where(read_mask(file) > 0, 255, 0).astype(np.uint8))
    with pytest.raises(InputError, match="hold fewer than two classes; their pixels are class ids, from 0 to 18"):
        check()


def test_a_class_set_that_lies_with_the_data_is_not_forgotten(dataset):
    Path("prepared.json").write_text('{"data_set": "LaPa"}')
    for folder in ("train_mask", "val_mask"):  # masks within a data set have its classes, others may have their own
        shutil.copytree("train/train_mask", f"corrected/{folder}")
    corrected = ("--label_dir", "corrected/train_mask", "--truth_dir", "corrected/val_mask")
    for run in (train, lambda: train(*corrected), check):
        with pytest.raises(InputError, match="has other classes; give --classes lapa"):
            run()
    Path("classes.json").write_text(json.dumps({"names": ["background", "face"]}))
    with pytest.raises(InputError, match=r"has other classes; give --classes classes\.json"):
        check()


def test_a_class_set_says_whose_left_it_means(dataset, capsys):
    for file in dataset.glob("*/*_mask/*.png"):
        write_label_map(file, face(*ALL), palette_of=CELEBAMASK)
    check()
    expected = 'reversed in 5 masks of 5: they seem to mean the viewer\'s left; say "left": "viewer"'
    assert expected in capsys.readouterr().out
    Path("viewer.json").write_text(json.dumps(CELEBAMASK.to_dict() | {"left": "viewer"}))
    check("--classes", "viewer.json")
    assert "no mask has left and right reversed" in capsys.readouterr().out
