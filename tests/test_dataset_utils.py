"""Pairs at the network's size, the training set's order, shares and caches, free memory, and errors in workers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import dataset_utils
from dataset_utils import PairDataset, TrainingSet, choose_cache, classes_in, find_pairs, free_memory, repeat_factors
from faceparse.data.classes import CELEBAMASK
from faceparse.data.images import write_label_map
from faceparse.training import distributed


def training_set(pairs, **options):
    defaults = {"image_size": 64, "class_set": CELEBAMASK, "cache": "ram", "repeat_rare": 0.0}
    return TrainingSet(pairs, **(defaults | {"device": torch.device("cpu"), "workers": 0, "seed": 0} | options))


@pytest.fixture
def pairs(sample_dataset):
    """The 8 training pairs of the drawn data set, 64 px."""
    return find_pairs(sample_dataset, "train")


def write_pair(folder, photo, mask):
    Image.fromarray(photo).save(folder / "photo.png")
    write_label_map(folder / "mask.png", mask)
    return [("a", folder / "photo.png", folder / "mask.png")]


def test_pairs_come_at_the_networks_size_and_masks_keep_their_ids(tmp_path):
    """0 and 18 only: interpolation would make ids between them. Enlarged twice, every pixel becomes four."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    mask = rng.choice([0, 18, 255], (48, 48)).astype(np.uint8)
    pair = write_pair(tmp_path, photo, mask)
    for size in (32, 48, 96):
        image, labels = PairDataset(pair, size, CELEBAMASK)[0]
        assert image.dtype == torch.uint8 and image.shape == (3, size, size) and labels.shape == (size, size)
        assert set(labels.unique().tolist()) == {0, 18, 255}
        assert size != 48 or (np.array_equal(image.permute(1, 2, 0), photo) and np.array_equal(labels, mask))
    np.testing.assert_array_equal(labels, mask.repeat(2, axis=0).repeat(2, axis=1))


def test_rectangular_pair_becomes_square_with_photograph_and_mask_in_place(tmp_path):
    """The photograph is white exactly where the mask is 1. Above and below is its reflection, ignored."""
    mask = np.zeros((48, 96), dtype=np.uint8)
    mask[12:36, 24:48] = 1
    image, labels = PairDataset(write_pair(tmp_path, np.dstack([255 * mask] * 3), mask), 64, CELEBAMASK)[0]
    expected = np.full((64, 64), 255, dtype=np.uint8)
    expected[16:48] = 0
    expected[24:40, 16:32] = 1  # two thirds of the size, as in prediction
    np.testing.assert_array_equal(labels, expected)
    white = (image > 127).all(dim=0).numpy()
    np.testing.assert_array_equal(white[16:48], expected[16:48] == 1)
    np.testing.assert_array_equal(white[:16], white[31:15:-1])


@pytest.mark.parametrize(("image_size", "side"), [(57, 64), (71, 64)])
def test_an_odd_image_size_is_rounded_to_the_networks_stride(pairs, image_size, side):
    """Other sides shift the labels by a part of a pixel of the encoder, and differ from those of prediction."""
    tested = training_set(pairs, image_size=image_size)
    assert tested.photos.shape == (8, 3, side, side) and tested.masks.shape == (8, side, side)
    assert not (tested.masks == 255).any()


@pytest.mark.parametrize("cache", ["ram", "off"])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_cache_gives_what_the_files_hold_in_the_epochs_order(pairs, cache, workers):
    """Also in the epoch after one that was left early."""
    reference = PairDataset(pairs, 64, CELEBAMASK)
    tested = training_set(pairs, cache=cache, workers=workers)
    next(tested.batches(1, batch_size=2))
    for epoch in (2, 3):
        order = tested.order(epoch).tolist()
        batches = list(tested.batches(epoch, batch_size=4))
        assert len(batches) == tested.steps(4) == 2
        for step, batch in enumerate(batches):
            expected = zip(*(reference[index] for index in order[4 * step : 4 * step + 4]), strict=True)
            assert batch[0].is_contiguous(memory_format=torch.channels_last)
            assert all(torch.equal(found, torch.stack(each)) for found, each in zip(batch, expected, strict=True))


