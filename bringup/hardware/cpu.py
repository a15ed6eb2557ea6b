"""Processors and NUMA nodes."""

from typing import Literal

from bringup.hardware.base import Frozen

SmtState = Literal["on", "off", "forceoff", "notsupported", "notimplemented"]


class L3Group(Frozen):
    """Logical CPUs that share one L3 cache: a CCD on AMD, all of a socket on Intel's desktops."""

    cpus: tuple[int, ...]
    size_kib: int | None


class Cpu(Frozen):
    """Processors that this host may use, which in a container can be fewer than the machine has."""

    model: str
    usable: tuple[int, ...]
    """Logical CPU numbers that are online and allowed to the login session and by the cgroup's cpuset."""
    core_of: dict[int, int]
    """Logical CPU number to physical core number (unique over all sockets), of the usable ones."""
    node_of: dict[int, int]
    """Logical CPU number to NUMA node, of the usable ones."""
    sockets: int | None = None
    online: tuple[int, ...] = ()
    """Every logical CPU that the kernel runs, usable here or not."""
    offline: tuple[int, ...] = ()
    """Logical CPUs that are present but switched off."""
    isolated: tuple[int, ...] = ()
    """Kept from the scheduler by ``isolcpus=``: nothing runs there unless it is pinned."""
    smt: SmtState | None = None
    """Simultaneous multithreading as /sys/devices/system/cpu/smt/control says; ``notsupported``: the processor has none."""
    smt_switchable: bool | None = None
    """Whether root can switch SMT here, at run time."""
    performance: tuple[int, ...] = ()
    """Logical CPUs of an Intel hybrid's performance cores; empty where all cores are alike or it cannot be told."""
    efficiency: tuple[int, ...] = ()
    """Logical CPUs of its efficiency cores, low-power ones included."""
    l3_groups: tuple[L3Group, ...] = ()
    """Of all online CPUs, in the order of their first CPU."""
    max_mhz: int | None = None
    """The fastest core's highest frequency, turbo included, as cpufreq says."""
    governor: str | None = None
    """cpufreq governor of the usable CPUs; several are joined by commas."""
    energy_preference: str | None = None
    """What the processor prefers where it chooses its own clock (energy_performance_preference); several are joined by commas."""
    frequency_driver: str | None = None
    """``intel_pstate``, ``amd-pstate-epp``, ``acpi-cpufreq``…"""
    quota_cpus: float | None = None
    """CPU time per time that the cgroup grants (cpu.max: 800 ms each 100 ms are 8 CPUs); None where it sets no limit."""

    @property
    def physical_cores(self) -> int:
        """Physical cores behind the usable logical CPUs."""
        return len({self.core_of.get(cpu, cpu) for cpu in self.usable})

    @property
    def worth_cpus(self) -> float:
        """Logical CPUs that can be busy at the same time: the usable ones, or the cgroup's quota where that is less."""
        return min(float(len(self.usable)), self.quota_cpus) if self.quota_cpus else float(len(self.usable))


class NumaNode(Frozen):
    """One NUMA node that has CPUs or memory."""

    id: int
    cpus: tuple[int, ...]
    """Its online CPUs; empty on a node that is memory only (CXL, high-bandwidth memory)."""
    memory_mib: int
    """0 on a node without memory: its CPUs work on another node's."""
    distances: tuple[int, ...] = ()
    """To each node in the order of their numbers, itself 10 (ACPI SLIT); empty where the kernel tells none."""
