"""The data set's checks: left and right, near-duplicates, what it writes and what it refuses."""

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main_deeplab
from faceparse.data.checks import (
    ROWS_AT_A_TIME,
    hash_photo,
    left_right_reversed,
    listing,
    near_duplicates,
    swap_left_right,
)
from faceparse.data.classes import CELEBAMASK
from faceparse.data.drawing import colorize
from faceparse.data.images import read_mask, write_label_map
from faceparse.data.layout import advice
from faceparse.errors import InputError
from options import check_dataset_parser, train_parser
from tools import check_dataset


def check(*flags):
    check_dataset.main(check_dataset_parser("Check.").parse_args([str(flag) for flag in flags]))


def train(*flags):
    main_deeplab.main(train_parser("Train.").parse_args([str(flag) for flag in flags]))


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
def dataset(tmp_path):
    """3 train and 2 val pairs; train/b and val/e reversed; val/d a copy of train/c, the test picture a mirrored a."""
    masks = {"train": {"a": face(), "b": face(*ALL), "c": face()}, "val": {"d": face(), "e": face(*ALL)}}
    for split, stems in masks.items():
        (tmp_path / f"data/{split}/{split}_image").mkdir(parents=True)
        for stem, mask in stems.items():
            write_label_map(tmp_path / f"data/{split}/{split}_mask/{stem}.png", mask, palette_of=CELEBAMASK)
            seed = ord("c" if stem == "d" else stem)
            picture(seed).save(tmp_path / f"data/{split}/{split}_image/{stem}.jpg", quality=60 if stem == "d" else 95)
    (tmp_path / "data/test_image").mkdir()
    Image.fromarray(np.array(picture(ord("a")))[:, ::-1]).save(tmp_path / "data/test_image/f.jpg")
    return tmp_path / "data"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_majority_of_the_pairs_on_both_sides_decides():
    assert not left_right_reversed(face())
    assert left_right_reversed(face(*ALL))
    assert left_right_reversed(face(*ALL[:2]))
    assert not left_right_reversed(face(ALL[0]))
    one_sided = face(*ALL)
    one_sided[np.isin(one_sided, (5, 7))] = 1  # only the ears are left to vote
    assert left_right_reversed(one_sided)
    one_sided[one_sided == 9] = 1
    assert not left_right_reversed(one_sided)  # nothing votes
    tie = face(ALL[0])
    tie[tie == 8] = 1
    assert not left_right_reversed(tie)


def test_swap_touches_left_and_right_alone():
    every_id = np.array([[*range(19), 255]], dtype=np.uint8)
    swapped = swap_left_right(every_id)
    assert swapped.dtype == np.uint8
    assert swapped.tolist() == [[0, 1, 2, 3, 5, 4, 7, 6, 9, 8, *range(10, 19), 255]]
    np.testing.assert_array_equal(swap_left_right(face(*ALL)), face())


