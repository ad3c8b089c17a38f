"""Masks that name sets of classes: their ids in training, the loss of such pixels, and a training of two data sets."""

import json

import numpy as np
import pytest
import torch
from helpers import SMALL, call

import loss
import main_deeplab
from dataset_utils import TrainingSet
from faceparse.data.augmentation import geometry
from faceparse.data.classes import CELEBAMASK, Targets, class_set_from_dict
from faceparse.data.images import list_images, read_mask, write_label_map
from faceparse.errors import InputError

NAMES = ("background", "skin", "l_eye", "r_eye", "hair")
OURS = class_set_from_dict({"names": list(NAMES), "left_right_pairs": [["l_eye", "r_eye"]]}, "ours")


def described(**changes):
    return class_set_from_dict({"names": list(NAMES), "left_right_pairs": [["l_eye", "r_eye"]]} | changes, "theirs")


def test_ids_of_other_data_sets():
    """Names decide, in any order; a set may take the place of a class; the viewer's left is the subject's right."""
    theirs = described(
        names=["hair", "background", "l_eye", "r_eye", "skin"], sets={"0": ["hair", "skin"], "9": ["hair"]}
    )
    viewers = described(left="viewer", sets={"7": ["l_eye", "hair"]})
    targets = Targets(OURS, [theirs, viewers])
    assert targets.sets == [(1, 4), (3, 4), (2, 4)]  # the last is the mirror image of the one before
    ours, first, second = targets.tables
    assert ours[:6] == [0, 1, 2, 3, 4, 255]
    assert first[:5] + first[9:11] == [5, 0, 2, 3, 1, 4, 255]
    assert second[:8] == [0, 1, 3, 2, 4, 255, 255, 6]
    assert targets.flipped_ids()[:9] == [0, 1, 3, 2, 4, 5, 7, 6, 8] and targets.flipped_ids()[255] == 255
    with pytest.raises(InputError, match="beard: no class"):
        Targets(OURS, [described(names=["background", "beard"], left_right_pairs=[])])


def test_a_flip_swaps_the_sides_of_sets_too():
    targets = Targets(OURS, [described(sets={"7": ["l_eye", "hair"], "8": ["r_eye", "hair"]})])
    masks = torch.tensor([5, 6, 2, 4]).expand(64, 4, 4)
    ranges = {"rotation": 0.0, "scale": 1.0, "shift": 0.0}
    _, flipped = geometry(torch.zeros(64, 3, 4, 4), masks, torch.Generator().manual_seed(0), targets, ranges)
    rows = {tuple(row) for row in flipped[:, 0].tolist()}
    assert rows == {(5, 6, 2, 4), (4, 3, 5, 6)}


def test_losses_against_a_naive_loop():
    """Cross-entropy is -log of the summed probability; Dice counts settled pixels alone; 255 counts nowhere."""
    generator, sets = torch.Generator().manual_seed(0), [(1, 4), (0, 2, 3)]
    logits = 2 * torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 4, 5, 6, 255])[torch.randint(8, (2, 4, 3), generator=generator)]
    pixels = loss.Pixels(logits.float(), target, sets=sets)
    p, values = logits.softmax(dim=1), []
    predicted, true, common = np.zeros((3, 5))
    for n, y, x in np.ndindex(2, 4, 3):
        t, here = target[n, y, x].item(), p[n, :, y, x].numpy()
        if t == 255:
            continue
        values.append(-np.log(here[t] if t < 5 else sum(here[each] for each in sets[t - 5])))
        if t < 5:
            predicted += here
            true[t] += 1
            common[t] += here[t]
    assert pixels.mean(-pixels.log_pt).item() == pytest.approx(np.mean(values), rel=1e-5)
    dice = np.mean((1 - 2 * common / (predicted + true))[true > 0])
    assert loss._dice(pixels, all_classes=False).item() == pytest.approx(dice, rel=1e-5)


def test_the_gradient_of_a_set_leaves_the_shares_within_it():
    """Of a pixel that is skin or hair both grow by their shares: dL/dz = p - p / (p_skin + p_hair) within the set."""
    logits = torch.tensor([0.3, 1.0, -0.5, 0.2, 0.7]).view(1, 5, 1, 1).requires_grad_()
    pixels = loss.Pixels(logits, torch.full((1, 1, 1), 5), sets=[(1, 4)])
    pixels.mean(-pixels.log_pt).backward()
    p = logits.detach().softmax(dim=1).flatten()
    expected = p.clone()
    expected[[1, 4]] -= p[[1, 4]] / p[[1, 4]].sum()
    torch.testing.assert_close(logits.grad.flatten(), expected)


