"""Main memory: /proc/meminfo and the container's limit."""

from bringup.hardware import Memory


def parse_memory_use(meminfo: str, cgroup_limits: str) -> Memory:
    """Combine /proc/meminfo (kB) with cgroup limits (bytes, or ``max``), a line each; the least limit counts.

    Raises:
        ValueError: /proc/meminfo has no MemTotal or MemAvailable.
    """
    kib: dict[str, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()
        if value and value[0].isdecimal():
            kib[name] = int(value[0])
    if "MemTotal" not in kib or "MemAvailable" not in kib:
        raise ValueError("/proc/meminfo has no MemTotal or no MemAvailable")
    limits_mib = [int(word) // 2**20 for word in cgroup_limits.split() if word.isdecimal()]
    total_mib = min([kib["MemTotal"] // 1024, *limits_mib])
    return Memory(total_mib=total_mib, available_mib=min(kib["MemAvailable"] // 1024, total_mib))
