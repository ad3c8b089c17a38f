"""What `keep_freed_memory` is for: memory that is freed and taken again causes no page faults."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, faceparse.inference.device
if {keep}: faceparse.inference.device.keep_freed_memory()
bytearray(b"1") * 2**26
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    bytearray(b"1") * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep, **environment):
    command = [sys.executable, "-c", CODE.format(keep=keep)]
    return int(subprocess.check_output(command, env=environment, cwd=Path(__file__).parents[1]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is found on Linux")
@pytest.mark.parametrize("set_by_user", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_freed_memory_is_used_again_unless_the_user_has_set_something(set_by_user):
    without = page_faults(keep=False, **set_by_user)
    if without > 1000:  # else this system's malloc keeps freed memory anyway, or its pages are large
        assert (page_faults(keep=True, **set_by_user) < without / 10) == (not set_by_user)
