"""Reading of pairs and photographs, the training set's order, shares and caches, and how errors leave a worker."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from two_processes import in_two_processes

import dataset_utils
from dataset_utils import (
    PairDataset,
    TrainingSet,
    choose_cache,
    classes_in,
    find_pairs,
    repeat_factors,
)
from faceparse.data.classes import CELEBAMASK, LAPA
from faceparse.data.images import read_pair, write_label_map
from faceparse.errors import InputError
from faceparse.parallel import usable_cores
from faceparse.training import distributed

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)


def write_photo(path, height, width):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def training_set(pairs, **options):
    defaults = {"image_size": 64, "class_set": CELEBAMASK, "cache": "ram", "repeat_rare": 0.0}
    return TrainingSet(pairs, **(defaults | {"device": CPU, "workers": 0, "seed": 0} | options))


def as_processes(monkeypatch, rank, world_size):
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)


@pytest.fixture
def pairs(sample_dataset):
    """The 8 training pairs of the drawn data set, 64 px."""
    return find_pairs(sample_dataset, "train")


@pytest.fixture
def damaged_pairs(sample_dataset, tmp_path):
    """The same pairs in another folder, with the fourth photograph truncated."""
    shutil.copytree(sample_dataset / "train", tmp_path / "train")
    path = tmp_path / "train/train_image/train_0003.jpg"
    path.write_bytes(path.read_bytes()[:400])
    return find_pairs(tmp_path, "train")


def test_pairs_are_found_by_stem(sample_dataset, tmp_path):
    pairs = find_pairs(sample_dataset, "val")
    assert [stem for stem, _, _ in pairs] == [f"val_{index:04d}" for index in range(5)]
    assert pairs[2][1:] == (
        sample_dataset / "val/val_image/val_0002.jpg",
        sample_dataset / "val/val_mask/val_0002.png",
    )
    shutil.copytree(sample_dataset / "val/val_mask", tmp_path / "merged")
    assert find_pairs(sample_dataset, "val", tmp_path / "merged")[2][2] == tmp_path / "merged/val_0002.png"


def test_missing_split_names_the_layout(tmp_path):
    with pytest.raises(InputError, match=r"train: no such folder.*val/val_mask"):
        find_pairs(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="train_image: no such file or folder"):
        find_pairs(tmp_path, "train")


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("train_mask/train_0005.png", r"train_0005\.jpg: has no mask train_0005\."),
        ("train_image/train_0005.jpg", r"train_0005\.png: has no photograph"),
    ],
)
def test_file_without_partner_is_named(sample_dataset, tmp_path, removed, message):
    shutil.copytree(sample_dataset / "train", tmp_path / "train")
    (tmp_path / "train" / removed).unlink()
    with pytest.raises(InputError, match=message):
        find_pairs(tmp_path, "train")


def test_photograph_and_mask_must_be_of_one_size(tmp_path):
    photo = write_photo(tmp_path / "a.png", 6, 9)
    write_label_map(tmp_path / "mask.png", np.zeros((9, 6), dtype=np.uint8))
    with pytest.raises(InputError, match=r"mask\.png: is 6 x 9 but its photograph is 9 x 6"):
        read_pair(photo, tmp_path / "mask.png")


def test_the_class_set_bounds_the_ids_of_a_pair(tmp_path):
    photo = write_photo(tmp_path / "a.png", 4, 4)
    write_label_map(tmp_path / "mask.png", np.full((4, 4), 11, dtype=np.uint8))
    assert (read_pair(photo, tmp_path / "mask.png", CELEBAMASK)[1] == 11).all()
    with pytest.raises(InputError, match="class id 11"):
        read_pair(photo, tmp_path / "mask.png", LAPA)  # 11 classes


def test_pairs_come_at_the_networks_size_and_masks_keep_their_ids(tmp_path):
    """0 and 18 only: interpolation would make ids between them. Enlarged twice, every pixel becomes four."""
    mask = RANDOM.choice([0, 18, 255], (40, 40)).astype(np.uint8)
    photo = write_photo(tmp_path / "a.png", 40, 40)
    write_label_map(tmp_path / "mask.png", mask)
    pair = [("a", photo, tmp_path / "mask.png")]
    for size in (32, 80):
        image, labels = PairDataset(pair, size, CELEBAMASK)[0]
        assert image.dtype == labels.dtype == torch.uint8
        assert image.shape == (3, size, size) and labels.shape == (size, size)
        assert set(labels.unique().tolist()) == {0, 18, 255}
    np.testing.assert_array_equal(labels, mask.repeat(2, axis=0).repeat(2, axis=1))


def test_pair_of_the_networks_size_is_what_the_files_hold(pairs):
    dataset = PairDataset(pairs, 64, CELEBAMASK)
    assert len(dataset) == 8
    image, labels = dataset[3]
    with Image.open(pairs[3][1]) as photo, Image.open(pairs[3][2]) as mask:
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.array(photo))
        np.testing.assert_array_equal(labels, np.array(mask))


def test_rectangular_pair_becomes_square_with_photograph_and_mask_in_place(tmp_path):
    """The photograph is white exactly where the mask is 1. Above and below is its reflection, ignored."""
    mask = np.zeros((48, 96), dtype=np.uint8)
    mask[12:36, 24:48] = 1
    Image.fromarray(np.dstack([255 * mask] * 3)).save(tmp_path / "a.png")
    write_label_map(tmp_path / "mask.png", mask)
    image, labels = PairDataset([("a", tmp_path / "a.png", tmp_path / "mask.png")], 64, CELEBAMASK)[0]
    expected = np.full((64, 64), 255, dtype=np.uint8)
    expected[16:48] = 0
    expected[24:40, 16:32] = 1  # two thirds of the size, as in prediction
    np.testing.assert_array_equal(labels, expected)
    white = (image > 127).all(dim=0).numpy()
    np.testing.assert_array_equal(white[16:48], expected[16:48] == 1)
    np.testing.assert_array_equal(white[:16], white[31:15:-1])


@pytest.mark.parametrize("cache", ["ram", "disk", "off"])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_cache_gives_what_the_files_hold_in_the_epochs_order(pairs, tmp_path, cache, workers):
    reference = PairDataset(pairs, 64, CELEBAMASK)
    tested = training_set(pairs, cache=cache, workers=workers, cache_dir=tmp_path)
    for epoch in (1, 2):
        order = tested.order(epoch).tolist()
        batches = list(tested.batches(epoch, batch_size=4))
        assert len(batches) == tested.steps(4) == 2
        for step, (photos, masks) in enumerate(batches):
            expected = [reference[index] for index in order[4 * step : 4 * step + 4]]
            assert photos.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(photos, torch.stack([photo for photo, _ in expected]))
            assert torch.equal(masks, torch.stack([mask for _, mask in expected]))


def test_epochs_are_read_by_the_same_processes_and_no_more_than_cores(pairs, monkeypatch, recwarn):
    monkeypatch.setattr(dataset_utils, "read_pair", with_process_id)
    tested = training_set(pairs, cache="off", workers=99)
    readers = [photos.flatten(1)[:, :4] for epoch in (1, 2, 3) for photos, _ in tested.batches(epoch, batch_size=4)]
    ids = {bytes(each.tolist()) for batch in readers for each in batch}
    assert 1 <= len(ids) <= usable_cores() and os.getpid().to_bytes(4, "big") not in ids
    assert not recwarn


def with_process_id(photo_path, mask_path, class_set):
    """Return a pair whose photograph's first four pixels hold, in red, the number of the process that reads it."""
    photo, mask = read_pair(photo_path, mask_path, class_set)
    photo[0, :4, 0] = list(os.getpid().to_bytes(4, "big"))
    return photo, mask


