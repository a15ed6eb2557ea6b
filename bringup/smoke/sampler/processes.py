"""CPU time, waiting for a CPU, context switches and memory of the server's processes and of the load client."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bringup.smoke.sampler.proc import KeptFile, Rate, Reading

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_MOST_THREADS = 256
"""Of one process that are looked at, so that a process with thousands of threads does not make sampling expensive."""
_MOST_SWITCHING = 8
"""Threads whose context switches are counted: those that ran longest since the last look. Their file is the dearest one."""


class Watched(NamedTuple):
    """A process to look at."""

    pid: int
    name: str
    role: str


class _Thread:
    """One thread; its times are the scheduler's, in nanoseconds, so that they are exact at any interval."""

    def __init__(self, folder: Path, first_seen: bool) -> None:
        self._folder = folder
        self._schedstat = KeptFile(folder / "schedstat")
        self._status: KeptFile | None = None
        self.total_ns = self.ran_ns = self.waited_ns = 0
        self._last = self.times() if first_seen else (0, 0)  # a thread that is new was idle before
        self._switches = (0, 0)

    def times(self) -> tuple[int, int]:
        ran, waited, _ = self._schedstat.read().split()
        return int(ran), int(waited)

    def look(self) -> bool:
        """Learn what it used since the last look; False when it has ended."""
        try:
            now = self.times()
        except (OSError, ValueError):
            return False
        self.ran_ns, self.waited_ns = now[0] - self._last[0], now[1] - self._last[1]
        self.total_ns += self.ran_ns
        self._last = now
        return True

    def switches(self) -> tuple[int, int] | None:
        """Voluntary and involuntary ones since the last call; None at the first, and when it has ended."""
        first = self._status is None
        counts = {}
        try:
            self._status = self._status or KeptFile(self._folder / "status")
            for line in self._status.read().rsplit(b"\n", 3)[-3:]:
                name, _, value = line.partition(b":")
                counts[name] = value
        except OSError:
            return None
        now = int(counts[b"voluntary_ctxt_switches"]), int(counts[b"nonvoluntary_ctxt_switches"])
        before, self._switches = self._switches, now
        return None if first else (now[0] - before[0], now[1] - before[1])

    def name(self) -> str:
        try:
            return (self._folder / "comm").read_text(errors="replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        self._schedstat.close()
        if self._status is not None:
            self._status.close()


class _Process:
    def __init__(self, proc: Path, watched: Watched) -> None:
        self.watched = watched
        self._folder = proc / str(watched.pid)
        self._stat, self._statm = KeptFile(self._folder / "stat"), KeptFile(self._folder / "statm")
        self.threads: dict[str, _Thread] = {}
        self.hottest = ""
        self._rate = Rate()
        self._looked_s: float | None = None

    def cpu_percent(self, now_s: float) -> float | None:
        # the name, in brackets, may hold spaces and brackets itself
        fields = self._stat.read().rpartition(b")")[2].split()
        rate = self._rate.of("cpu", (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, now_s)
        return None if rate is None else round(rate * 100, 1)

    def rss_mib(self) -> float:
        return round(int(self._statm.read().split()[1]) * _PAGE_MIB, 1)

    def look_at_threads(self, now_s: float) -> Reading:
        """Of its threads since the last look; nothing at the first."""
        first = self._looked_s is None
        self._renew_threads(first)
        alive = [thread for thread in self.threads.values() if thread.look()]
        before, self._looked_s = self._looked_s, now_s
        active = sorted((thread for thread in alive if thread.ran_ns or thread.waited_ns), key=lambda thread: -thread.ran_ns)
        switches = [change for thread in active[:_MOST_SWITCHING] if (change := thread.switches()) is not None]
        if before is None or now_s <= before or not self.threads:
            return {}
        passed_s = now_s - before
        return {
            "hottest_thread_cpu_percent": round((active[0].ran_ns if active else 0) / passed_s / 1e7, 1),
            "run_queue_delay_ms_per_s": round(sum(thread.waited_ns for thread in active) / passed_s / 1e6, 1),
            "voluntary_switches_per_s": round(sum(change[0] for change in switches) / passed_s, 1),
            "involuntary_switches_per_s": round(sum(change[1] for change in switches) / passed_s, 1),
        }

    def _renew_threads(self, first: bool) -> None:
        now = [task.name for task in (self._folder / "task").iterdir()][:_MOST_THREADS]
        for gone in self.threads.keys() - set(now):
            self.threads.pop(gone).close()
        for number in now:
            if number not in self.threads:
                try:
                    self.threads[number] = _Thread(self._folder / "task" / number, first)
                except (OSError, ValueError):  # it ended meanwhile, or the kernel keeps no scheduler statistics
                    continue

    def describe(self) -> dict[str, object]:
        hot = max(self.threads.items(), key=lambda item: item[1].total_ns, default=None)
        if hot is not None and hot[1].total_ns:
            self.hottest = f"{hot[1].name()} ({hot[0]})".strip()
        try:
            cpus = sorted(os.sched_getaffinity(self.watched.pid))
        except OSError:
            cpus = []
        return {**self.watched._asdict(), "cpus": cpus, "threads": len(self.threads), "hottest_thread": self.hottest}

    def close(self) -> None:
        self._stat.close()
        self._statm.close()
        for thread in self.threads.values():
            thread.close()


class ProcessUse:
    """The server's processes, found again from time to time, since workers come and go."""

    def __init__(self, proc: Path, find: Callable[[], Sequence[Watched]], find_every_s: float = 30.0) -> None:
        """Look below `proc` at what `find` finds every `find_every_s` seconds."""
        self._proc, self._find, self._find_every_s = proc, find, find_every_s
        self._processes: dict[int, _Process] = {}
        self._described: dict[int, dict[str, object]] = {}
        self._found_s: float | None = None

    @property
    def pids(self) -> frozenset[int]:
        """Processes that are looked at now."""
        return frozenset(self._processes)

    def read(self, now_s: float) -> Reading:
        """CPU time since the last call."""
        if self._found_s is None or now_s - self._found_s >= self._find_every_s:
            self._found_s = now_s
            self._renew()
        return self._each("process_cpu_percent", lambda process: process.cpu_percent(now_s))

    def read_slowly(self, now_s: float) -> Reading:
        """What costs more to learn: threads and memory."""
        reading = self._each("rss_mib", lambda process: process.rss_mib())
        for pid, process in list(self._processes.items()):
            try:
                reading |= {f"{name}/{pid}": value for name, value in process.look_at_threads(now_s).items()}
            except OSError:
                self._drop(pid)
        return reading

    def describe(self) -> list[dict[str, object]]:
        """Every process that was looked at, as `timeline.SampledProcess`."""
        for pid, process in self._processes.items():
            self._described[pid] = process.describe()
        return list(self._described.values())

    def _each(self, name: str, look: Callable[[_Process], float | None]) -> Reading:
        reading: Reading = {}
        for pid, process in list(self._processes.items()):
            try:
                value = look(process)
            except (OSError, ValueError, IndexError):
                self._drop(pid)
                continue
            if value is not None:
                reading[f"{name}/{pid}"] = value
        return reading

    def _renew(self) -> None:
        for watched in self._find():
            if watched.pid not in self._processes:
                try:
                    self._processes[watched.pid] = _Process(self._proc, watched)
                except OSError:  # it ended meanwhile
                    continue
                self._described[watched.pid] = self._processes[watched.pid].describe()

    def _drop(self, pid: int) -> None:
        self._processes.pop(pid).close()
