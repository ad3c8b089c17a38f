"""Run a script's main in a fork of this process, in a folder of its own, within bounds of time and memory."""

import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import call

from faceparse.errors import run_script

resource = pytest.importorskip("resource", reason="Windows cannot bound a process")
MEMORY = 6 * 2**30  # bytes of addresses more than this process has
TIME = 60  # s


def tree(folder):
    """Return {path in the folder: bytes} of all regular files, and of pipes and dangling links their mode."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else path.lstat().st_mode
        for path in Path(folder).rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def run(script, flags, folder, seconds=None, memory=MEMORY):
    """Run a script with flags in `folder`; return its exit status, -9 if it was killed, and all that it printed.

    After some seconds, by default TIME, it is killed with its workers.
    """
    log = Path(f"{folder}.log")

    def main():
        os.setsid()
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_WRONLY), stream)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (addresses + memory,) * 2)
        run_script(lambda: call(script, *flags))

    child = multiprocessing.get_context("fork").Process(target=main)
    child.start()
    child.join(TIME if seconds is None else seconds)
    child.kill()
    with suppress(ProcessLookupError):  # no worker is left
        os.killpg(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode, log.read_text(errors="replace") if log.exists() else ""
