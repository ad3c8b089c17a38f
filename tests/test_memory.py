"""What `keep_freed_memory` is for: memory that is freed and taken again causes no page faults."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is found on Linux")

CODE = """
import resource
from faceparse.inference.device import keep_freed_memory
if {keep}:
    keep_freed_memory()
bytearray(b"1") * 2**26
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    bytearray(b"1") * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep, **environment):
    root = Path(__file__).parent.parent
    environment = {"PYTHONPATH": str(root), "PATH": "", **environment}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(keep=keep)], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_freed_memory_is_used_again():
    without = page_faults(keep=False)
    if without < 1000:
        pytest.skip("this system's malloc keeps freed memory anyway, or its pages are large")
    assert page_faults(keep=True) < without / 10


def test_what_the_user_has_set_stays():
    for environment in ({"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}):
        without = page_faults(keep=False, **environment)
        assert page_faults(keep=True, **environment) == pytest.approx(without, rel=0.1, abs=50)
