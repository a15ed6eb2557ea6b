"""CPU topology: `lscpu -p`, the allowed CPUs of /proc/self/status, and the NUMA nodes of sysfs."""

import re

from bringup.hardware import Cpu, NumaNode


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Parse the kernel's list format: ``0-3,8,10-11`` → (0, 1, 2, 3, 8, 10, 11).

    Raises:
        ValueError: the text is not such a list, or names more CPUs than any machine has.
    """
    cpus: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if ends is None or not int(ends[1]) <= int(ends[2] or ends[1]) < 8192:  # CONFIG_NR_CPUS of the largest distribution kernels
            raise ValueError(f"not a list of CPUs: {text!r}")
        cpus.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: tuple[int, ...]) -> str:
    """The reverse of `parse_cpu_list`: (0, 1, 2, 3, 8) → ``0-3,8``."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def parse_cpu(lscpu: str, allowed: str, model: str) -> Cpu:
    """Combine `lscpu -p=CPU,CORE,SOCKET,NODE`, the ``Cpus_allowed_list`` line and the ``model name`` line.

    lscpu leaves out CPUs that are offline. Without lscpu each allowed CPU counts as a core of its own on node 0.

    Raises:
        ValueError: neither source names a CPU, or one of them is garbled.
    """
    core_of: dict[int, int] = {}
    node_of: dict[int, int] = {}
    for line in lscpu.splitlines():
        if not line or line.startswith("#"):
            continue
        fields = line.split(",")
        if len(fields) != 4:
            raise ValueError(f"not a line of lscpu -p=CPU,CORE,SOCKET,NODE: {line!r}")
        cpu = int(fields[0])
        core_of[cpu] = int(fields[1]) if fields[1] else cpu
        node_of[cpu] = int(fields[3]) if fields[3] else 0
    may_use = parse_cpu_list(allowed.partition(":")[2])
    usable = tuple(sorted(set(may_use) & set(core_of))) if core_of and may_use else may_use or tuple(sorted(core_of))
    if not usable:
        raise ValueError("neither lscpu nor /proc/self/status names a CPU")
    return Cpu(
        model=model.partition(":")[2].strip() or "unknown",
        usable=usable,
        core_of={cpu: core_of.get(cpu, cpu) for cpu in usable},
        node_of={cpu: node_of.get(cpu, 0) for cpu in usable},
    )


def parse_numa(text: str) -> tuple[NumaNode, ...]:
    """Parse lines of ``node cpulist MemTotal_kB``; a memory-only node has an empty list of CPUs.

    Raises:
        ValueError: a line has another form.
    """
    nodes = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) not in (2, 3):
            raise ValueError(f"not a NUMA node: {line!r}")
        cpus = parse_cpu_list(fields[1]) if len(fields) == 3 else ()
        nodes.append(NumaNode(id=int(fields[0]), cpus=cpus, memory_mib=int(fields[-1]) // 1024))
    return tuple(sorted(nodes, key=lambda node: node.id))
