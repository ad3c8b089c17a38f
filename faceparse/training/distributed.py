"""Start-up under torchrun, and the few collective operations that training needs. One process needs none of it."""

import inspect
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from faceparse.errors import InputError
from faceparse.inference.device import is_launched

# A process may wait this long for the others: each validates and labels photographs of different sizes. NCCL's own
# limit is 10 minutes. If a process ends, torchrun ends the others at once.
MAX_WAIT = timedelta(minutes=30)


@contextmanager
def process_group(device):
    """Join torchrun's processes (NCCL on CUDA, gloo on CPUs) for the block; do nothing when started plainly.

    Raises InputError if another process has ended. After an error the group is not taken down, because that may wait
    for processes that wait for this one; torchrun ends them when this one ends.
    """
    if not is_launched():
        yield
        return
    options = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
    dist.init_process_group(**options, timeout=MAX_WAIT)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise InputError(f"process {rank()}: lost the connection to another process, whose error tells why") from None
    dist.destroy_process_group()


def is_distributed():
    return dist.is_available() and dist.is_initialized()


def rank():
    return dist.get_rank() if is_distributed() else 0


def world_size():
    return dist.get_world_size() if is_distributed() else 1


def place_on_host():
    """Return this process's number among those of this host, and how many these are."""
    return (int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])) if is_distributed() else (0, 1)


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
    values = [value] * world_size()
    if is_distributed():
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
    path = from_first(path / f"face_parser_{uuid.uuid4().hex}")  # all must use the same file
    tensor = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
    barrier()
    if place_on_host()[0] == 0:
        path.unlink()  # the memory lives until the last process lets go of it
    return tensor


def sum_over_processes(tensor):
    """Replace the tensor by the sum of the processes' tensors, the same on each of them, and return it."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def sum_of_counts(counts, device):
    """Return the sum of the processes' numpy arrays, through tensors on the device."""
    return sum_over_processes(torch.from_numpy(counts).to(device)).cpu().numpy()


class _SumWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return sum_over_processes(tensor.clone())

    @staticmethod
    def backward(ctx, gradient):
        return gradient * world_size()


def sum_with_gradient(tensor):
    """Return the sum of the processes' tensors, for a loss that all of them compute from it alike.

    Its gradient is multiplied by their number, because DistributedDataParallel takes the mean over them.
    """
    return _SumWithGradient.apply(tensor) if is_distributed() else tensor


def data_parallel(model, device):
    """Return the model as processes train it together; BatchNorm statistics stay each one's own."""
    if not is_distributed():
        return model
    is_new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14's name
    flag = "forward_sync_buffers" if is_new else "broadcast_buffers"
    return DistributedDataParallel(model, [device.index] if device.type == "cuda" else None, **{flag: False})


def average_buffers(model):
    """Give all processes the same BatchNorm statistics, the mean: each has seen its own images."""
    if not is_distributed():
        return
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    # All buffers go in one message, because each of about a hundred messages would have a start-up time of its own.
    average = sum_over_processes(torch.cat([buffer.flatten() for buffer in buffers])) / world_size()
    for buffer, part in zip(buffers, average.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
