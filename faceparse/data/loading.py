"""Pictures as uint8 tensors, read one after the other by worker processes."""

from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from faceparse.errors import InputError
from faceparse.parallel import usable_cores


def to_tensor(photo):
    """Turn uint8 [H, W, 3] into a uint8 tensor [3, H, W]."""
    return torch.from_numpy(photo).permute(2, 0, 1)


class CaughtInputError:
    """Carries an InputError out of a worker process, where the DataLoader would wrap it in a traceback."""

    def __init__(self, error):
        self.error = error


class ReadingDataset(Dataset):
    """A Dataset whose items come from `read(index)`; bad input comes back as CaughtInputError."""

    def __getitem__(self, index):
        try:
            return self.read(index)
        except InputError as error:
            return CaughtInputError(error)


def raise_errors(items):
    for item in items:
        if isinstance(item, CaughtInputError):
            raise item.error
        yield item


def one_by_one(dataset, workers):
    """Yield the items of a dataset in order, read by worker processes."""
    processes = worker_processes(workers)
    return raise_errors(DataLoader(dataset, batch_size=None, num_workers=processes, generator=own_generator()))


def worker_processes(workers):
    """Return how many processes a DataLoader starts: not more than cores, or it would warn and gain nothing."""
    return min(workers, usable_cores())


def own_generator():
    """Return a generator for a DataLoader, which would otherwise draw from the global one, as the training does."""
    return torch.Generator().manual_seed(0)


PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory():
    """Return the bytes of RAM that can be used without swapping; 4 GiB where the system does not tell."""
    meminfo = PROC / "meminfo"
    if not meminfo.exists():
        return 4 * 2**30
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *left_of_limits()])


def left_of_limits():
    """Yield what is left of each limit of a container or of a job of SLURM, which /proc/meminfo does not show."""
    groups = PROC / "self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, limit, used, cached = CONTROL_GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root = CONTROL_GROUPS / "memory"
            limit, used, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            most = (folder / limit).read_text().strip() if (folder / limit).exists() else "max"
            if most != "max":
                # File cache counts as used, but can be freed.
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield int(most) - int((folder / used).read_text()) + int(statistics[cached])
