"""Run a script's main in a fork of this process, in a folder of its own, within bounds of time and memory."""

import hashlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from faceparse.errors import run_script

resource = pytest.importorskip("resource", reason="Windows cannot bound a process")
MEMORY = 6 * 2**30  # bytes of addresses more than this process has
TIME = 60  # s


class Outcome(NamedTuple):
    status: int | str  # "hang" where the time was up
    out: str
    err: str
    seconds: float


def tree(folder):
    """Return {path: hash} of all regular files, and of other things what they are."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_symlink():
            found[path] = f"link to {path.readlink()}"
        elif path.is_file():
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not path.is_dir():
            found[path] = "special"
    return found


def start(script, parser, flags, folder, logs, before=None):
    """Run `script.main` with flags in `folder`, in a fork; return the process id.

    What it prints is appended to the files `logs`, stdout and stderr. `before` is called in the fork first.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            os.chdir(folder)
            for number, path in enumerate(logs, start=1):
                os.dup2(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
            sys.stdin, sys.stdout, sys.stderr = (open(n, "rw"[n > 0]) for n in range(3))  # noqa: SIM115, PTH123
            if before:
                before()
            run_script(lambda: script.main(parser("Run.").parse_args([str(flag) for flag in flags])))
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def run(script, parser, flags, folder, before=None):
    """Run as `start` does, within bounds of time and memory, to the end. Returns an Outcome."""

    def within_bounds():
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY,) * 2)
        if before:
            before()

    logs = [Path(f"{folder}.{name}") for name in ("out", "err")]
    begin = time.monotonic()
    status = wait(start(script, parser, flags, folder, logs, within_bounds))
    out, err = (path.read_text(errors="replace") for path in logs)
    for path in logs:
        path.unlink()
    return Outcome(status, out, err, time.monotonic() - begin)


def wait(child):
    deadline = time.monotonic() + TIME
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


def error_lines(err):
    """Return the lines of an error text that are no progress bar and no usage of argparse."""
    lines = [line.strip() for line in re.split(r"[\r\n]|\x1b\[A", err)]
    return [line for line in lines if "error: " in line or "Traceback" in line]
