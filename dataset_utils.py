"""The training set: pairs of photographs and masks as uint8 batches, from memory or from disk, in a seeded order."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from faceparse.data import decoded_file
from faceparse.data.classes import IGNORE_INDEX
from faceparse.data.images import list_images, match_pairs, read_mask, read_pair, resize_mask, resize_photo
from faceparse.data.layout import advice, split_folders
from faceparse.data.loading import (
    CaughtInputError,
    ReadingDataset,
    free_memory,
    one_by_one,
    own_generator,
    raise_errors,
    to_tensor,
    worker_processes,
)
from faceparse.errors import InputError
from faceparse.inference.image_size import fitted_size
from faceparse.parallel import in_threads
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

    Raises InputError where one has the stem of another, among those of `pairs` too: their masks will lie together.
    """
    list_images(*folders, *(photo for _, photo, _ in pairs))
    return [(stem, photo, None) for stem, photo in list_images(*folders).items()]


def epoch_seed(seed, epoch, purpose, *step):
    """Return a seed for one purpose in one epoch, or in one step of a process: `step` is (process, step).

    It follows from --seed, so a resumed run draws the same numbers.
    """
    purpose = ("order", "augmentation").index(purpose)
    return int(np.random.SeedSequence([seed, epoch, purpose, *step]).generate_state(1, np.uint64)[0]) >> 1


