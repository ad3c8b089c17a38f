"""The file of the decoded training set: made once for the same pictures, whole or not at all."""

import os
import shutil

import pytest
import torch

import dataset_utils
from dataset_utils import TrainingSet, find_pairs
from faceparse import files as locking
from faceparse.data import decoded_file
from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.data.decoded_file import decoded_path
from faceparse.errors import InputError


@pytest.fixture
def pairs(sample_dataset, tmp_path):
    shutil.copytree(sample_dataset / "train", tmp_path / "train")
    return find_pairs(tmp_path, "train")


def training_set(pairs, folder, **options):
    defaults = {"image_size": 32, "class_set": CELEBAMASK, "cache": "disk", "cache_dir": folder / "decoded"}
    defaults |= {"repeat_rare": 0, "device": torch.device("cpu"), "workers": 0, "seed": 0}
    return TrainingSet(pairs, **(defaults | options))


def test_the_second_run_decodes_nothing_and_sees_the_same(pairs, tmp_path, monkeypatch):
    first = training_set(pairs, tmp_path)
    assert [path.stat().st_size for path in (tmp_path / "decoded").iterdir()] == [8 * 4 * 32 * 32]
    monkeypatch.setattr(dataset_utils, "read_pair", lambda *_: pytest.fail("reads a picture"))
    second = training_set(pairs, tmp_path)
    assert torch.equal(first.photos, second.photos) and torch.equal(first.masks, second.masks)
    monkeypatch.undo()
    in_memory = training_set(pairs, tmp_path, cache="ram")
    assert torch.equal(first.photos, in_memory.photos) and torch.equal(first.masks, in_memory.masks)


def test_a_run_waits_for_another_that_decodes_the_same(pairs, tmp_path, monkeypatch, capsys):
    first = training_set(pairs, tmp_path)
    (path,) = (tmp_path / "decoded").iterdir()
    path.rename(tmp_path / "elsewhere")
    lock = locking.locked(tmp_path / "decoded")
    assert lock.__enter__()

    def other_run_ends(_seconds):
        (tmp_path / "elsewhere").rename(path)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(decoded_file.time, "sleep", other_run_ends)
    monkeypatch.setattr(dataset_utils, "read_pair", lambda *_: pytest.fail("reads a picture"))
    second = training_set(pairs, tmp_path)
    assert torch.equal(first.photos, second.photos)
    assert "another run is decoding; waiting for it" in capsys.readouterr().out


def test_the_fingerprint_follows_all_that_the_bytes_follow_from(pairs, tmp_path):
    path = decoded_path(tmp_path, pairs, 32, CELEBAMASK)
    assert path == decoded_path(tmp_path, pairs, 32, CELEBAMASK)
    others = [decoded_path(tmp_path, pairs, 64, CELEBAMASK), decoded_path(tmp_path, pairs, 32, LAPA)]
    others += [decoded_path(tmp_path, pairs[:-1], 32, CELEBAMASK), decoded_path(tmp_path, pairs[::-1], 32, CELEBAMASK)]
    photo, mask = pairs[3][1:]
    os.utime(mask, ns=(0, 0))
    others.append(decoded_path(tmp_path, pairs, 32, CELEBAMASK))
    photo.write_bytes(photo.read_bytes() + b" ")
    others.append(decoded_path(tmp_path, pairs, 32, CELEBAMASK))
    assert len({path, *others}) == 7


def test_a_damaged_photograph_leaves_no_file(pairs, tmp_path):
    pairs[5][1].write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"train_0005\.jpg: not a readable image"):
        training_set(pairs, tmp_path)
    assert list((tmp_path / "decoded").iterdir()) == []


def test_what_a_killed_process_left_is_written_again(pairs, tmp_path):
    expected = training_set(pairs, tmp_path).photos.clone()
    (file,) = (tmp_path / "decoded").iterdir()
    file.rename(file.with_suffix(".unfinished")).write_bytes(b"half of it")
    file.with_name("32px_of_other_pairs.unfinished").write_bytes(b"half of another")
    assert torch.equal(training_set(pairs, tmp_path).photos, expected)
    assert list((tmp_path / "decoded").iterdir()) == [file]


def test_a_full_disk_is_named_before_anything_is_decoded(pairs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded_file.os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(dataset_utils, "read_pair", lambda *_: pytest.fail("reads a picture"))
    with pytest.raises(InputError, match=r"decoded.32px_\w+\.bin: cannot be written \(No space left.*0\.0 GB"):
        training_set(pairs, tmp_path)
    assert list((tmp_path / "decoded").iterdir()) == []
