"""Start-up under torchrun, and the few collective operations that training needs. One process needs none of it."""

import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed as dist

from faceparse.errors import InputError


@contextmanager
def process_group(device):
    """Join torchrun's processes (NCCL on CUDA, gloo on CPUs) for the block; do nothing when started plainly.

    After an error the group is not taken down, because that may wait for the other processes, which wait for this one.
    Instead this process ends, and torchrun ends the others.
    """
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    yield
    dist.destroy_process_group()


def is_distributed():
    return dist.is_available() and dist.is_initialized()


def rank():
    return dist.get_rank() if is_distributed() else 0


def world_size():
    return dist.get_world_size() if is_distributed() else 1


def local_rank():
    return int(os.environ["LOCAL_RANK"]) if is_distributed() else 0


def local_world_size():
    """Return the number of processes on this host."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if is_distributed() else 1


def barrier():
    if is_distributed():
        dist.barrier()


def from_first(value):
    """Return the first process's value on every process."""
    values = [value]
    if is_distributed():
        dist.broadcast_object_list(values)
    return values[0]


def from_all(value):
    """Return the values of all processes, a list in their order, on every process."""
    values = [value]
    if is_distributed():
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values


def shared_bytes(size):
    """Return a uint8 tensor [size] that the processes of a host share: after a barrier all see what one has written."""
    if not is_distributed():
        return torch.empty(size, dtype=torch.uint8)
    path = Path("/dev/shm")
    # Shared memory may be small, in containers above all; a file on disk is mapped as well.
    if not path.is_dir() or shutil.disk_usage(path).free < 2 * size:
        path = Path(tempfile.gettempdir())
    path = Path(from_first(str(path / f"face_parser_{uuid.uuid4().hex}")))  # all must use the same file
    tensor = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
    barrier()
    if local_rank() == 0:
        path.unlink()  # the memory lives until the last process lets go of it
    return tensor


def sum_over_processes(tensor):
    """Replace the tensor by the sum of the processes' tensors, the same on each of them, and return it."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def average_buffers(model):
    """Give all processes the same BatchNorm statistics, the mean: each has seen its own images."""
    if not is_distributed():
        return
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    # All buffers go in one message, because each of about a hundred messages would have a start-up time of its own.
    average = sum_over_processes(torch.cat([buffer.flatten() for buffer in buffers])) / world_size()
    for buffer, part in zip(buffers, average.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def select_device(gpu_id):
    """Return the device to run on: torchrun's own GPU, else `gpu_id`, else, where CUDA is missing, the CPU."""
    if not torch.cuda.is_available():
        if os.environ.get("RANK", "0") == "0":
            print("no CUDA: running on the CPU")
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", gpu_id)), torch.cuda.device_count()
    if index >= count:
        flag = "--nproc_per_node" if "LOCAL_RANK" in os.environ else "--gpu_id"
        raise InputError(f"{flag}: there is no GPU {index} here; there are {count}, numbered from 0")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