class PairDataset(ReadingDataset):
    """Training pairs at the network's size: uint8 photograph [3, S, S] and mask [S, S].

    As in prediction the longer side becomes S. The rest of the square reflects the photograph, and is 255 in the mask.
    """

    def __init__(self, pairs, image_size, class_set):
        self.pairs, self.image_size, self.class_set = pairs, image_size, class_set

    def __len__(self):
        return len(self.pairs)

    def read(self, index):
        _, photo_path, mask_path = self.pairs[index]
        photo, mask = read_pair(photo_path, mask_path, self.class_set)
        return to_tensor(self.fit(photo, resize_photo, mode="symmetric")), self.fit_mask(mask)

    def fit_mask(self, mask):
        return torch.from_numpy(self.fit(mask, resize_mask, constant_values=IGNORE_INDEX))

    def fit(self, picture, resize, **padding):
        """Return a picture [H, W, ...] as [S, S, ...], resized into the middle of a square; `padding` as of np.pad."""
        size = self.image_size
        picture = resize(picture, *fitted_size(picture.shape, size))
        missing = [size - side for side in picture.shape[:2]]
        if not any(missing):
            return picture
        widths = [(each // 2, each - each // 2) for each in missing] + [(0, 0)] * (picture.ndim - 2)
        return np.pad(picture, widths, **padding)


class MaskDataset(PairDataset):
    """The masks of a PairDataset without the photographs, whose decoding takes longer."""

    def read(self, index):
        return self.fit_mask(read_mask(self.pairs[index][2], self.class_set))


class TrainingSet:
    """The training pairs, decoded as uint8 in RAM, on the GPU or in a file, or read by processes in every epoch.

    `cache`: "auto", "ram", "gpu", "disk" or "off"; auto is "off" where half of the free RAM cannot hold the set, else
    the GPU where half of the memory that a step leaves free can, else RAM. The processes of a host read a share each,
    into RAM that they share. The file of "disk" lies in `cache_dir`, and is made once. `repeat_rare`: see
    `repeat_factors`; 0 is off.
    """

    def __init__(self, pairs, *, image_size, class_set, cache, repeat_rare, device, workers, seed, cache_dir=None):
        self.dataset = PairDataset(pairs, image_size, class_set)
        self.device, self.workers, self.seed, self.cache_dir = device, workers, seed, cache_dir
        needed = 4 * len(pairs) * image_size**2
        self.cache = distributed.from_first(choose_cache(cache, needed, device))
        if (cache, self.cache) == ("auto", "off") and distributed.rank() == 0:
            print(
                f"--cache auto: {needed / 1e9:.1f} GB of decoded pictures are more than half of the free memory, "
                f"{free_memory() / 1e9:.1f} GB, so they are read in every epoch; --cache disk decodes them once, into "
                "a file, and --cache ram keeps them in memory"
            )
        if self.cache == "off":
            # One loader for all epochs, because it takes time to start its processes.
            self.epoch_batches = []  # the pairs' indices in each batch of the epoch that is read
            processes = worker_processes(workers)
            self.loader = DataLoader(
                self.dataset,
                batch_sampler=self.epoch_batches,
                num_workers=processes,
                persistent_workers=processes > 0,
                collate_fn=collate_pairs,
                pin_memory=device.type == "cuda",
                generator=own_generator(),
            )
        else:
            self.photos, self.masks = self._decoded()
        self.repeats = repeat_factors(self._classes_present(), repeat_rare) if repeat_rare else torch.ones(len(pairs))

    def _decoded(self):
        """Return all photographs [n, 3, S, S] and masks [n, S, S] from where they are cached."""
        dataset = self.dataset
        size = 4 * len(dataset) * dataset.image_size**2
        if self.cache == "disk":
            path = decoded_file.decoded_path(self.cache_dir, dataset.pairs, dataset.image_size, dataset.class_set)
            all_processes = range(distributed.rank(), len(dataset), distributed.world_size())
            return self._split(
                decoded_file.open_or_make(path, size, lambda content: self._read(all_processes, content))
            )
        content = distributed.shared_bytes(size)
        self._read(range(distributed.local_rank(), len(dataset), distributed.local_world_size()), content)
        distributed.barrier()
        photos, masks = self._split(content)
        return (photos.to(self.device), masks.to(self.device)) if self.cache == "gpu" else (photos, masks)

    def _classes_present(self):
        """Return which classes the masks hold, bool [n, C]. Every process looks at a share of them."""
        dataset, rank, processes = self.dataset, distributed.rank(), distributed.world_size()
        share = range(rank, len(dataset), processes)
        if self.cache == "off":
            all_masks = MaskDataset(dataset.pairs, dataset.image_size, dataset.class_set)
            masks = one_by_one(Subset(all_masks, share), self.workers)
        else:
            masks = (self.masks[index] for index in share)
        masks = tqdm(masks, "looking for rare classes", len(share), leave=False, disable=rank > 0 or None)
        mine = torch.stack([classes_in(mask, len(dataset.class_set)) for mask in masks])
        present = torch.empty(len(dataset), len(dataset.class_set), dtype=torch.bool)
        for first, part in enumerate(distributed.from_all(mine)):
            present[first::processes] = part
        return present

    def _split(self, content):
        """View bytes [4 n S S] as photographs [n, 3, S, S], channels last as the network wants them, and masks."""
        n, size = len(self.dataset), self.dataset.image_size
        photos, masks = content.split([3 * n * size**2, n * size**2])
        return photos.view(n, size, size, 3).permute(0, 3, 1, 2), masks.view(n, size, size)

    def _read(self, share, content):
        """Decode the pairs of these indices into their places in `content`."""
        photos, masks = self._split(content)
        pairs = one_by_one(Subset(self.dataset, share), self.workers)
        progress = tqdm(pairs, "reading", len(share), leave=False, disable=distributed.rank() > 0 or None)
        for index, (photo, mask) in zip(share, progress, strict=True):
            photos[index], masks[index] = photo, mask

    def steps(self, batch_size):
        """Return the number of batches an epoch. A remainder is left out: BatchNorm needs more than one."""
        return max(1, int(self.repeats.sum()) // batch_size)

    def order(self, epoch):
        """Return the shuffled indices of an epoch. A fractional repeat is the probability of one more."""
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch, "order"))
        # Systematic sampling: one random offset, so that the epoch has the expected length, give or take one.
        ends = (self.repeats.double().cumsum(dim=0) + torch.rand(1, generator=generator)).floor().long()
        indices = torch.arange(len(ends)).repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))
        return indices[torch.randperm(len(indices), generator=generator)]

    def batches(self, epoch, batch_size, first_step=0):
        """Yield this process's share of each batch, uint8 photographs [n, 3, S, S] and masks [n, S, S] on the device.

        The order depends on seed and epoch alone; `batch_size` counts all processes. The first `first_step` batches are
        left out.
        """
        order = self.order(epoch)
        if self.cache != "off":
            order = order.to(self.photos.device)  # sent once: sending them in every step would make the host wait
        share = [
            order[step * batch_size : (step + 1) * batch_size][distributed.rank() :: distributed.world_size()]
            for step in range(first_step, self.steps(batch_size))
        ]
        if self.cache == "off":
            self.epoch_batches[:] = [indices.tolist() for indices in share]
            for photos, masks in raise_errors(self.loader):
                yield photos.to(self.device, non_blocking=True), masks.to(self.device, non_blocking=True)
        else:
            # From a file, threads read ahead.
            threads = self.workers if self.cache == "disk" else 0
            for photos, masks in in_threads(self._pick, share, threads):
                yield self._to_device(photos), self._to_device(masks)

    def _pick(self, indices):
        """Copy some pairs out of the cache. index_select copies rows, which is faster on CPUs than indexing."""
        photos = self.photos.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
        return photos, self.masks.index_select(0, indices)

    def _to_device(self, tensor):
        if self.device.type == "cuda" and self.cache != "gpu":
            tensor = tensor.pin_memory()  # only copies from pinned memory overlap with the computation
        return tensor.to(self.device, non_blocking=True)


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


def collate_pairs(items):
    for item in items:
        if isinstance(item, CaughtInputError):
            return item
    photos, masks = zip(*items, strict=True)
    return torch.stack(photos).contiguous(memory_format=torch.channels_last), torch.stack(masks)


def choose_cache(cache, needed, device):
    """Resolve "auto" from the bytes needed and the memory that is free; "gpu" needs CUDA."""
    if cache == "gpu" and device.type != "cuda":
        raise InputError("--cache gpu: there is no CUDA here; use auto, ram, disk or off")
    if cache != "auto":
        return cache
    if needed >= free_memory() / 2:  # the set is read into RAM before it goes to the GPU
        return "off"
    if device.type != "cuda":
        return "ram"
    torch.cuda.empty_cache()  # otherwise memory used by an earlier epoch would not count as free
    step = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)  # of try_largest_step
    return "gpu" if needed < (torch.cuda.mem_get_info(device)[0] - step) / 2 else "ram"
