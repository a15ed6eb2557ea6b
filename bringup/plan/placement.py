"""Which logical CPUs serve, and which stay with the system."""

from bringup.hardware import Cpu


def serving_cpus(cpu: Cpu, gpu_node: int | None) -> tuple[tuple[int, ...], str]:
    """Choose the CPUs of the service and say why.

    With a card on a known NUMA node, that node's CPUs; else all that the host may use. Of four or more physical cores the
    first one stays with the system and its interrupts.
    """
    cpus = tuple(c for c in cpu.usable if gpu_node is None or cpu.node_of.get(c) == gpu_node) or cpu.usable
    cores = sorted({cpu.core_of.get(c, c) for c in cpus})
    where = f"the card's NUMA node {gpu_node}" if gpu_node is not None and len(set(cpu.node_of.values())) > 1 else "this host"
    if len(cores) < 4:
        return cpus, f"{where} has {len(cores)} physical cores: too few to keep one apart for the system"
    kept = tuple(c for c in cpus if cpu.core_of.get(c, c) != cores[0])
    return (
        kept,
        f"{len(cores) - 1} of {len(cores)} physical cores of {where}; the first stays with the system and its interrupts",
    )
