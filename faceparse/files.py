"""Write files and folders whole or not at all."""

import os
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from faceparse.errors import InputError, is_of_a_path

UNFINISHED = ".unfinished_"
# Seconds. On Windows a virus scanner, an indexer or a viewer that has a file open forbids to rename it meanwhile.
PATIENCE = 3.0 if os.name == "nt" else 0.0


@contextmanager
def parents_of(path):
    """Make the folders that `path` will lie in. If the block fails those of them that are empty are removed again."""
    new = [folder for folder in Path(path).parents if not folder.exists()]
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def writing(path, *, is_file=False):
    """Turn what a disk or a path refuses into an InputError that names `path`, or the file in it where that is known.

    An error of another kind is a bug and stays what it is.
    """
    try:
        yield
    except OSError as error:
        if not is_of_a_path(error):
            raise
        file = path if is_file else error.filename2 or error.filename or path
        raise InputError(f"{file}: cannot be written ({error.strerror or error})") from error


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

    With `durable` it has reached the disk when the block ends, which a power cut right after cannot undo. The file that
    it replaces is kept as the path `keep`; killed between the two, only that one is there.
    """
    path = Path(path)
    # The suffix stays last, because Pillow and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with writing(path, is_file=True), parents_of(path):
            yield temporary
            if durable:
                sync(temporary)
            if keep and path.exists():
                rename(path, keep)
            rename(temporary, path)
            if durable:
                sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path, durable=False):
    """Yield a temporary folder. If the block succeeds its files move to `path`, otherwise none does.

    A new folder appears whole, by one renaming. Into a folder that exists by then the files move one after the other;
    killed among them, the same command completes it. What a killed process left unfinished is removed. `durable` as in
    `atomic_path`.
    """
    path = Path(path)
    is_new = not path.exists()
    place, prefix = (path.parent, f"{UNFINISHED}{path.name}_") if is_new else (path, UNFINISHED)
    with writing(path), parents_of(place / "any"):
        remove_unfinished(path.parent, f"{UNFINISHED}{path.name}_")
        remove_unfinished(path, UNFINISHED)
        temporary = place / f"{prefix}{os.getpid()}"
        temporary.mkdir()
        handle = hold(temporary)
        try:
            yield temporary
            files = sorted(temporary.rglob("*"))
            for file in files if durable else []:
                sync(file)
            if not path.exists():
                rename(temporary, path)
            else:
                move_all(files, temporary, path)
            if durable:
                sync(path)
                sync(path.parent)
        finally:
            release(handle)
            if temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)


def move_all(files, source, target):
    for file in files:
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(exist_ok=True)
        else:
            rename(file, place)


def rename(source, target):
    """Rename, onto a file that exists too. What is held open for a moment is tried again: see PATIENCE."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return source.replace(target)
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


def remove_unfinished(folder, prefix):
    """Remove the unfinished folders of killed processes; those that a living one holds stay."""
    for left_over in folder.glob(f"{prefix}*"):
        if left_over.is_dir() and (handle := hold(left_over)) not in (None, NO_LOCK):
            release(handle)
            shutil.rmtree(left_over, ignore_errors=True)


@contextmanager
def only_writer(path, otherwise):
    """Hold a folder, which is made where it is missing, for this process alone, and remove it if it stays empty.

    Raises InputError, which ends in what to do, `otherwise`, where another process holds it.
    """
    path = Path(path)
    with ExitStack() as stack:
        with writing(path):  # what fails later is not about this folder
            stack.enter_context(parents_of(path / "any"))
            handle = hold(path)
        if handle is None:
            raise InputError(f"{path}: another run is writing there; {otherwise}")
        stack.callback(release, handle)
        yield


def check_new_folder(flag, path):
    """Raise InputError if `path` exists and is not an empty folder.

    The remains of a killed `atomic_folder` do not count.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and all(file.name.startswith(UNFINISHED) for file in path.iterdir())):
        raise InputError(f"{flag} {path}: exists already; choose a new or an empty folder")


try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None

NO_LOCK = -1
_held = set()


def hold(folder):
    """Lock a folder for this process; return a handle for `release`, or None where another process holds it.

    The lock is advisory, on the folder itself, so it leaves no file. Where the system has none (Windows, some network
    file systems) it is NO_LOCK, and the folder counts as free.
    """
    if fcntl is None:
        return NO_LOCK
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        return NO_LOCK
    _held.add(handle)
    return handle


def release(handle):
    if handle in _held:
        _held.remove(handle)
        os.close(handle)


def _release_all():
    """A forked process, which may outlive its killed parent by seconds, must not hold the parent's locks."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all)
