"""Pictures as uint8 tensors, read one after the other by worker processes."""

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
