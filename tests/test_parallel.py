"""Work on all cores: order, nothing to do, and what becomes of the workers of a killed process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from faceparse.parallel import in_parallel, in_threads


def double(number):
    return 2 * number


def test_results_come_in_the_order_of_the_items():
    assert list(in_parallel(double, range(50), "doubling", chunk=3)) == list(range(0, 100, 2))
    assert list(in_parallel(double, [], "doubling")) == []


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_closes_what_gave_the_items(threads):
    """So that a progress bar within is gone before the error is printed."""
    closed = []

    def items():
        try:
            yield from (1, 0, 2, 3, 4, 5, 6, 7)
        finally:
            closed.append(True)

    results = in_threads(lambda divisor: 6 // divisor, items(), threads)
    with pytest.raises(ZeroDivisionError) as error:
        list(results)
    assert closed and error.traceback  # which would keep the generator alive


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