def test_near_duplicates_are_found_through_size_compression_and_mirroring():
    photos = [np.array(picture(seed)) for seed in range(8)]
    copy = np.array(picture(3).resize((50, 50), Image.Resampling.BILINEAR))
    mirrored = photos[5][:, ::-1]
    hashes = np.array([hash_photo(photo) for photo in photos])
    found = near_duplicates(hashes, np.array([hash_photo(copy), hash_photo(mirrored), hash_photo(photos[0] // 2)]))
    assert sorted((i, j) for _, i, j in found) == [(0, 2), (3, 0), (5, 1)]
    assert (0, 5, 1) in found
    naive = min((hashes[3, 0] != other).sum() for other in hash_photo(copy))
    assert (naive, 3, 0) in found


def test_report(dataset, capsys):
    check("--dataset_dir", dataset)
    printed = capsys.readouterr().out
    assert "train: 3 pairs; sizes 32x32 (3)" in printed
    assert "reversed in 1 mask of 3 (33.3%)\n  b\n" in printed
    assert "reversed in 1 mask of 2 (50.0%)\n  e\n" in printed
    assert "of train and val (32 bits of 256 or fewer): 1\n  train c, val d: " in printed
    assert "of train and test (32 bits of 256 or fewer): 1\n  train a, test f: " in printed
    assert "of val and test (32 bits of 256 or fewer): 0" in printed
    assert f"python -m tools.check_dataset --dataset_dir {dataset} --classes celebamask --fix_left_right OUT" in printed


def test_corrected_copies_and_sheet(dataset, tmp_path, capsys):
    before = contents(dataset)
    out = tmp_path / "new/corrected"
    check("--dataset_dir", dataset, "--fix_left_right", out, "--sheet", tmp_path / "sheet.png")
    assert contents(dataset) == before
    assert sorted(contents(out)) == [f"train_mask/{stem}.png" for stem in "abc"] + [f"val_mask/{s}.png" for s in "de"]
    for file in out.rglob("*.png"):
        np.testing.assert_array_equal(read_mask(file), face())
    unchanged = dataset / "train/train_mask/a.png"
    assert (out / "train_mask/a.png").read_bytes() == unchanged.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["corrected"]
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"
    assert "--fix_left_right OUT" not in capsys.readouterr().out  # it is being done


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("data/train/train_mask/a.png", "holds the files to read"),
        ("suspects", "no picture's name"),
        ("s.bmp", "no picture's"),
    ],
)
def test_a_sheet_takes_no_mask_s_place_and_a_picture_s_name(dataset, tmp_path, monkeypatch, sheet, message):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        check("--dataset_dir", dataset, "--sheet", sheet, "--fix_left_right", "out")
    assert contents(tmp_path) == before


def test_out_must_be_new_and_elsewhere(dataset, tmp_path):
    before = contents(tmp_path)
    (tmp_path / "link").symlink_to(dataset / "val/val_mask")
    masks = dataset / "train/train_mask"
    for out in (masks, masks / "inside", tmp_path / "link", tmp_path / "link/inside", dataset, masks / "a.png"):
        with pytest.raises(InputError, match="--fix_left_right"):
            check("--dataset_dir", dataset, "--fix_left_right", out)
    (tmp_path / "link").unlink()
    assert contents(tmp_path) == before
    (tmp_path / "empty").mkdir()
    check("--dataset_dir", dataset, "--fix_left_right", tmp_path / "empty")
    assert len(contents(tmp_path / "empty")) == 5


def test_failure_half_way_leaves_nothing(dataset, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full_disk)
    with pytest.raises(OSError, match="No space"):
        check("--dataset_dir", dataset, "--fix_left_right", tmp_path / "out/corrected")
    assert not list((tmp_path / "out").iterdir())


def test_every_bad_file_is_listed_before_the_script_ends(dataset, tmp_path):
    Image.new("RGB", (32, 32)).save(dataset / "train/train_mask/a.png")
    write_label_map(dataset / "train/train_mask/b.png", np.full((32, 32), 19, dtype=np.uint8))
    write_label_map(dataset / "val/val_mask/d.png", np.zeros((32, 31), dtype=np.uint8))
    script = Path(check_dataset.__file__)
    command = [sys.executable, script, "--dataset_dir", dataset, "--fix_left_right", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "3 pairs cannot be used" in done.stderr
    for expected in (
        "a.png: a mask has one",
        "b.png: holds class id 19",
        "d.png: is 31 x 32 but its photograph is 32 x 32",
    ):
        assert expected in done.stdout
    assert not (tmp_path / "out").exists()


def test_unmatched_files(dataset):
    (dataset / "val/val_mask/d.png").unlink()
    with pytest.raises(InputError, match=r"d\.jpg: has no mask"):
        check("--dataset_dir", dataset)


def moved(dataset, **names):
    """Rename folders of the data set: {our name with __ for /: other name}."""
    for ours, other in names.items():
        (dataset / other).parent.mkdir(parents=True, exist_ok=True)
        (dataset / ours.replace("__", "/")).rename(dataset / other)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            {"train__train_image": "train/images", "train__train_mask": "train/labels"},
            r"mv \S+/train/images \S+/train/train_image; mv \S+/train/labels \S+/train/train_mask$",
        ),
        (
            {"train__train_image": "image/train", "train__train_mask": "mask/train", "train": "old"},
            r"mkdir \S+/train; mv \S+/image/train \S+/train/train_image; mv \S+/mask/train \S+/train/train_mask$",
        ),
        ({"val__val_mask": "val_mask"}, r"rename what is there: mv \S+/val_mask \S+/val/val_mask$"),
        ({"train": "inner/train", "val": "inner/val"}, "inner has the layout: give it as --dataset_dir"),
        ({"train__train_image": "images", "train__train_mask": "masks"}, "images/ and masks/ have no splits"),
        ({"train": "CelebA-HQ-img"}, r"python -m tools.prepare_celebamask --source \S+ --output_dir dataset"),
        ({"train": "other"}, "a data set holds train/train_image"),
    ],
)
def test_what_to_do_with_another_layout(dataset, names, expected):
    moved(dataset, **names)
    with pytest.raises(InputError, match=f"no such folder; .*{expected}"):
        check("--dataset_dir", dataset)


def test_the_moves_that_are_advised_help(dataset):
    moved(dataset, train__train_image="train/images", val__val_mask="labels/val")
    with pytest.raises(InputError) as error:
        check("--dataset_dir", dataset)
    subprocess.run(str(error.value).split("rename what is there: ")[1], shell=True, check=True)
    check("--dataset_dir", dataset)


def test_a_list_of_pairs_is_explained(dataset):
    (dataset / "train/train_mask/a.png").rename(dataset / "train/train_mask/seg_a.png")
    (dataset / "pairs.csv").write_text("photo,mask\ntrain_image/a.jpg, train_mask/seg_a.png\n")
    with pytest.raises(InputError, match=r"a\.jpg: has no mask .*pairs\.csv lists pairs.*seg_a\.png to a\.png"):
        check("--dataset_dir", dataset)


