"""How much memory this process may still take. Needs no torch."""

from pathlib import Path

PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory():
    """Return the bytes of RAM that can be used without swapping; 4 GiB where the system does not tell."""
    meminfo = PROC / "meminfo"
    if not meminfo.exists():
        return 4 * 2**30
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *left_of_limits()])


def left_of_limits():
    """Yield what is left of each limit of a container or of a job of SLURM, which /proc/meminfo does not show."""
    groups = PROC / "self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, limit, used, cached = CONTROL_GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root = CONTROL_GROUPS / "memory"
            limit, used, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            most = (folder / limit).read_text().strip() if (folder / limit).exists() else "max"
            if most != "max":
                # File cache counts as used, but can be freed.
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield int(most) - int((folder / used).read_text()) + int(statistics[cached])
