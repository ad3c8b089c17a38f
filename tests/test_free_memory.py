"""Free memory as Linux tells it, within the limits of containers and of jobs, in folders like those of the kernel."""

import pytest

from faceparse.data import loading as tested

VERSION_2 = "memory.max", "memory.current", "inactive_file"
VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


@pytest.fixture
def system(tmp_path, monkeypatch):
    monkeypatch.setattr(tested, "PROC", tmp_path / "proc")
    monkeypatch.setattr(tested, "CONTROL_GROUPS", tmp_path / "groups")
    (tmp_path / "proc/self").mkdir(parents=True)
    meminfo = "MemTotal:  8000 kB\nMemFree: 100 kB\nMemAvailable:  2048 kB\nHugePages: 0\n"
    (tmp_path / "proc/meminfo").write_text(meminfo)
    return tmp_path


def limit_to(folder, limit, names):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text("9000\n")
    (folder / "memory.stat").write_text(f"anon 8000\n{names[2]} 300\nactive_file 20\n")


def test_what_linux_calls_available_or_4_gib_elsewhere(system):
    assert tested.free_memory() == 2048 * 1024
    (system / "proc/meminfo").unlink()
    assert tested.free_memory() == 4 * 2**30


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/", "groups", VERSION_2),  # a container
        ("0::/system.slice/job_7/step_0", "groups/system.slice/job_7", VERSION_2),  # the limit is that of the job
        ("5:cpu,memory:/slurm/job_7", "groups/memory/slurm/job_7", VERSION_1),
        ("5:memory:/docker/abc", "groups/memory", VERSION_1),  # the container does not see the folder
    ],
)
def test_a_limit_leaves_less(system, line, folder, names):
    (system / "proc/self/cgroup").write_text(f"7:pids:/other\n{line}\n")
    unlimited = "max" if names == VERSION_2 else 2**63 - 4096
    for limit, free in ((unlimited, 2048 * 1024), (2**40, 2048 * 1024), (10000, 10000 - 9000 + 300)):
        limit_to(system / folder, limit, names)
        assert tested.free_memory() == free


def test_the_smallest_limit_decides(system):
    (system / "proc/self/cgroup").write_text("0::/job/step\n")
    limit_to(system / "groups/job", 10000, VERSION_2)
    limit_to(system / "groups/job/step", 20000, VERSION_2)
    assert tested.free_memory() == 1300