def test_order_shows_every_image_once_and_depends_on_seed_and_epoch_alone(pairs):
    first = training_set(pairs, seed=3)
    orders = [first.order(epoch).tolist() for epoch in range(1, 6)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    again = training_set(pairs, seed=3, cache="off")
    assert [again.order(epoch).tolist() for epoch in (5, 2)] == [orders[4], orders[1]]
    assert training_set(pairs, seed=4).order(1).tolist() != orders[0]


def test_remainder_is_left_out_but_a_small_set_is_one_batch(pairs):
    """A last batch of one image would stop BatchNorm, an empty one everything; repeats change nothing in that."""
    tested = training_set(pairs)
    assert [len(photos) for photos, _ in tested.batches(1, batch_size=3)] == [3, 3]
    assert [len(photos) for photos, _ in tested.batches(1, batch_size=32)] == [8]
    tested.repeats = torch.full((8,), 1.5)
    assert {len(photos) for epoch in range(20) for photos, _ in tested.batches(epoch, batch_size=4)} == {4}


@pytest.mark.parametrize(("cache", "world_size"), [("ram", 3), ("off", 2)])
def test_processes_share_each_batch_without_overlap(pairs, monkeypatch, cache, world_size):
    tested = training_set(pairs, cache=cache)
    whole = list(tested.batches(1, batch_size=4))
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        for mine, batch in zip(tested.batches(1, batch_size=4), whole, strict=True):
            assert torch.equal(mine[0], batch[0][rank::world_size]) and torch.equal(mine[1], batch[1][rank::world_size])


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


def test_fractional_repeat_is_the_chance_of_one_more(pairs):
    tested = training_set(pairs)
    tested.repeats = torch.tensor([1.0, 1.25, 1.5, 2.0, 2.75, 1.0, 1.0, 1.0])
    counts = torch.stack([tested.order(epoch).bincount(minlength=8) for epoch in range(400)]).float()
    assert torch.equal(counts.amin(dim=0), tested.repeats.floor())
    assert torch.equal(counts.amax(dim=0), tested.repeats.ceil())
    torch.testing.assert_close(counts.mean(dim=0), tested.repeats, atol=0.08, rtol=0)  # 3 standard deviations


@pytest.mark.parametrize(
    ("cache", "needed", "device", "free", "chosen"),
    [
        ("auto", 1000, "cpu", 2001, "ram"),
        ("auto", 1001, "cpu", 2001, "off"),
        ("auto", 1000, "cuda", 4000, "gpu"),  # of 5,001 bytes a step leaves 2,001
        ("auto", 1001, "cuda", 4000, "ram"),
        ("auto", 2001, "cuda", 4000, "off"),
    ],
)
def test_auto_takes_the_fastest_memory_of_which_half_holds_the_set(monkeypatch, cache, needed, device, free, chosen):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5001, 10**6))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)  # network and optimiser, which stay
    monkeypatch.setattr(dataset_utils, "free_memory", lambda: free)
    assert choose_cache(cache, needed, SimpleNamespace(type=device)) == chosen


def limit_to(group, limit, names):
    group.mkdir(parents=True, exist_ok=True)
    (group / names[1]).write_text(f"{limit}\n")
    (group / names[2]).write_text("9000\n")
    (group / "memory.stat").write_text(f"anon 8000\n{names[3]} 300\nactive_file 20\n")


@pytest.mark.parametrize(
    ("line", "group", "names"),
    [
        ("0::/system.slice/job_7/step_0", "system.slice/job_7", dataset_utils.VERSION_2),  # the limit is the job's
        ("5:cpu,memory:/slurm/job_7", "slurm/job_7", dataset_utils.VERSION_1),
    ],
)
def test_free_memory_is_what_linux_calls_available_within_the_smallest_limit(tmp_path, monkeypatch, line, group, names):
    """In folders like those of the kernel."""
    monkeypatch.setattr(dataset_utils, "ROOT", tmp_path)
    assert free_memory() == 4 * 2**30  # not Linux
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8000 kB\nMemFree: 100 kB\nMemAvailable:  2048 kB\nHuge: 0\n")
    assert free_memory() == 2048 * 1024
    (tmp_path / "proc/self/cgroup").write_text(f"7:pids:/other\n{line}\n")
    limit_to(tmp_path / names[0] / "other", 10, names)  # of others
    limit_to(tmp_path / names[0], 2**40, names)
    unlimited = "max" if names == dataset_utils.VERSION_2 else 2**63 - 4096
    for limit, free in ((unlimited, 2048 * 1024), (10000, 10000 - 9000 + 300)):
        limit_to(tmp_path / names[0] / group, limit, names)
        assert free_memory() == free