def test_masks_keep_their_sets_for_training_alone(tmp_path):
    class_set = described(sets={"7": ["skin", "hair"]})
    write_label_map(tmp_path / "a.png", np.array([[0, 7, 255]], np.uint8))
    assert read_mask(tmp_path / "a.png", class_set).tolist() == [[0, 255, 255]]
    assert read_mask(tmp_path / "a.png", class_set, keep_sets=True).tolist() == [[0, 7, 255]]
    with pytest.raises(InputError, match=r"a\.png: holds class id 7"):
        read_mask(tmp_path / "a.png", OURS)
    assert class_set_from_dict(class_set.to_dict(), "again") == class_set
    assert described(sets={7: ["hair", "skin", "skin"]}) == class_set  # in checkpoints the ids may be numbers
    wrong = {"7": ["beard"]}, {"7": []}, {"7": [["skin"]]}, ["skin"], {"8" * 5000: ["skin"]}
    for sets in (*wrong, *({mask_id: ["skin"]} for mask_id in ("x", "255", "9"))):
        with pytest.raises(InputError, match="sets must"):
            described(sets=sets, ignored_id=9)


def pairs_of(folder):
    photos, masks = (list_images(folder / f"train/train_{kind}") for kind in ("image", "mask"))
    return [(stem, photos[stem], masks[stem]) for stem in photos]


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_a_stated_share_of_each_batch_is_theirs(sample_dataset, cache):
    """Their pairs are as often there as one another, whatever the number of ours."""
    pairs, theirs = pairs_of(sample_dataset), pairs_of(sample_dataset)[:3]
    options = {"image_size": 32, "class_set": CELEBAMASK, "cache": cache, "repeat_rare": 0.5, "workers": 0, "seed": 0}
    extra, targets = [(theirs, CELEBAMASK)], Targets(CELEBAMASK, [CELEBAMASK])
    options |= {"device": torch.device("cpu"), "extra": extra, "extra_share": 0.4, "targets": targets}
    training_set = TrainingSet(pairs, **options)
    batches = list(training_set.batches(1, 5))
    assert len(batches) == training_set.steps(5) and {len(photos) for photos, _ in batches} == {5}
    counts = [0, 0, 0]
    for photos, _ in batches:
        for photo in photos[3:]:
            counts[[torch.equal(photo, training_set.dataset[8 + index][0]) for index in range(3)].index(True)] += 1
    assert sum(counts) == 2 * len(batches) and max(counts) - min(counts) <= 1


def test_two_data_sets_train_one_network_and_resume(sample_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset_dir", sample_dataset, "--extra_dir", "theirs", "--batch_size", 4, *SMALL, "--augment", "none"]
    with pytest.raises(InputError, match=r"theirs/classes\.json: no such file"):
        call(main_deeplab, *flags, "--epochs", 1)
    for kind in ("image", "mask"):
        (tmp_path / f"theirs/train/train_{kind}").mkdir(parents=True)
    for stem, photo, mask in pairs_of(sample_dataset)[:4]:
        (tmp_path / "theirs/train/train_image" / photo.name).write_bytes(photo.read_bytes())
        labels = np.where(read_mask(mask) > 0, 19, 0).astype(np.uint8)
        write_label_map(tmp_path / f"theirs/train/train_mask/{stem}.png", labels)
    person = {"names": list(CELEBAMASK.names), "sets": {"19": list(CELEBAMASK.names[1:])}}
    (tmp_path / "theirs/classes.json").write_text(json.dumps(person))
    call(main_deeplab, *flags, "--epochs", 2, "--save_prefix", "whole")
    call(main_deeplab, *flags, "--epochs", 1, "--save_prefix", "parts")
    call(main_deeplab, *flags, "--epochs", 2, "--save_prefix", "parts", "--resume")
    whole, parts = (torch.load(f"checkpoints/{name}/last.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert whole["classes"]["sets"] == {}
