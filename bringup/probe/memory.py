"""Main memory: /proc/meminfo and the cgroup's limit."""

from bringup.hardware import Memory


def parse_memory_use(meminfo: str, cgroup: str) -> Memory:
    """Combine /proc/meminfo (kB) with the cgroup's limits (``memory.max=`` bytes or ``max``), a line each; the least one counts.

    Raises:
        ValueError: /proc/meminfo has no MemTotal or MemAvailable.
    """
    kib: dict[str, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()
        if value and value[0].isascii() and value[0].isdecimal() and len(value[0]) < 16:
            kib[name] = int(value[0])
    if "MemTotal" not in kib or "MemAvailable" not in kib:
        raise ValueError("/proc/meminfo has no MemTotal or no MemAvailable")
    limits = (line.partition("=")[2] for line in cgroup.splitlines() if line.startswith("memory."))
    limits_mib = [int(text) // 2**20 for text in limits if text.isascii() and text.isdecimal() and len(text) < 20]
    total_mib = min([kib["MemTotal"] // 1024, *limits_mib])
    return Memory(
        total_mib=total_mib,
        available_mib=min(kib["MemAvailable"] // 1024, total_mib),
        swap_mib=kib.get("SwapTotal", 0) // 1024,
    )
