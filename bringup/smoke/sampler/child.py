"""The sampling process: finds what there is to sample and writes rows as JSON lines until it is told to stop.

It is a process of its own so that sampling neither takes the load client's interpreter nor ends with it.
"""

import json
import os
import resource
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psutil
import pynvml  # type: ignore[import-untyped]

from bringup.cpu_list import parse_cpu_list
from bringup.smoke.sampler.card import CardUse
from bringup.smoke.sampler.loop import Aside, Source, monotonic_since, run_loop
from bringup.smoke.sampler.metrics import Metrics
from bringup.smoke.sampler.proc import CgroupUse, CoreUse, MemoryEvents
from bringup.smoke.sampler.processes import ProcessUse, Watched
from bringup.smoke.sampler.server import ServerSide, find_server, server_processes

_MOST_CORES = 64
"""Logical CPUs that are told one by one; on larger machines the server's and their siblings come first."""
_DEAR_TURNS, _LINK_TURNS = 2, 10
"""Who is on the card is dear to ask: 5 ms of CPU time on an H100 (driver 580, 2026-11-25), where the rest of a moment takes 0.7. So
are the link's counters (1.6 ms) and the threads (4 ms for 256 of them)."""
_LAST_WORD_S = 1.0
"""For threads to end once it is over; a call to a lost card may not return at all."""


def sample(
    out: IO[str],
    stop: threading.Event,
    zero: float,
    base_url: str | None = None,
    pci_address: str | None = None,
    client_pid: int | None = None,
    bucket_size: int = 1,
    slow_s: float = 1.0,
    library: Any = pynvml,
    proc: Path = Path("/proc"),
    system: Path = Path("/sys"),
) -> None:
    """Write rows to `out` until `stop` is set: lines with `t` and `v`, and lines with what was learnt about the whole.

    Args:
        out: where the lines go.
        stop: ends it.
        zero: moment of time.monotonic() from which seconds are counted.
        base_url: the server; None samples the machine alone.
        pci_address: the card that serves; None finds it.
        client_pid: the load client; None where there is none.
        bucket_size: rows that are put into one, for long runs.
        slow_s: between two looks at what costs more to learn; threads and the link's traffic are looked at every second time, link
            and processes of a card every tenth.
        library: the module `pynvml`, or what stands for it.
        proc: where the kernel shows processes.
        system: where it shows devices.
    """
    _allow_open_files()
    clock = monotonic_since(zero)
    side = find_server(base_url, proc, system / "fs/cgroup") if base_url else ServerSide(True)
    client = [Watched(client_pid, "load client", "client")] if client_pid else []
    mine = server_processes(side) if side.owners else []
    cpus = sorted({cpu for watched in mine for cpu in _affinity(watched.pid)})
    siblings = read_siblings(system)
    keep_off(cpus, siblings)
    processes = ProcessUse(proc, lambda: [*(server_processes(side) if side.owners else []), *client])
    processes.read(clock())  # counters need a first look, and cards are found by the processes on them
    cards = CardUse(library, pci_address, lambda: processes.pids if mine else (), proc) if side.local else None
    metrics = Metrics(base_url) if base_url else None
    sources = [
        Source("cores", CoreUse(proc, _cores_to_tell(cpus, siblings)).read, 0),
        Source("processes", processes.read, 0),
        Source("threads", processes.read_slowly, slow_s * _DEAR_TURNS),
        Source("memory", MemoryEvents(proc).read, slow_s),
    ]
    if side.owners:
        sources.append(Source("cgroup", CgroupUse(side.cgroup, side.quotas).read, slow_s))
    asides = []
    if cards is not None:
        asides.append(
            Aside(
                "NVML",
                [
                    Source("card", cards.read, 0),
                    Source("state", cards.read_state, slow_s),
                    Source("traffic", cards.read_traffic, slow_s * _DEAR_TURNS),
                    Source("link", cards.read_slowly, slow_s * _LINK_TURNS),
                ],
                clock,
            )
        )
    if metrics is not None:
        asides.append(Aside("/metrics", [Source("metrics", metrics.read, slow_s)], clock))

    def write(line: dict[str, Any]) -> None:
        out.write(json.dumps(line, separators=(",", ":")) + "\n")
        out.flush()  # what was sampled so far survives a process that hangs

    def describe(used_percent: float | None) -> dict[str, Any]:
        late = [note for aside in asides if (note := aside.note(clock()))]
        notes = [side.note, metrics.note if metrics else "", *(cards.notes.values() if cards else ()), *late]
        return {
            "server_is_local": side.local,
            "processes": processes.describe(),
            "siblings": siblings,
            "cards": cards.describe() if cards and not late else [],
            "notes": [note for note in notes if note],
            "sampler_cpu_percent": used_percent,
        }

    write({"about": describe(None)})
    began_cpu, began = time.process_time(), clock()
    run_loop(sources, asides, write, stop, clock, bucket_size)
    used = (time.process_time() - began_cpu) / max(clock() - began, 1e-9) * 100
    ended = [aside.stop(_LAST_WORD_S) for aside in asides]
    about = describe(round(used, 2))
    if not all(ended):  # keep what was said of the cards before one of them stopped answering
        del about["cards"]
    write({"about": about})


def read_siblings(system: Path) -> dict[int, tuple[int, ...]]:
    """Logical CPU to the others on its physical core, of those that are online; empty without SMT."""
    siblings = {}
    for file in (system / "devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list"):
        cpu = int(file.parent.parent.name.removeprefix("cpu"))
        try:
            others = tuple(other for other in parse_cpu_list(file.read_text()) if other != cpu)
        except (OSError, ValueError):
            continue
        if others:
            siblings[cpu] = others
    return dict(sorted(siblings.items()))


def keep_off(cpus: Sequence[int], siblings: dict[int, tuple[int, ...]]) -> None:
    """Run on CPUs that are neither the server's nor their siblings, if there are others."""
    allowed = os.sched_getaffinity(0)
    free = allowed - set(cpus) - {other for cpu in cpus for other in siblings.get(cpu, ())}
    if free:
        os.sched_setaffinity(0, free)


def _cores_to_tell(cpus: Sequence[int], siblings: dict[int, tuple[int, ...]]) -> list[int] | None:
    if (psutil.cpu_count() or 1) <= _MOST_CORES:
        return None
    first = [*cpus, *(other for cpu in cpus for other in siblings.get(cpu, ()))]
    return list(dict.fromkeys([*first, *range(psutil.cpu_count() or 1)]))[:_MOST_CORES]


def _affinity(pid: int) -> set[int]:
    try:
        return os.sched_getaffinity(pid)
    except OSError:
        return set()


def _allow_open_files() -> None:
    """One file stays open for each thread of the server, which can be more than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
