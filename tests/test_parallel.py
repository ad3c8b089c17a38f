"""Work on all cores: order, errors, and what becomes of the workers of a killed process."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from faceparse.parallel import in_parallel, in_threads


def test_results_come_in_the_order_of_the_items():
    assert list(in_parallel(abs, range(-50, 0), "numbers", chunk=3)) == list(range(50, 0, -1))
    assert list(in_parallel(abs, [], "numbers")) == []
    assert list(in_threads(abs, range(-50, 0), 2)) == list(in_threads(abs, range(-50, 0), 0)) == list(range(50, 0, -1))


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_closes_what_gave_the_items(threads):
    """So that a progress bar within is gone before the error is printed."""
    items = (number for number in (1, 0, 2, 3, 4, 5, 6, 7))
    with pytest.raises(ZeroDivisionError) as error:
        list(in_threads(lambda divisor: 6 // divisor, items, threads))
    assert items.gi_frame is None and error.traceback  # which would keep the generator alive


@pytest.mark.slow
def test_workers_end_with_a_killed_process():
    code = "import time; from faceparse.parallel import in_parallel; list(in_parallel(time.sleep, [0.1] * 3000, ''))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1]) as process:
        deadline = time.monotonic() + 60
        while not (workers := psutil.Process(process.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert workers
    assert not psutil.wait_procs(workers, timeout=60)[1]  # of those alive