def test_an_epoch_that_was_left_does_not_disturb_the_next(pairs):
    tested, whole = training_set(pairs, cache="off", workers=2), training_set(pairs)
    next(tested.batches(1, batch_size=2))
    for batch, expected in zip(tested.batches(2, 2), whole.batches(2, 2), strict=True):
        assert torch.equal(batch[0], expected[0]) and torch.equal(batch[1], expected[1])


def test_order_shows_every_image_once_and_depends_on_seed_and_epoch_alone(pairs):
    torch.manual_seed(1)
    first = training_set(pairs, seed=3)
    orders = [first.order(epoch).tolist() for epoch in range(1, 6)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    torch.manual_seed(2)
    again = training_set(pairs, seed=3, cache="off")
    assert [again.order(epoch).tolist() for epoch in (5, 2)] == [orders[4], orders[1]]
    assert training_set(pairs, seed=4).order(1).tolist() != orders[0]


def test_remainder_is_left_out_but_a_small_set_is_one_batch(pairs):
    tested = training_set(pairs)
    assert [len(photos) for photos, _ in tested.batches(1, batch_size=3)] == [3, 3]
    assert [len(photos) for photos, _ in tested.batches(1, batch_size=32)] == [8]


@pytest.mark.parametrize("cache", ["ram", "off"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_batch_without_overlap(pairs, monkeypatch, cache, world_size):
    tested = training_set(pairs, cache=cache)
    whole = list(tested.batches(1, batch_size=4))
    shares = []
    for rank in range(world_size):
        as_processes(monkeypatch, rank, world_size)
        shares.append(list(tested.batches(1, batch_size=4)))
    for step, (photos, masks) in enumerate(whole):
        assert sum(len(share[step][0]) for share in shares) == 4
        for rank, share in enumerate(shares):
            assert torch.equal(share[step][0], photos[rank::world_size])
            assert torch.equal(share[step][1], masks[rank::world_size])


def fill_a_share(rank, pairs, out, cache):
    """Read the set as one of two processes; save what the cache holds then and which files were read."""
    stems_read, read_pair = [], dataset_utils.read_pair
    dataset_utils.read_pair = lambda *args: stems_read.append(args[0].stem) or read_pair(*args)
    tested = training_set(pairs, cache=cache, cache_dir=out / "decoded", repeat_rare=0.9)
    torch.save((tested.photos.clone(), tested.masks.clone(), tested.repeats, stems_read), out / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_processes_of_a_host_read_a_share_each_and_hold_the_set_once(pairs, tmp_path, cache):
    before = set(Path("/dev/shm").glob("face_parser_*"))
    in_two_processes(fill_a_share, pairs, tmp_path, cache)
    alone, stems = training_set(pairs, repeat_rare=0.9), [stem for stem, _, _ in pairs]
    for rank in range(2):
        photos, masks, repeats, stems_read = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(photos, alone.photos) and torch.equal(masks, alone.masks)
        assert torch.equal(repeats, alone.repeats)
        assert stems_read == stems[rank::2]
    assert set(Path("/dev/shm").glob("face_parser_*")) == before


def test_repeat_factors_hand_worked():
    """Four images, share 1/2: class 1 is in one, f = 1/4, sqrt((1/2) / (1/4)) = sqrt(2); class 2 is in two, so 1."""
    masks = [torch.tensor([ids], dtype=torch.uint8) for ids in ([0, 0, 1], [0, 2, 255], [0, 2, 2], [0, 255, 255])]

    def factors(share):
        return repeat_factors(torch.stack([classes_in(mask, 4) for mask in masks]), share).tolist()

    assert factors(0.5) == pytest.approx([2**0.5, 1, 1, 1])
    # Share 1: sqrt(1 / (1/4)) = 2 for class 1, sqrt(1 / (2/4)) = sqrt(2) for class 2; class 3 and 255 are nowhere.
    assert factors(1.0) == pytest.approx([2, 2**0.5, 2**0.5, 1])
    masks[1][0, 0] = 1  # was class 0, which three images keep: sqrt(1 / (3/4)), the largest only for the last image
    assert factors(1.0) == pytest.approx([2**0.5, 2**0.5, 2**0.5, (4 / 3) ** 0.5])


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_repeats_are_counted_from_the_masks_of_the_set(pairs, cache):
    share = 0.9
    present = np.array([[index in np.array(Image.open(mask)) for index in range(19)] for _, _, mask in pairs])
    factors = np.sqrt(share / present.mean(axis=0)).clip(min=1)
    expected = [factors[row].max() for row in present]
    assert max(expected) > 1.3
    tested = training_set(pairs, cache=cache, repeat_rare=share)
    np.testing.assert_allclose(tested.repeats, expected, rtol=1e-6)


def test_fractional_repeat_is_the_chance_of_one_more(pairs):
    tested = training_set(pairs)
    tested.repeats = torch.tensor([1.0, 1.25, 1.5, 2.0, 2.75, 1.0, 1.0, 1.0])
    counts = torch.stack([tested.order(epoch).bincount(minlength=8) for epoch in range(400)]).float()
    assert torch.equal(counts.amin(dim=0), tested.repeats.floor())
    assert torch.equal(counts.amax(dim=0), tested.repeats.ceil())
    torch.testing.assert_close(counts.mean(dim=0), tested.repeats, atol=0.08, rtol=0)  # 3 standard deviations


def test_batches_stay_full_when_images_are_repeated(pairs):
    """A last batch of one image stops BatchNorm, an empty one stops everything."""
    tested = training_set(pairs)
    tested.repeats = torch.full((8,), 1.5)
    sizes = [len(photos) for epoch in range(20) for photos, _ in tested.batches(epoch, batch_size=4)]
    assert set(sizes) == {4}


# The whole message is one line; a DataLoader by itself would add the traceback of its worker.
damage_is_named = pytest.raises(InputError, match=r"\A[^\n]*train_0003\.jpg: not a readable image[^\n]*\Z")


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_file_is_named_when_the_cache_is_filled(damaged_pairs, workers):
    with damage_is_named:
        training_set(damaged_pairs, cache="ram", workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_file_is_named_when_read_in_an_epoch(damaged_pairs, workers):
    tested = training_set(damaged_pairs, cache="off", workers=workers)
    with damage_is_named:
        list(tested.batches(1, batch_size=2))
    damaged_pairs[3][2].write_bytes(b"no mask")
    with pytest.raises(InputError, match=r"\A[^\n]*train_0003\.png: not a readable image[^\n]*\Z"):
        training_set(damaged_pairs, cache="off", workers=workers, repeat_rare=0.5)


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_asked_for_caches_are_taken_whatever_the_memory(monkeypatch, cache):
    monkeypatch.setattr(dataset_utils, "free_memory", lambda: 0 if cache == "ram" else 10**12)
    assert choose_cache(cache, 1000, CPU) == cache


def test_auto_takes_ram_where_half_of_the_free_memory_holds_the_set(monkeypatch):
    monkeypatch.setattr(dataset_utils, "free_memory", lambda: 2001)
    assert choose_cache("auto", 1000, CPU) == "ram"
    assert choose_cache("auto", 1001, CPU) == "off"
    as_processes(monkeypatch, 0, 2)  # they share the memory
    assert choose_cache("auto", 1000, CPU) == "ram"


def test_auto_takes_the_gpu_where_half_of_what_a_step_leaves_free_holds_the_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5001, 10**6))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)  # network and optimiser, which stay
    monkeypatch.setattr(dataset_utils, "free_memory", lambda: 4000)
    device = SimpleNamespace(type="cuda")
    assert choose_cache("auto", 1000, device) == "gpu"
    assert choose_cache("auto", 1001, device) == "ram"
    assert choose_cache("auto", 2001, device) == "off"
    assert choose_cache("gpu", 10**9, device) == "gpu"


@pytest.mark.parametrize(("memory", "cache"), [(24e9, "off"), (64e9, "ram")])
def test_auto_reads_the_official_set_from_disk_on_24_gb_and_says_so(pairs, monkeypatch, memory, cache, capsys):
    """24,183 pairs of 512 px are 25.4 GB."""
    monkeypatch.setattr(dataset_utils, "free_memory", lambda: memory)
    monkeypatch.setattr(TrainingSet, "_decoded", lambda self: (None, None))
    assert training_set(pairs[:1] * 24183, image_size=512, cache="auto").cache == cache
    assert ("25.4 GB of decoded pictures" in capsys.readouterr().out) == (cache == "off")


def test_gpu_cache_without_cuda_is_bad_input(pairs):
    with pytest.raises(InputError, match="--cache gpu: there is no CUDA"):
        training_set(pairs, cache="gpu")


def test_training_set_counts_four_bytes_a_pixel(pairs, monkeypatch):
    """A pixel takes three bytes in the photograph and one in the mask."""
    needed = 8 * 64 * 64 * 4
    monkeypatch.setattr(dataset_utils, "free_memory", lambda: 2 * needed + 1)
    assert training_set(pairs, cache="auto").cache == "ram"
    monkeypatch.setattr(dataset_utils, "free_memory", lambda: 2 * needed)
    assert training_set(pairs, cache="auto").cache == "off"
