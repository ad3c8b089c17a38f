"""Label maps in the order of other programs, or with classes merged."""

import json

import numpy as np
import pytest
from helpers import PREDICT, SMALL, THEIR_IDS, call
from PIL import Image

import f1score
import parse_faces
import validate
from faceparse.data.classes import BISENET, CELEBAMASK, find_ids
from faceparse.data.images import list_images, read_maker, read_mask, write_label_map
from faceparse.errors import InputError

HEADS = {"names": ["background", "head", "hair"], "from": {"head": ["skin", "nose"]}}


def write(path, description):
    path.write_text(json.dumps(description))
    return path


def test_the_other_order_is_as_published_and_its_flip_swaps_the_same_classes():
    class_set, ids = find_ids("bisenet", CELEBAMASK)
    assert class_set == BISENET and tuple(ids[:19]) == THEIR_IDS
    flipped = [THEIR_IDS[CELEBAMASK.flipped_ids()[each]] for each in range(19)]
    assert flipped == [BISENET.flipped_ids()[each] for each in THEIR_IDS]


def test_classes_are_merged_and_the_rest_is_background(tmp_path):
    class_set, ids = find_ids(str(write(tmp_path / "heads.json", HEADS)), CELEBAMASK)
    assert class_set.names == ("background", "head", "hair")
    assert {old: new for old, new in enumerate(ids) if new} == {1: 1, 2: 1, 13: 2}


def test_the_viewers_left_eye_is_the_subjects_right_one(tmp_path):
    eyes = {"names": ["background", "l_eye", "eyes"], "left": "viewer", "from": {"eyes": ["r_eye"]}}
    _, ids = find_ids(str(write(tmp_path / "eyes.json", eyes)), CELEBAMASK)
    assert (ids[CELEBAMASK.id_of("r_eye")], ids[CELEBAMASK.id_of("l_eye")]) == (1, 2)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"names": ["background", "head"]}, "--ids .*wrong.json: head: no class of this network; it has background"),
        (HEADS | {"from": {"head": ["skin", "hair"]}}, "hair is in head and in hair"),
        (HEADS | {"from": {"heads": ["skin"]}}, "from must map names of its classes"),
        (HEADS | {"from": {"head": "skin"}}, "from must map names of its classes"),
        (HEADS | {"merge": {}}, "no other fields than names, colours"),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(tmp_path, description, message):
    with pytest.raises(InputError, match=message) as refused:
        find_ids(str(write(tmp_path / "wrong.json", description)), CELEBAMASK)
    assert "\n" not in str(refused.value)


def test_scores_are_the_same_in_the_other_order_and_a_mixture_is_refused(place, capsys):
    call(validate, *PREDICT, "--output_dir", "ours")
    call(validate, *PREDICT, "--output_dir", "theirs", "--ids", "bisenet")
    for stem, path in list_images("dataset/val/val_mask").items():
        write_label_map(place / f"masks/{stem}.png", np.array(THEIR_IDS, np.uint8)[read_mask(path)])
        expected = np.array(THEIR_IDS)[read_mask(f"ours/{stem}.png")]
        np.testing.assert_array_equal(read_mask(f"theirs/{stem}.png", BISENET), expected)
    tables = []
    for folder, truth, classes in (("ours", "dataset/val/val_mask", "celebamask"), ("theirs", "masks", "bisenet")):
        capsys.readouterr()
        call(f1score, "--submit_dir", folder, "--truth_dir", truth, "--classes", classes)
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        tables.append({row[1]: row[2:] for row in rows if row[0].isdigit()})
    assert tables[0] == tables[1] and len(tables[0]) == 19
    with pytest.raises(InputError, match="theirs: its label maps have other classes; give theirs as --classes"):
        call(f1score, "--submit_dir", "theirs", "--truth_dir", "dataset/val/val_mask")


def test_parse_faces_merges_classes_and_the_record_tells_two_ways_apart(place):
    (photo, *_) = list_images("dataset/val/val_image").values()
    heads, other = HEADS, HEADS | {"from": {"head": ["skin", "neck"]}}
    flags = (photo, "--whole", "--checkpoint", "model.pt", *SMALL[:2])
    for name, description in (("ours", None), ("heads", heads), ("other", other)):
        more = ["--ids", write(place / f"{name}.json", description)] if description else []
        call(parse_faces, *flags, "--output_dir", name, *more)
    files = [place / name / f"{photo.stem}.png" for name in ("ours", "heads", "other")]
    ours, merged = (np.array(Image.open(file)) for file in files[:2])
    np.testing.assert_array_equal(merged, np.select([np.isin(ours, (1, 2)), ours == 13], [1, 2], 0))
    assert len({read_maker(file).split(", ids ")[-1] for file in files}) == 3
