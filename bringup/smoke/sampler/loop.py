"""The sampling loop: asks each source at its own pace and gives one row a moment to a writer."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bringup.smoke.sampler.proc import Reading

Read = Callable[[float], Reading]
"""Takes the seconds since the run's start and returns what is new."""
Write = Callable[[dict[str, Any]], None]

INTERVAL_S = 0.2
_LATE_S = 3.0
"""A source that has given nothing for so long hangs; a healthy one answers within a second."""


class Source(NamedTuple):
    """Something to read every `every_s` seconds."""

    name: str
    read: Read
    every_s: float
    """0 reads it at each moment."""


class Aside:
    """Reads sources in a thread of their own, so that one that hangs (a lost card, a busy server) holds up nothing else.

    It looks when it is told to, once a moment: with a pace of its own, two looks would fall into some moments and none into others.
    """

    def __init__(self, name: str, sources: Sequence[Source], clock: Callable[[], float]) -> None:
        """Nothing runs before `start`."""
        self._sources, self._clock = sources, clock
        self._fresh: Reading = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._look = threading.Event()
        self.name = name
        self.heard_s = 0.0
        # a daemon: a call that never returns must not keep the program alive
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self.heard_s = self._clock()
        self._thread.start()

    def stop(self, limit_s: float) -> bool:
        """Stop reading; False when it did not end within `limit_s` seconds."""
        self._stop.set()
        self._look.set()
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def take(self) -> Reading:
        """What came since the last call; then the next look begins."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        self._look.set()
        return fresh

    def note(self, now_s: float) -> str:
        """That it hangs, in words; empty while it does not."""
        silent_s = now_s - self.heard_s
        return f"{self.name} gave nothing from {self.heard_s:.1f} s on" if silent_s > _LATE_S else ""

    def _run(self) -> None:
        paces = [_Pace(source, self._clock()) for source in self._sources]
        while not self._stop.is_set():
            self._look.wait()
            self._look.clear()
            for pace in paces:
                if pace.is_due(now_s := self._clock()):
                    reading = pace.source.read(now_s)
                    with self._lock:
                        self._fresh |= reading
                    self.heard_s = self._clock()
            self.heard_s = self._clock()


class _Pace:
    """When a source is due; moments that were missed are left out, not made up for."""

    def __init__(self, source: Source, now_s: float) -> None:
        self.source, self.next_s = source, now_s

    def is_due(self, now_s: float) -> bool:
        if now_s < self.next_s:
            return False
        if self.source.every_s:
            missed = (now_s - self.next_s) // self.source.every_s
            self.next_s += (missed + 1) * self.source.every_s
        return True


class Bucket:
    """Puts `size` rows into one: the mean of each value, all bits of bit sets, the last value of counters."""

    def __init__(self, size: int, write: Write) -> None:
        """Give each full bucket to `write`."""
        self._size, self._write = size, write
        self._rows: list[Reading] = []

    def add(self, now_s: float, row: Reading) -> None:
        """Add a row that was read at `now_s`."""
        self._rows.append(row)
        if len(self._rows) >= self._size:
            self.flush(now_s)

    def flush(self, now_s: float) -> None:
        """Write what is there, if there is anything."""
        if not self._rows:
            return
        merged: dict[str, list[float]] = {}
        for row in self._rows:
            for key, value in row.items():
                merged.setdefault(key, []).append(value)
        self._rows = []
        self._write({"t": round(now_s, 3), "v": {key: _one_of(key, values) for key, values in merged.items()}})


def _one_of(key: str, values: list[float]) -> float:
    if len(values) == 1 or key.endswith(("_total", "_count", "_sum_s")):
        return values[-1]
    if key.startswith("throttle_reasons"):
        bits = 0
        for value in values:
            bits |= int(value)
        return bits
    return round(sum(values) / len(values), 2)


def run_loop(
    sources: Sequence[Source],
    asides: Sequence[Aside],
    write: Write,
    stop: threading.Event,
    clock: Callable[[], float],
    bucket_size: int = 1,
) -> None:
    """Sample every `INTERVAL_S` until `stop` is set."""
    tick = Source("tick", lambda _: {}, INTERVAL_S)
    bucket = Bucket(bucket_size, write)
    pace, paces = _Pace(tick, clock()), [_Pace(source, clock()) for source in sources]
    for aside in asides:
        aside.start()
    while not stop.is_set():
        if pace.is_due(now_s := clock()):
            row: Reading = {}
            for due in paces:
                if due.is_due(now_s):
                    row |= due.source.read(now_s)
            for aside in asides:
                row |= aside.take()
            bucket.add(now_s, row)
        stop.wait(max(0.0, pace.next_s - clock()))
    bucket.flush(clock())


def monotonic_since(zero: float) -> Callable[[], float]:
    """A clock that tells seconds since `zero`, a value of time.monotonic()."""
    return lambda: time.monotonic() - zero
