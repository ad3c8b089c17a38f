"""The training set: pairs of photographs and masks as uint8 batches, from memory or read anew, in a seeded order."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from tqdm import tqdm

from faceparse.data.classes import IGNORE_INDEX, Targets
from faceparse.data.images import list_images, match_pairs, read_pair, resize
from faceparse.data.layout import advice, split_folders
from faceparse.errors import InputError
from faceparse.inference.image_size import fitted_size, round_to_stride
from faceparse.parallel import usable_cores
from faceparse.training import distributed


def find_pairs(dataset_dir, split, label_dir=None, more_photos=()):
    """Return [(stem, photograph path, mask path)] of "train" or "val"; `label_dir` replaces the split's own masks.

    `more_photos` are further folders, whose masks lie in `label_dir` too. Raises InputError for a missing folder, and
    for a photograph without mask or the reverse.
    """
    image_dir, mask_dir = split_folders(dataset_dir, split)
    if not image_dir.parent.is_dir():
        raise InputError(f"{image_dir.parent}: no such folder; {advice(Path(dataset_dir))}")
    return match_pairs(image_dir, label_dir or mask_dir, more_photos)


def find_unlabelled(folders, pairs):
    """Return [(stem, photograph path, None)] of the photographs in `folders`, which have no masks.

    Raises InputError if one has the stem of another, or of a photograph of `pairs`: their masks will lie together.
    """
    list_images(*folders, *(photo for _, photo, _ in pairs))
    return [(stem, photo, None) for stem, photo in list_images(*folders).items()]


def epoch_seed(seed, epoch, purpose, *step):
    """Return a seed for one purpose in one epoch, or in one step of a process: `step` is (process, step).

    It follows from --seed, so a resumed run draws the same numbers.
    """
    purpose = ("order", "augmentation", "extra").index(purpose)
    return int(np.random.SeedSequence([seed, epoch, purpose, *step]).generate_state(1, np.uint64)[0]) >> 1


class PairDataset(Dataset):
    """Training pairs at the network's size: uint8 photograph [3, S, S] and mask [S, S]; an InputError in their place.

    S is `image_size` rounded to the networks' stride. As in prediction the longer side becomes S. The rest of the
    square reflects the photograph, and is 255 in the mask. `table` gives the 256 ids of `class_set` others.
    """

    def __init__(self, pairs, image_size, class_set, table=None):
        self.pairs, self.image_size, self.class_set = pairs, round_to_stride(image_size), class_set
        self.table = np.array(table or range(256), np.uint8)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        try:
            return self.read(index)
        except InputError as error:  # returned, because a DataLoader would wrap it in a traceback
            return error

    def read(self, index):
        _, photo_path, mask_path = self.pairs[index]
        photo, mask = read_pair(photo_path, mask_path, self.class_set, keep_sets=True)
        photo = self.fit(photo, mode="symmetric")
        mask = self.fit(self.table[mask], constant_values=IGNORE_INDEX)
        return to_tensor(photo), torch.from_numpy(mask)

    def fit(self, picture, **padding):
        """Return a picture [H, W, ...] as [S, S, ...], resized into the middle of a square; `padding` as of np.pad."""
        size = self.image_size
        picture = resize(picture, *fitted_size(picture.shape, size))
        missing = [size - side for side in picture.shape[:2]]
        widths = [(each // 2, each - each // 2) for each in missing] + [(0, 0)] * (picture.ndim - 2)
        return np.pad(picture, widths, **padding)


def to_tensor(photo):
    """Turn uint8 [H, W, 3] into a uint8 tensor [3, H, W]."""
    return torch.from_numpy(photo).permute(2, 0, 1)


def collate(items):
    """Return pairs as batches, photographs [n, 3, S, S] channels last and masks [n, S, S], or the first InputError."""
    for item in items:
        if isinstance(item, InputError):
            return item
    photos, masks = zip(*items, strict=True)
    return torch.stack(photos).contiguous(memory_format=torch.channels_last), torch.stack(masks)


def build_loader(dataset, workers, **options):
    processes = min(workers, usable_cores())  # more would gain nothing, and PyTorch warns of them
    # The generator, because a DataLoader would draw from the global one, as the training does.
    return DataLoader(dataset, num_workers=processes, generator=torch.Generator().manual_seed(0), **options)


def raise_errors(items):
    for item in items:
        if isinstance(item, InputError):
            raise item
        yield item


class TrainingSet:
    """The training pairs, decoded as uint8 in RAM or on the GPU, or read by worker processes in every epoch.

    `cache`: "auto", "ram", "gpu" or "off"; auto is "off" if half of the free RAM cannot hold the set, else the GPU if
    half of the memory that a step leaves free can, else RAM. The processes of a host read a share each, into RAM that
    they share. `repeat_rare`: see `repeat_factors`; 0 is off.

    `extra` are pairs and ClassSet of other data sets, which fill `extra_share` of each batch, one photograph at least.
    `targets` says what ids their masks and ours have; they are then the batches'.
    """

    def __init__(
        self,
        pairs,
        *,
        image_size,
        class_set,
        cache,
        repeat_rare,
        device,
        workers,
        seed,
        extra=(),
        extra_share=0.0,
        targets=None,
    ):
        self.targets, sources = targets or Targets(class_set), [(pairs, class_set), *extra]
        tables = zip(sources, self.targets.tables, strict=True)
        self.dataset = ConcatDataset(
            [PairDataset(its_pairs, image_size, its_classes, table) for (its_pairs, its_classes), table in tables]
        )
        self.own, self.extra_share = len(pairs), extra_share if extra else 0.0
        self.image_size, self.num_classes = round_to_stride(image_size), len(class_set)
        self.device, self.workers, self.seed = device, workers, seed
        self.bytes = 4 * len(self.dataset) * self.image_size**2  # three a pixel for the photograph, one for the mask
        self.cache = distributed.from_first(choose_cache(cache, self.bytes, device))
        if (cache, self.cache) == ("auto", "off") and distributed.rank() == 0:
            print(
                f"--cache auto: {self.bytes / 1e9:.1f} GB of decoded pictures are more than half of the free memory, "
                f"{free_memory() / 1e9:.1f} GB, so they are read in every epoch; --cache ram keeps them in memory"
            )
        if self.cache == "off":
            # One loader for all epochs, because it takes time to start its processes.
            self.epoch_batches = []  # the pairs' indices in each batch of the epoch that is read
            options = {"collate_fn": collate, "pin_memory": device.type == "cuda", "persistent_workers": workers > 0}
            self.loader = build_loader(self.dataset, workers, batch_sampler=self.epoch_batches, **options)
        else:
            self.photos, self.masks = self._decode()
        self.repeats = repeat_factors(self._classes_present(), repeat_rare) if repeat_rare else torch.ones(len(pairs))

    def _decode(self):
        """Return all photographs [n, 3, S, S], channels last as the network wants them, and all masks [n, S, S]."""
        n, size = len(self.dataset), self.image_size
        photos, masks = distributed.shared_bytes(self.bytes).split([3 * n * size**2, n * size**2])
        photos, masks = photos.view(n, size, size, 3).permute(0, 3, 1, 2), masks.view(n, size, size)
        first, processes = distributed.place_on_host()
        share = range(first, n, processes)
        for index, pair in self._read(share, "reading"):
            photos[index], masks[index] = pair
        distributed.barrier()
        return (photos.to(self.device), masks.to(self.device)) if self.cache == "gpu" else (photos, masks)

    def _read(self, share, description):
        """Yield (index, pair) of the indices in `share`, with a progress bar."""
        pairs = raise_errors(build_loader(Subset(self.dataset, share), self.workers, batch_size=None))
        hidden = distributed.rank() > 0 or None
        return zip(share, tqdm(pairs, description, len(share), leave=False, disable=hidden), strict=True)

    def _classes_present(self):
        """Return which classes our own masks hold, bool [n, C]. Every process looks at a share of them."""
        rank, processes = distributed.rank(), distributed.world_size()
        share = range(rank, self.own, processes)
        if self.cache == "off":
            masks = (mask for _, (_, mask) in self._read(share, "looking for rare classes"))
        else:
            masks = (self.masks[index] for index in share)
        mine = torch.stack([classes_in(mask, self.num_classes) for mask in masks])
        present = torch.empty(self.own, self.num_classes, dtype=torch.bool)
        for first, part in enumerate(distributed.from_all(mine)):
            present[first::processes] = part
        return present

    def extra_in(self, batch_size):
        """Return how many of a batch come from other data sets."""
        return min(batch_size - 1, max(1, round(self.extra_share * batch_size))) if self.extra_share else 0

    def steps(self, batch_size):
        """Return the number of batches an epoch. A remainder is left out: BatchNorm needs more than one."""
        return max(1, int(self.repeats.sum()) // (batch_size - self.extra_in(batch_size)))

    def order(self, epoch):
        """Return the shuffled indices of an epoch. A fractional repeat is the probability of one more."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch, "order"))
        # Systematic sampling: one random offset, so that the epoch has the expected length, give or take one.
        ends = (self.repeats.double().cumsum(dim=0) + torch.rand(1, generator=generator)).floor().long()
        indices = torch.arange(len(ends)).repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
        return indices[torch.randperm(len(indices), generator=generator)]

    def extra_order(self, epoch, count):
        """Return `count` shuffled indices of other data sets' pairs, each as often as the others, give or take one."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch, "extra"))
        number = len(self.dataset) - self.own
        rounds = [torch.randperm(number, generator=generator) for _ in range(-(-count // number))]
        return self.own + torch.cat(rounds)[:count]

    def batches(self, epoch, batch_size):
        """Yield this process's share of each batch, uint8 photographs [n, 3, S, S] and masks [n, S, S] on the device.

        The order depends on seed and epoch alone; `batch_size` counts all processes.
        """
        order, extra = self.order(epoch), self.extra_in(batch_size)
        batches = list(order.split(batch_size - extra))[: self.steps(batch_size)]
        if extra:
            others = self.extra_order(epoch, extra * len(batches)).split(extra)
            batches = [torch.cat(both) for both in zip(batches, others, strict=True)]
        shares = [batch[distributed.rank() :: distributed.world_size()] for batch in batches]
        if self.cache != "off":  # sent at once: sending them in every step would make the host wait
            sizes, sent = [len(share) for share in shares], torch.cat(shares).to(self.photos.device)
            shares = sent.split(sizes)
        if self.cache == "off":
            self.epoch_batches[:] = [indices.tolist() for indices in shares]
            batches = raise_errors(self.loader)
        else:
            batches = map(self._pick, shares)
        for photos, masks in batches:
            yield photos.to(self.device, non_blocking=True), masks.to(self.device, non_blocking=True)

    def _pick(self, indices):
        """Copy some pairs out of the cache. index_select copies rows, which is faster on CPUs than indexing."""
        photos = self.photos.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
        pair = photos, self.masks.index_select(0, indices)
        if self.device.type == "cuda" and self.cache != "gpu":
            return [each.pin_memory() for each in pair]  # only copies from pinned memory overlap with the computation
        return pair


def classes_in(mask, num_classes):
    """Return which classes a mask, uint8 [H, W], holds: bool [C] on the CPU."""
    return torch.bincount(mask.flatten(), minlength=256)[:num_classes].cpu() > 0


def repeat_factors(present, share):
    """Return how often an epoch shows each image, float [n], from which classes each holds, bool [n, C].

    Repeat factor sampling (Gupta et al., 2019, https://arxiv.org/abs/1908.03195): the maximum over the image's classes
    of max(1, sqrt(share / f)), f the share of images that hold the class.
    """
    per_class = (share / present.float().mean(dim=0)).sqrt().clamp(min=1)
    return torch.where(present, per_class, 1.0).amax(dim=1)


def choose_cache(cache, needed, device):
    """Resolve "auto" from the bytes needed and the memory that is free; "gpu" needs CUDA."""
    if cache == "gpu" and device.type != "cuda":
        raise InputError("--cache gpu: there is no CUDA here; use auto, ram or off")
    if cache != "auto":
        return cache
    if needed >= free_memory() / 2:  # the set is read into RAM before it goes to the GPU
        return "off"
    if device.type != "cuda":
        return "ram"
    torch.cuda.empty_cache()  # otherwise memory used by an earlier epoch would not count as free
    step = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)  # of try_largest_step
    return "gpu" if needed < (torch.cuda.mem_get_info(device)[0] - step) / 2 else "ram"


ROOT = Path("/")
# Of control groups: their folder, the files of limit and use, and what of the use is file cache, which can be freed.
VERSION_1 = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
VERSION_2 = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"


def free_memory():
    """Return the bytes of RAM that can be used without swapping; 4 GiB if the system does not tell."""
    meminfo = ROOT / "proc/meminfo"
    if not meminfo.exists():
        return 4 * 2**30
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *left_of_limits()])


def left_of_limits():
    """Yield what is left of each limit of a container or of a job of SLURM, which /proc/meminfo does not show."""
    groups = ROOT / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        folder, limit, used, cached = VERSION_1 if controllers else VERSION_2
        own = ROOT / folder / path.lstrip("/")
        for group in (own, *own.parents) if "memory" in (controllers or "memory").split(",") else ():
            if (group / limit).exists() and (most := (group / limit).read_text().strip()) != "max":
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield int(most) - int((group / used).read_text()) + int(statistics[cached])
