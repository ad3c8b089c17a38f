"""Write files and new folders whole or not at all, and let one process write into a folder."""

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from faceparse.errors import InputError, is_of_a_path

with suppress(ImportError):  # Windows has none, and nothing is locked there
    import fcntl

UNFINISHED = ".unfinished_"
_handles = set()  # of the folders that this process has locked


def sync(path):
    """Wait until a file, or the names in a folder, are on the disk and survive a power cut."""
    if Path(path).is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path, durable=False, keep=None):
    """Yield a temporary path beside `path`. If the block succeeds the file replaces `path`, otherwise it is removed.

    With `durable` it has reached the disk when the block ends. The file that it replaces is kept as the path `keep`;
    killed between the two, only that one is there. Raises InputError if it cannot be written.
    """
    path = Path(path)
    # The suffix stays last, because Pillow and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            sync(temporary)
        if keep and path.exists():
            path.replace(keep)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        if not is_of_a_path(error):
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path, durable=False):
    """Yield a temporary folder. If the block succeeds it becomes the new folder `path`, otherwise it is removed.

    A folder that holds something already is yielded itself: the block replaces its files one after the other, and the
    same command completes what a kill left. `durable` as in `atomic_path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f"{UNFINISHED}{path.name}_*"):
        with locked(left_over) as free:
            if free:  # a killed process left it
                shutil.rmtree(left_over, ignore_errors=True)
    if path.exists() and any(path.iterdir()):
        yield path
        return
    temporary = path.with_name(f"{UNFINISHED}{path.name}_{os.getpid()}")
    temporary.mkdir()
    try:
        with locked(temporary):
            yield temporary
            for file in temporary.rglob("*") if durable else []:
                sync(file)
            if path.exists():  # it was empty, or is new since and holds another new folder
                for each in temporary.iterdir():
                    each.replace(path / each.name)
            else:
                temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(flag, path):
    """Raise InputError if `path` exists and is not an empty folder."""
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{flag} {path}: exists already; choose a new or an empty folder")


@contextmanager
def only_writer(path, otherwise):
    """Hold a folder, made if it is missing, for this process; remove it if it stays empty. InputError if it is held."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with locked(path) as free:
        if free is False:
            raise InputError(f"{path}: another run is writing there; {otherwise}")
        try:
            yield
        finally:
            with suppress(OSError):
                path.rmdir()


@contextmanager
def locked(folder):
    """Lock a folder for this process; yield True, False if another one holds it, None if the system has no locks."""
    if os.name == "nt":
        yield None
        return
    handle = os.open(folder, os.O_RDONLY)
    _handles.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError as error:
            free = False if isinstance(error, BlockingIOError) else None
        yield free
    finally:
        if handle in _handles:
            _handles.remove(handle)
            os.close(handle)


if hasattr(os, "register_at_fork"):  # a worker that outlives its killed parent must not hold the parent's locks
    os.register_at_fork(after_in_child=lambda: [os.close(_handles.pop()) for _ in range(len(_handles))])
