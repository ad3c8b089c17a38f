"""What the benchmarks share: a command in a process of its own, its time and peak memory, and the decoding floor."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from faceparse.data.images import open_image

ROOT = Path(__file__).parents[1]


def decode(path):
    """Decode a picture and keep nothing of it: the floor of whatever reads it."""
    with open_image(path) as image:
        image.load()


def memory(process):
    """Return the bytes of a process and its children. Shared memory counts once (PSS) where the system tells it."""
    try:
        infos = [each.memory_full_info() for each in (process, *process.children(recursive=True))]
    except psutil.Error:  # one of them has just ended
        return 0
    return sum(getattr(info, "pss", info.uss) for info in infos)


def run_python(*arguments, prints_json=False, environment=None):
    """Run `python ARGUMENTS`; return its seconds, processor seconds and peak MiB.

    `environment` are further variables. With `prints_json` the last line that it prints is a JSON object of numbers,
    which override those measured here.
    """
    command, variables = [sys.executable, *map(str, arguments)], os.environ | (environment or {})
    with tempfile.TemporaryFile("w+") as output:
        before, start, peak = os.times(), time.perf_counter(), 0
        with subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=variables) as process:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                looked = time.perf_counter()
                peak = max(peak, memory(watched))
                try:  # counting the pages of gigabytes takes time: allow it a thirtieth of one core's
                    process.wait(max(0.1, 30 * (time.perf_counter() - looked)))
                except subprocess.TimeoutExpired:
                    continue
        seconds, after = time.perf_counter() - start, os.times()
        output.seek(0)
        lines = output.read().splitlines()
    if process.returncode:
        sys.exit("\n".join([*lines, f"status {process.returncode} of {' '.join(command)}"]))
    processor = sum(getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system"))
    result = {"seconds": seconds, "processor_seconds": processor, "peak_mib": peak / 2**20}
    return result | (json.loads(lines[-1]) if prints_json else {})
