"""Reads /proc and /sys again and again at little cost: files stay open, and only what is needed is parsed.

Each source has `read(now_s)`, which returns what changed since its last call as `name` or `name/of` to a number.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

Reading = dict[str, float]
"""Key (`core_busy_percent/3`) to value, in the units of `timeline.SeriesName`."""

_READ_BYTES = 65536  # the lines that are used stand at the beginning of each file
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class KeptFile:
    """A file of /proc that stays open; reading it again costs a third of opening it again."""

    def __init__(self, path: Path | str) -> None:
        """Open it; OSError when it is not there."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> bytes:
        """Its text now; OSError when what it tells of has gone."""
        return os.pread(self._file, _READ_BYTES, 0)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)


def kept(path: Path) -> KeptFile | None:
    """The file, or None where the kernel has none or does not show it."""
    try:
        return KeptFile(path)
    except OSError:
        return None


class Rate:
    """Turns counters into rates; the first value of a counter, and one that fell, give none."""

    def __init__(self) -> None:
        """Begin without values."""
        self._last: dict[str, tuple[float, float]] = {}

    def of(self, key: str, value: float, now_s: float) -> float | None:
        """Change of the counter `key` a second since the last call."""
        before = self._last.get(key)
        self._last[key] = (value, now_s)
        if before is None or value < before[0] or now_s <= before[1]:
            return None
        return (value - before[0]) / (now_s - before[1])


class CoreUse:
    """How busy each logical CPU is, and how much time a hypervisor takes from all of them."""

    def __init__(self, proc: Path, wanted: Sequence[int] | None = None) -> None:
        """Read `proc`/stat; `wanted` limits the CPUs that are told one by one."""
        self._file = kept(proc / "stat")
        self._wanted = None if wanted is None else {b"cpu%d" % cpu for cpu in wanted}
        self._last: dict[bytes, tuple[int, int, int]] = {}

    def read(self, now_s: float) -> Reading:
        """Percent of the time since the last call."""
        reading: Reading = {}
        for name, busy, idle, steal in _cpu_lines(self._file.read() if self._file else b""):
            if name != b"cpu" and self._wanted is not None and name not in self._wanted:
                continue
            before = self._last.get(name)
            self._last[name] = (busy, idle, steal)
            if before is None or (total := busy + idle - before[0] - before[1]) <= 0:
                continue
            if name == b"cpu":
                reading["cpu_steal_percent"] = round(max(0, steal - before[2]) / total * 100, 1)
            else:
                reading[f"core_busy_percent/{name[3:].decode()}"] = round(max(0, busy - before[0]) / total * 100, 1)
        return reading


def _cpu_lines(text: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, busy, idle and stolen ticks of each CPU (proc_stat(5)); guest time is part of user time."""
    for line in text.split(b"\n"):
        if not line.startswith(b"cpu"):
            return
        name, *fields = line.split()
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields[:8])
        yield name, user + nice + system + irq + softirq + steal, idle + iowait, steal


_VMSTAT = {
    b"pgmigrate_success": ("pages_migrated_per_s", 1.0),
    b"numa_hint_faults": ("numa_hint_faults_per_s", 1.0),
    b"numa_miss": ("numa_miss_per_s", 1.0),
    b"pswpin": ("swapped_in_mib_per_s", _PAGE_MIB),
}


class MemoryEvents:
    """Pages that the kernel moved between nodes or back from swap, and the memory that is left; of the whole host."""

    def __init__(self, proc: Path) -> None:
        """Read `proc`/vmstat and `proc`/meminfo."""
        self._vmstat, self._meminfo = kept(proc / "vmstat"), kept(proc / "meminfo")
        self._rate = Rate()

    def read(self, now_s: float) -> Reading:
        """Rates since the last call."""
        reading: Reading = {}
        for line in (self._vmstat.read() if self._vmstat else b"").split(b"\n"):
            name, _, value = line.partition(b" ")
            known = _VMSTAT.get(name)
            if known and (rate := self._rate.of(known[0], int(value), now_s)) is not None:
                reading[known[0]] = round(rate * known[1], 2)
        for line in (self._meminfo.read() if self._meminfo else b"").split(b"\n"):
            if line.startswith(b"MemAvailable:"):
                reading["memory_available_mib"] = int(line.split()[1]) // 1024
                break
        return reading


class CgroupUse:
    """How long a CPU quota stopped the server, and on which NUMA nodes its memory is.

    A quota counts where it is set, so that the cgroups above the server's are looked at too.
    """

    def __init__(self, own: Path | None, quotas: Sequence[Path]) -> None:
        """Read the server's `own` cgroup, and `quotas`, in which its CPU time may be limited."""
        found = (kept(folder / "cpu.stat") for folder in quotas)
        self._cpu = [file for file in found if file is not None]
        self._numa = kept(own / "memory.numa_stat") if own else None
        self._rate = Rate()

    def read(self, now_s: float) -> Reading:
        """Milliseconds stopped a second since the last call, and MiB by node."""
        reading: Reading = {}
        stopped = [ms for file in self._cpu if (ms := throttled_ms(_text(file))) is not None]
        if stopped and (rate := self._rate.of("throttled", sum(stopped), now_s)) is not None:
            reading["cgroup_throttled_ms_per_s"] = round(rate, 1)
        for node, mib in anonymous_mib_by_node(_text(self._numa) if self._numa else b"").items():
            reading[f"node_memory_mib/{node}"] = mib
        return reading


def throttled_ms(cpu_stat: bytes) -> float | None:
    """Milliseconds for which a quota stopped a cgroup, version 2 or 1; None where it cannot have one (the root)."""
    for line in cpu_stat.split(b"\n"):
        name, _, value = line.partition(b" ")
        if name == b"throttled_usec":
            return int(value) / 1e3
        if name == b"throttled_time":  # version 1, in nanoseconds
            return int(value) / 1e6
    return None


def anonymous_mib_by_node(numa_stat: bytes) -> dict[int, float]:
    """Memory of a cgroup's processes by NUMA node; file pages are left out, since others may have brought them there."""
    for line in numa_stat.split(b"\n"):
        if line.startswith(b"anon "):
            parts = (part.partition(b"=") for part in line.split()[1:])
            return {int(node[1:]): round(int(value) / 2**20, 1) for node, _, value in parts}
    return {}


def _text(file: KeptFile) -> bytes:
    try:
        return file.read()
    except OSError:  # the cgroup is gone with its service
        return b""
