"""Start-up under torchrun, and the few collective operations that training needs. One process needs none of it."""

import os
from contextlib import contextmanager

import torch
from torch import distributed as dist

from errors import InputError


@contextmanager
def process_group():
    """Join torchrun's processes (NCCL with CUDA, gloo without) for the block; do nothing when started plainly."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_distributed():
    return dist.is_available() and dist.is_initialized()


def rank():
    return dist.get_rank() if is_distributed() else 0


def world_size():
    return dist.get_world_size() if is_distributed() else 1


def barrier():
    if is_distributed():
        dist.barrier()


def sum_over_processes(tensor):
    """Return the sum of the processes' tensors, the same on each of them."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def average_buffers(model):
    """Give all processes the same BatchNorm statistics: each has seen its own images."""
    for buffer in model.buffers():
        if is_distributed() and buffer.is_floating_point():
            buffer.copy_(sum_over_processes(buffer) / world_size())


def select_device(gpu_id):
    """Return the device to run on: torchrun's own GPU, else `gpu_id`, else, where CUDA is missing, the CPU."""
    if not torch.cuda.is_available():
        if rank() == 0:
            print("no CUDA: running on the CPU")
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", gpu_id))
    count = torch.cuda.device_count()
    if index >= count:
        raise InputError(f"--gpu_id {index}: there are {count} GPUs here, 0 to {count - 1}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
