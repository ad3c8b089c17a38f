"""A set of five classes through the whole sequence: training, tables, prediction, scores; a mix of sets is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, call

import f1score
import main_deeplab
import validate
from faceparse.data.classes import CELEBAMASK, LAPA, class_set_from_dict, find_class_set
from faceparse.data.images import read_mask, read_photo, write_label_map
from faceparse.errors import InputError
from faceparse.inference import checkpoints
from tools import make_sample_dataset

NAMES = ["background", "face", "l_eye", "r_eye", "hair"]
DESCRIPTION = {"names": NAMES, "left_right_pairs": [["l_eye", "r_eye"]], "ignored_id": 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of five classes and a network trained on it for an epoch."""
    folder = tmp_path_factory.mktemp("five")
    (folder / "five.json").write_text(json.dumps(DESCRIPTION))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = "--output_dir dataset --train 4 --val 2 --test 1 --image_size 64"
        call(make_sample_dataset, *flags.split())
        ids = np.array([NAMES.index(name) if name in NAMES else 1 for name in CELEBAMASK.names], np.uint8)
        ids[0] = 0
        for mask in folder.glob("dataset/*/*_mask/*.png"):
            write_label_map(mask, ids[read_mask(mask)])
        flags = "--classes five.json --batch_size 4 --epochs 1 --out_channels 5"
        call(main_deeplab, *flags.split(), *SMALL)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_checkpoints_carry_the_classes_and_tables_print_their_names(capsys):
    checkpoint, scores = "checkpoints/deeplab/best.pt", Path("scores_with_f1_precision_recall.txt")
    assert checkpoints.load_model(checkpoint).class_set == find_class_set("five.json")
    call(validate, "--checkpoint", checkpoint, "--save_visualizations", *SMALL)
    labels = read_mask("predictions/val_0000.png", find_class_set("five.json"))
    assert labels.shape == read_photo("dataset/val/val_image/val_0000.jpg").shape[:2] and labels.max() < 5
    call(f1score, "--classes", "five.json")
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES) and "cloth" not in printed
    with pytest.raises(InputError, match="predictions: its label maps have other classes; give theirs as --classes"):
        call(f1score)
    assert scores.read_text().count("Class ") == 5


def test_a_mix_of_class_sets_is_refused():
    checkpoint = "checkpoints/deeplab/best.pt"
    with pytest.raises(InputError, match="its 5 classes are not those of --classes"):
        call(main_deeplab, "--load_model_path", checkpoint, "--batch_size", 4, "--save_prefix", "other", *SMALL)
    with pytest.raises(InputError, match="has other classes than --classes: 5, background, face, l_eye"):
        call(validate, "--checkpoint", checkpoint, "--classes", "celebamask")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["background"]}, "names has 1 class; 2 to 255 fit"),
        ({"names": [*NAMES, "hair"]}, "names holds 'hair' twice"),
        ({"left_right_pairs": [["l_eye", "r_ear"]]}, "'r_ear', no name or twice"),
        ({"left": "mine"}, "left is 'mine'; it must be 'subject' or 'viewer'"),
        ({"ignored_id": 4}, "it must lie after 4, the id of the last class"),
        ({"colors": []}, "no other fields than names, colours"),
    ],
)
def test_a_wrong_description_is_refused_in_one_line(tmp_path, change, message):
    (tmp_path / "wrong.json").write_text(json.dumps(DESCRIPTION | change))
    with pytest.raises(InputError, match=message) as refused:
        find_class_set(str(tmp_path / "wrong.json"))
    assert "wrong.json" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("class_set", [CELEBAMASK, LAPA], ids=len)
def test_descriptions_of_older_checkpoints_do_not_say_whose_left_they_mean(class_set):
    description = class_set.to_dict()
    for each in (description, {key: value for key, value in description.items() if key != "left"}):
        assert class_set_from_dict(each, "a.pt") == class_set


def test_other_colours_are_the_same_classes(tmp_path):
    """The network is taken, and the colours are those that were asked for."""
    changes = {"colours": [[index, 0, 0] for index in range(5)], "left": "viewer"}
    (tmp_path / "red.json").write_text(json.dumps(DESCRIPTION | changes))
    red = find_class_set(str(tmp_path / "red.json"))
    assert checkpoints.load_model("checkpoints/deeplab/best.pt", class_set=red).class_set == red
    (tmp_path / "unpaired.json").write_text(json.dumps({"names": NAMES}))
    with pytest.raises(InputError, match="has other left and right pairs than --classes"):
        unpaired = find_class_set(str(tmp_path / "unpaired.json"))
        checkpoints.load_model("checkpoints/deeplab/best.pt", class_set=unpaired)
