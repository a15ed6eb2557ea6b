"""Causes that lie in main memory: on the wrong node, moving, on disk, or slow."""

from bringup.smoke.diagnosis.case import Case
from bringup.smoke.diagnosis.model import Cause

# limits of ours
_REMOTE_SHARE, _REMOTE_MIB = 0.2, 512.0
_MOVED_PER_S = 1000.0
_SWAPPED_MIB_PER_S = 1.0


def remote_memory(case: Case) -> Cause | None:
    """The server's memory is on another NUMA node than its CPUs."""
    on_node = {int(series.of): max(case.under_load(series), default=0.0) for series in case.timeline.all("node_memory_mib")}
    node_of = case.facts.cpu.node_of if case.facts else {}
    here = {node_of[cpu] for cpu in case.server_cpus if cpu in node_of}
    total = sum(on_node.values())
    far = {node: mib for node, mib in on_node.items() if node not in here}
    if not here or sum(far.values()) < max(_REMOTE_MIB, total * _REMOTE_SHARE):
        return None
    hints = case.mean("numa_hint_faults_per_s") or 0.0
    return Cause(
        key="numa-remote",
        title="much of the server's memory is on another NUMA node than its CPUs",
        evidence=(
            f"its CPUs are on node {_nodes(here)}, {sum(far.values()):.0f} of {total:.0f} MiB of its memory on node {_nodes(far)}",
            *((f"the kernel looked at {hints:.0f} pages a second to move them (numa_hint_faults)",) if hints else ()),
        ),
        confidence="medium",
        fix="bind CPUs and memory to the card's node: NUMAPolicy=bind and NUMAMask= of the unit, as the plan does",
    )


def moving_pages(case: Case) -> Cause | None:
    """The kernel moves memory between nodes while the server works."""
    moved = case.mean("pages_migrated_per_s") or 0.0
    hints = case.mean("numa_hint_faults_per_s") or 0.0
    several = len(case.facts.numa_nodes) > 1 if case.facts else bool(hints)
    if not several or moved < _MOVED_PER_S:
        return None
    return Cause(
        key="numa-migrations",
        title="the kernel moves memory between NUMA nodes while the server works",
        evidence=(f"{moved:.0f} pages a second were moved, {hints:.0f} a second were looked at for it (/proc/vmstat)",),
        confidence="medium",
        fix="kernel.numa_balancing=0, and memory bound to one node (NUMAPolicy= of the unit)",
    )


def swapping(case: Case) -> Cause | None:
    """Memory comes back from disk."""
    rate = case.mean("swapped_in_mib_per_s") or 0.0
    if rate < _SWAPPED_MIB_PER_S:
        return None
    free = case.mean("memory_available_mib")
    return Cause(
        key="swapping",
        title="the machine is out of memory and reads it back from swap",
        evidence=(
            f"{rate:.1f} MiB a second came back from swap",
            *((f"{free:.0f} MiB of memory were available",) if free is not None else ()),
        ),
        confidence="high",
        fix="free memory: see who uses it (`top -o RES`), give the server less (`cpu-kvcache-space`, `swap-space`), or add some",
    )


def slow_memory(case: Case) -> Cause | None:
    """Main memory runs below its rated speed, or through one channel."""
    memory = case.facts.memory_modules if case.facts else None
    if memory is None:
        return None
    evidence = []
    if memory.rated_mt_s and memory.configured_mt_s and memory.configured_mt_s < memory.rated_mt_s:
        evidence.append(f"memory is rated {memory.rated_mt_s} MT/s and runs at {memory.configured_mt_s} MT/s")
    if memory.channels == 1:
        evidence.append(
            "one memory channel is populated" + (f": {memory.bandwidth_gb_s:.0f} GB/s" if memory.bandwidth_gb_s else "")
        )
    if not evidence:
        return None
    return Cause(
        key="memory-slow",
        title="main memory is slower than it could be",
        evidence=tuple(evidence),
        # vLLM's CPU backend reads the weights from it for each token; beside a card what it costs was not measured by us
        confidence="low" if case.has_card else "medium",
        fix="switch EXPO or XMP on in the firmware's set-up; a module in the second channel doubles the bandwidth",
    )


def _nodes(nodes: object) -> str:
    return ", ".join(map(str, sorted(nodes)))  # type: ignore[call-overload]
