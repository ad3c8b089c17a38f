"""Every script ends on bad input or a stop with one clear line and its own exit status, without a traceback."""

import errno
import os
import shlex
import signal
import stat
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager

# What reading or writing a user's paths meets. An OSError of another kind is a bug and shows its traceback.
OF_A_PATH = {
    getattr(errno, name)
    for name in (
        *("ENOENT", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "EEXIST", "ENOTEMPTY", "EROFS", "ENOSPC", "EDQUOT"),
        *("EFBIG", "EIO", "ENAMETOOLONG", "ELOOP", "ENXIO", "ENODEV", "ESTALE", "EXDEV", "EINVAL", "EMFILE", "EPIPE"),
    )
    if hasattr(errno, name)
}
READER_GONE = 128 + 13  # the exit status of a program that SIGPIPE ends
LITTLE_MEMORY = "there is too little memory; lower --batch_size, --image_size or --workers, or shrink large photographs"
TOO_LITTLE_MEMORY = {  # by name or text, because not every script imports torch
    "OutOfMemoryError": "the GPU has too little memory; lower --batch_size or --image_size",
    "CUDA error: out of memory": "the GPU's memory is in use; choose another --gpu_id",
    "MemoryError": LITTLE_MEMORY,
    "DefaultCPUAllocator": LITTLE_MEMORY,
    "DataLoader worker (pid": "a process that reads files died, perhaps for lack of memory; lower --workers, or give a "
    "container more shared memory (docker run --shm-size)",
    "BrokenProcessPool": "a process that reads files died, perhaps for lack of memory; run the same command again",
}


class InputError(Exception):
    """Bad input. The message names the file or flag, says what is wrong with it and what to do."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; `number` is the signal's."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class _Stops:
    """The handler of both signals. Within `unbroken` the first one waits for the end of the block."""

    depth, pending = 0, None

    def handle(self, number, _frame):
        if self.depth and self.pending is None:
            self.pending = number
        else:
            self.pending = None
            raise Stopped(number)


_stops = _Stops()


@contextmanager
def unbroken():
    """Let the block finish before Ctrl-C or SIGTERM takes effect. A second signal does not wait."""
    _stops.depth += 1
    try:
        yield
    finally:
        _stops.depth -= 1
        if not _stops.depth and _stops.pending is not None:
            number, _stops.pending = _stops.pending, None
            raise Stopped(number)


@contextmanager
def _signals_caught():
    """Turn Ctrl-C and SIGTERM into Stopped. Under torchrun SIGTERM kills at once: a process may wait for a dead one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, *([] if "LOCAL_RANK" in os.environ else [signal.SIGTERM])]
    before = {number: signal.signal(number, _stops.handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_of_a_path(error):
    """Tell whether an OSError comes from a path, a disk or a device that the user gave, and not from a bug."""
    return error.errno in OF_A_PATH


def first_line(error):
    """Return the first line of an exception's text; its type where it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def too_little_memory(error):
    """Return what to say about an error that means too little memory, None for any other."""
    what = f"{type(error).__name__} {error}"
    return next((line for sign, line in TOO_LITTLE_MEMORY.items() if sign in what), None)


def end(status, line):
    """Print one line to stderr, in whatever encoding, and exit; FACEPARSE_DEBUG=1 prints the traceback before it."""
    if os.environ.get("FACEPARSE_DEBUG") == "1":
        traceback.print_exc()
    print(" ".join(line.splitlines()), file=sys.stderr)
    sys.exit(status)


def stdout_is_a_pipe():
    try:
        return stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (AttributeError, OSError):  # it is closed, or no file
        return False


def run_script(main):
    """Call `main()`; turn bad input into one line on stderr and exit status 2, Ctrl-C into 130, SIGTERM into 143.

    An OSError of a path counts as bad input, for example a folder that cannot be read or a full disk; another one is a
    bug, whose traceback shows. Too little memory is one line too.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    # Pillow warns of half as many pixels as it refuses, and phones take such photographs.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    try:
        with _signals_caught():
            main()
        if sys.stdout:  # None where it is closed
            sys.stdout.flush()
    except InputError as error:
        end(2, f"error: {error}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("faceparse", "models"):
            raise
        end(2, f"error: needs a package that is not installed ({error}); pip install -r requirements.txt")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and stdout_is_a_pipe():  # as in `f1score.py | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at the exit
            sys.exit(READER_GONE)
        if not is_of_a_path(error):
            raise
        end(2, f"error: {error}")
    except (MemoryError, RuntimeError) as error:
        line = too_little_memory(error)
        if line is None:
            raise
        end(2, f"error: {line}")
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        word = "terminated" if number == signal.SIGTERM else "interrupted"
        end(
            128 + number,
            f"{word}: files are whole; run the same command again, a training that has saved a state with --resume",
        )


def counted(number, noun):
    """Return a number and its noun, "1 label map" or "2,000 label maps"."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def quoted(text):
    """Return a path or other argument as this system's shell takes it. On Windows no path holds a quote itself."""
    return f'"{text}"' if os.name == "nt" else shlex.quote(str(text))
