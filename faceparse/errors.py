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

# What a disk refuses without the name of a file. An OSError of another kind without a name is a bug.
OF_A_DISK = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO") if hasattr(errno, name)}
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
    """SIGTERM, which batch systems send before they kill."""


def _stop(_number, _frame):
    raise Stopped


def is_of_a_path(error):
    """Tell whether an OSError comes from a path or a disk that the user gave, and not from a bug."""
    return error.filename is not None or error.errno in OF_A_DISK


def first_line(error):
    """Return the first line of an exception's text; its type if it has no text."""
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


def run_script(main):
    """Call `main()`; turn bad input into one line on stderr and exit status 2, Ctrl-C into 130, SIGTERM into 143.

    An OSError of a path or a full disk counts as bad input, and so does too little memory; others are bugs.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    # Pillow warns of half as many pixels as it refuses, and phones take such photographs.
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    # Under torchrun SIGTERM kills at once, because a process may wait for a dead one.
    if "LOCAL_RANK" not in os.environ and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)
    try:
        main()
        if sys.stdout:  # None if it is closed
            sys.stdout.flush()
    except InputError as error:
        end(2, f"error: {error}")
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("faceparse", "models"):
            raise
        hint = "install it; in the repository, pip install -r requirements.txt -e . installs all"
        if "libGL" in str(error):
            hint = "replace opencv-python by opencv-python-headless, which needs no libGL"
        end(2, f"error: a package is not installed or cannot be loaded ({error}); {hint}")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and stat.S_ISFIFO(os.fstat(1).st_mode):  # as in `f1score.py | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain at the exit
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
        status, word = (143, "terminated") if isinstance(error, Stopped) else (130, "interrupted")
        way_on = "run the same command again, a training that has saved a state with --resume"
        end(status, f"{word}: files are whole; {way_on}")


def counted(number, noun):
    """Return a number and its noun, "1 label map" or "2,000 label maps"."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def quoted(text):
    """Return a path or other argument as this system's shell takes it. On Windows no path holds a quote itself."""
    return f'"{text}"' if os.name == "nt" else shlex.quote(str(text))