def test_masks_of_one_class_are_refused(dataset):
    """As of an editor that writes white for the face: 255 is ignored."""
    for file in dataset.glob("*/*_mask/*.png"):
        write_label_map(file, np.where(read_mask(file) > 0, 255, 0).astype(np.uint8))
    with pytest.raises(InputError, match="hold fewer than two classes; their pixels are class ids, from 0 to 18"):
        check("--dataset_dir", dataset)


@pytest.mark.parametrize("script", [check, train])
def test_a_class_set_that_lies_with_the_data_is_not_forgotten(dataset, script, monkeypatch):
    monkeypatch.chdir(dataset)
    (dataset / "prepared.json").write_text('{"data_set": "LaPa"}')
    with pytest.raises(InputError, match="has other classes; give --classes lapa"):
        script("--dataset_dir", dataset)
    (dataset / "classes.json").write_text(json.dumps({"names": ["background", "face"]}))
    with pytest.raises(InputError, match=r"has other classes; give --classes .*data/classes\.json"):
        script("--dataset_dir", dataset)
    (dataset / "classes.json").write_text("[]")
    with pytest.raises(InputError, match=r"classes\.json: .*rename it if it does not describe these masks"):
        script("--dataset_dir", dataset)
    (dataset / "classes.json").write_text(json.dumps(CELEBAMASK.to_dict() | {"ignored_id": 99}))
    check("--dataset_dir", dataset)  # they are the same classes


def colour_masks(folder, change):
    for file in folder.glob("*.png"):
        Image.fromarray(change(read_mask(file) % 255)).save(file)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (colorize, r"the colours of a\.png are those of --classes celebamask: \(0, 0, 0\) is 0 \(background\), .*skin"),
        (lambda mask: np.stack([mask] * 3, axis=2), r"the three channels of a\.png are equal: keep one"),
        (lambda mask: colorize(mask)[..., ::-1], r"the colours of a\.png are of no known class set: \(0, 0, 0\), "),
        (
            lambda mask: np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), dtype=np.uint8),
            r"a\.png has more colours than there are classes",
        ),
        (lambda mask: mask.astype(np.uint16), r"a\.png has more than 8 bits a pixel"),
    ],
)
def test_masks_in_colour_are_explained(dataset, capsys, change, expected):
    colour_masks(dataset / "train/train_mask", change)
    with pytest.raises(InputError, match="3 pairs cannot be used"):
        check("--dataset_dir", dataset)
    assert re.search(expected, capsys.readouterr().out)


def test_long_lists_are_cut():
    lines = [str(number) for number in range(53)]
    assert listing(lines).splitlines()[-2:] == ["  49", "  ... and 3 more"]
    assert listing(lines[:50]).splitlines()[-1] == "  49" and listing([]) == ""


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


def test_masks_of_test_photographs_are_checked_too(dataset, capsys):
    write_label_map(dataset / "test_mask/f.png", face(*ALL), palette_of=CELEBAMASK)
    check("--dataset_dir", dataset)
    printed = capsys.readouterr().out
    assert (
        "test: 1 pair;" in printed and "of train and test (32 bits of 256 or fewer): 1\n  train a, test f: " in printed
    )
    assert "left and right are reversed in 3 masks of 6: write corrected copies" in printed


def test_an_empty_test_split_is_none(dataset, capsys):
    for folder in ("test_image", "test_mask"):
        (dataset / folder).mkdir(exist_ok=True)
        for path in (dataset / folder).iterdir():
            path.unlink()
    check("--dataset_dir", dataset)
    assert "fit to train on" in capsys.readouterr().out


def test_a_set_that_means_the_pictures_left_is_told_apart(dataset, capsys):
    for folder in ("train/train_mask", "val/val_mask"):
        for file in (dataset / folder).iterdir():
            write_label_map(file, face(*ALL), palette_of=CELEBAMASK)
    check("--dataset_dir", dataset)
    assert (
        "left and right are reversed in 5 masks of 5. If the left eye's class is at the left" in capsys.readouterr().out
    )


@pytest.mark.parametrize("inner", ["train", "train/train_image"])
def test_a_folder_within_a_data_set_is_told_the_data_set(dataset, inner):
    assert advice(dataset / inner) == f"{dataset} has the layout: give it as --dataset_dir"


def test_masks_that_lie_elsewhere_have_classes_of_their_own(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (dataset / "prepared.json").write_text('{"data_set": "LaPa"}')
    shutil.copytree(dataset / "train/train_mask", tmp_path / "elsewhere")
    elsewhere = ("--label_dir", tmp_path / "elsewhere", "--truth_dir", tmp_path / "missing")
    with pytest.raises(InputError, match="missing: no such"):
        train("--dataset_dir", dataset, *elsewhere)


def test_corrected_masks_within_a_data_set_have_its_classes(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (dataset / "prepared.json").write_text('{"data_set": "LaPa"}')
    corrected = dataset / "corrected"
    folders = ("--label_dir", corrected / "train_mask", "--truth_dir", corrected / "val_mask")
    for folder in folders[1::2]:
        shutil.copytree(dataset / "train/train_mask", folder)
    with pytest.raises(InputError, match="has other classes; give --classes lapa"):
        train("--dataset_dir", dataset, *folders)
