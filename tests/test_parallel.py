"""Work on all cores: order, nothing to do, and what becomes of the workers of a killed process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from faceparse.parallel import in_parallel


def double(number):
    return 2 * number


def test_results_come_in_the_order_of_the_items():
    assert list(in_parallel(double, range(50), "doubling", chunk=3)) == list(range(0, 100, 2))
    assert list(in_parallel(double, [], "doubling")) == []


@pytest.mark.slow
def test_workers_end_with_a_killed_process():
    code = "import time; from faceparse.parallel import in_parallel; list(in_parallel(time.sleep, [0.1] * 3000, ''))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1]) as process:
        deadline = time.monotonic() + 60
        while not (workers := psutil.Process(process.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
