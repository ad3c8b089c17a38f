"""The decoded training set as one file, made once, whole or not at all, and mapped into memory."""

import hashlib
import os
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from faceparse.errors import InputError
from faceparse.files import locked, sync
from faceparse.training import distributed


def decoded_path(folder, pairs, image_size, class_set):
    """Return where the decoded pairs, [(stem, photograph path, mask path)], lie in `folder`.

    The name is a fingerprint of all that the bytes follow from: the side in px, the classes, and path, size and time of
    change of each picture.
    """
    digest = hashlib.sha256(f"{len(class_set)} {class_set.ignored_id} fitted".encode())  # older files are squashed
    for path in (Path(path) for _, *paths in pairs for path in paths):
        state = path.stat()
        digest.update(f"\n{path.absolute()} {state.st_size} {state.st_mtime_ns}".encode())
    return Path(folder) / f"{image_size}px_{digest.hexdigest()[:16]}.bin"


def open_or_make(path, size, fill):
    """Return the bytes of a file as a uint8 tensor [size], which must not be written to.

    If the file is missing, every process calls `fill(bytes)` first, which writes its share. Raises InputError where the
    disk is full or the folder cannot be written to.
    """
    if not distributed.from_first(path.exists()):
        try:
            with alone_in(path.parent) if distributed.rank() == 0 else nullcontext():
                if not distributed.from_first(path.exists()):  # another run may have made it meanwhile
                    make(path, size, fill)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{path}: cannot be written ({reason}); it takes {size / 1e9:.1f} GB") from None
    return map_file(path, size, shared=False)


def make(path, size, fill):
    unfinished = path.with_suffix(".unfinished")
    try:
        if distributed.rank() == 0:
            print(f"{path}: decoding the training set into this file of {size / 1e9:.1f} GB")
            for left_by_a_kill in path.parent.glob("*.unfinished"):
                left_by_a_kill.unlink()
            reserve(unfinished, size)
        distributed.barrier()
        fill(map_file(unfinished, size, shared=True))
        distributed.barrier()
        if distributed.rank() == 0:
            sync(unfinished)
            unfinished.replace(path)
            sync(path.parent)
        distributed.barrier()
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def alone_in(folder):
    """Hold a folder for this process alone; wait where another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with locked(folder) as free:
            if free is not False:
                yield
                return
        print(f"{folder}: another run is decoding; waiting for it")
        time.sleep(1)


def map_file(path, size, shared):
    return torch.from_file(str(path), shared=shared, size=size, dtype=torch.uint8)


def reserve(path, size):
    """Take the space on the disk, or a full one would end the process when it writes to the mapped memory."""
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)
