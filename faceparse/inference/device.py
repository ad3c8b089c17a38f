"""Where PyTorch computes, and how it gets its memory there."""

import ctypes
import os
import warnings
from pathlib import Path

import torch
from torch import distributed as dist

from faceparse.errors import InputError, first_line, too_little_memory

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory():
    """Tell glibc's malloc to reuse large blocks, which makes a step of training 1.4 to 2 times as fast.

    glibc gives each large block back when it is freed, and the kernel zeroes it page by page. Call this before the
    first large tensor is made. It does nothing without glibc, and if the user has set malloc's options.
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library or system
        return
    # Blocks below 1 GiB come from the heap; glibc 2.31 refuses more than 32 MiB. If it refuses both, the lines below
    # would make things worse.
    if any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25)):
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # The heap's end is given back only if it is larger than 2 GiB,
        libc.mallopt(M_TOP_PAD, 2**26)  # and it grows by 64 MiB more than is asked for.


def is_launched():
    """Return whether torchrun has started this process. Others set WORLD_SIZE and RANK too, SLURM among them."""
    return dist.is_available() and dist.is_torchelastic_launched()


def select_device(gpu_id):
    """Return the device to run on: torchrun's own GPU, else `gpu_id`, else, without CUDA, the CPU.

    Raises InputError for a GPU that does not exist or does not compute, and for a driver that does not work.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that does not work raises below
        available = torch.cuda.is_available()
    if not available:
        require_no_gpu()
        return torch.device("cpu")
    index, count = int(os.environ["LOCAL_RANK"]) if is_launched() else gpu_id, torch.cuda.device_count()
    if index >= count:
        flag = "--nproc_per_node" if is_launched() else "--gpu_id"
        raise InputError(f"{flag}: there is no GPU {index} here; there are {count}, numbered from 0")
    torch.cuda.set_device(index)
    require_computing(index)
    return torch.device("cuda", index)


def say_device(device):
    """Print, for a script, that it computes on the CPU; of torchrun's processes the first does."""
    if device.type == "cpu" and (not is_launched() or os.environ["RANK"] == "0"):
        built_for_gpus = torch.version.cuda or torch.version.hip
        print(f"{'no CUDA' if built_for_gpus else 'this PyTorch is built without CUDA'}: running on the CPU")


def require_computing(index):
    """Raise InputError if PyTorch cannot compute on the GPU: it is too old for this build, or busy, or broken."""
    try:
        torch.zeros(1, device="cuda").add_(1)
    except RuntimeError as error:
        if too_little_memory(error):
            raise
        hint = 'choose another --gpu_id, install a build of PyTorch for it, or set CUDA_VISIBLE_DEVICES="" for the CPU'
        raise InputError(f"GPU {index}: PyTorch cannot compute on it ({first_line(error)}); {hint}") from None


def require_no_gpu():
    """Raise InputError if CUDA does not work although there is an NVIDIA GPU that the user has not hidden."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if torch.version.cuda is None or hidden or not any(Path("/dev").glob("nvidia[0-9]*")):
        return
    try:
        torch.cuda.init()
        reason = "no reason given"
    except RuntimeError as error:
        reason = first_line(error)
    raise InputError(f'the GPU does not work ({reason}); repair the driver, or set CUDA_VISIBLE_DEVICES="" for the CPU')
