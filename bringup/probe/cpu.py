"""Processors and NUMA nodes: sysfs, the allowed CPUs of /proc/self/status, the cgroup's limits."""

import re
from collections.abc import Iterable
from typing import cast, get_args

from bringup.cpu_list import parse_cpu_list
from bringup.hardware import Cpu, L3Group, NumaNode, SmtState
from bringup.probe.sections import fields, key_values


def parse_cpu(cpus: str, lists: str, allowed: str, model: str, cgroup: str, nodes: tuple[NumaNode, ...]) -> Cpu:
    """Combine what the kernel says of each CPU with who may use it.

    Args:
        cpus: a line of ``name=value`` words a CPU, from sysfs; an offline CPU has no topology.
        lists: online, present and isolated CPUs, the SMT state, the kinds of an Intel hybrid.
        allowed: the ``Cpus_allowed_list`` line of /proc/self/status.
        model: the ``model name`` line of /proc/cpuinfo.
        cgroup: the cgroup's limits, a line each; the least one counts.
        nodes: the NUMA nodes.

    Raises:
        ValueError: no source names a CPU, or one of them is garbled.
    """
    rows: dict[int, dict[str, str]] = {}
    for line in filter(None, cpus.splitlines()):
        (number,) = parse_cpu_list(fields(line).get("cpu", "")) or (None,)
        if number is None:
            raise ValueError(f"not a line about a CPU: {line[:80]!r}")
        rows[number] = fields(line)
    said = key_values(lists)
    online = set(parse_cpu_list(said.get("online", ""))) or set(rows)
    limits = [set(parse_cpu_list(text)) for text in (allowed.partition(":")[2], *_values(cgroup, "cpuset"))]
    usable = set.intersection(*filter(None, [online, *limits])) if online or any(limits) else set()
    if not usable:
        raise ValueError("neither sysfs nor /proc/self/status names a CPU")
    core_of = _cores({cpu: rows.get(cpu, {}) for cpu in sorted(online | usable)})
    l3 = {row["l3"]: row.get("l3_size", "") for row in rows.values() if row.get("l3")}
    mhz = [_whole(row.get("max_khz", "")) for row in rows.values()]
    packages = {row["package"] for cpu, row in rows.items() if cpu in online and row.get("package")}
    efficiency = (*parse_cpu_list(said.get("atom", "")), *parse_cpu_list(said.get("lowpower", "")))
    smt = said.get("smt")
    return Cpu(
        model=model.partition(":")[2].strip() or "unknown",
        usable=tuple(sorted(usable)),
        core_of={cpu: core_of[cpu] for cpu in sorted(usable)},
        node_of=_nodes(usable, nodes),
        sockets=len(packages) or None,
        online=tuple(sorted(online)),
        offline=tuple(sorted(set(parse_cpu_list(said.get("present", ""))) - online)),
        isolated=parse_cpu_list(said.get("isolated", "")),
        smt=cast(SmtState, smt) if smt in get_args(SmtState) else None,
        smt_switchable=said.get("smt_access") == "rw" and smt in ("on", "off") if smt else None,
        performance=parse_cpu_list(said.get("core", "")) if efficiency else (),
        efficiency=tuple(sorted(efficiency)),
        l3_groups=tuple(
            sorted(
                (L3Group(cpus=parse_cpu_list(shared), size_kib=_whole(size.removesuffix("K"))) for shared, size in l3.items()),
                key=lambda group: group.cpus,
            )
        ),
        max_mhz=max((khz // 1000 for khz in mhz if khz), default=None),
        governor=_joined(row.get("governor") for cpu, row in rows.items() if cpu in usable),
        energy_preference=_joined(row.get("epp") for cpu, row in rows.items() if cpu in usable),
        frequency_driver=_joined(row.get("driver") for cpu, row in rows.items() if cpu in usable),
        quota_cpus=min((quota for text in _values(cgroup, "cpu.max") if (quota := _quota(text))), default=None),
    )


def parse_numa(text: str) -> tuple[NumaNode, ...]:
    """Parse a line of ``node= cpus= memory_kb= distances=`` a node.

    Raises:
        ValueError: a line has another form.
    """
    nodes = []
    for line in filter(None, text.splitlines()):
        row = fields(line)
        if not row.keys() >= {"node", "cpus", "memory_kb"}:
            raise ValueError(f"not a line about a NUMA node: {line[:80]!r}")
        nodes.append(
            NumaNode(
                id=int(row["node"]),
                cpus=parse_cpu_list(row["cpus"]),
                memory_mib=int(row["memory_kb"] or 0) // 1024,
                distances=tuple(int(word) for word in row.get("distances", "").split(",") if word),
            )
        )
    return tuple(sorted(nodes, key=lambda node: node.id))


def _cores(rows: dict[int, dict[str, str]]) -> dict[int, int]:
    """Number the physical cores over all sockets; the kernel numbers them within each die. Without topology each CPU is one."""
    keys = {
        cpu: (row["package"], row.get("die", ""), row["core"]) if row.get("package") and row.get("core") else (f"cpu{cpu}", "", "")
        for cpu, row in rows.items()
    }
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys.values()))}
    return {cpu: numbers[key] for cpu, key in keys.items()}


def _nodes(cpus: set[int], nodes: tuple[NumaNode, ...]) -> dict[int, int]:
    """Some virtual machines have one node and list no CPU in it."""
    only = nodes[0].id if len(nodes) == 1 else 0
    of = {cpu: node.id for node in nodes for cpu in node.cpus}
    return {cpu: of.get(cpu, only) for cpu in sorted(cpus)}


def _values(cgroup: str, prefix: str) -> list[str]:
    return [line.partition("=")[2] for line in cgroup.splitlines() if line.startswith(prefix)]


def _quota(text: str) -> float | None:
    """CPUs that ``quota period`` (both in µs) grants; ``max`` and -1 set no limit."""
    match = re.fullmatch(r"([0-9]{1,15}) ([1-9][0-9]{0,11})", text.strip())
    return int(match[1]) / int(match[2]) or None if match else None


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None


def _joined(values: Iterable[str | None]) -> str | None:
    return ",".join(dict.fromkeys(value for value in values if value)) or None
