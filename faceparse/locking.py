"""A folder that one process holds for itself. The system frees it when the process ends, however it ends."""

import os

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
