"""Puts a load on a server: closed loop (so many requests in flight) or open loop (so many a second, whatever the server does).

In closed loop the next request is sent when one has ended, so that a stall of the server delays what would have shown it. In open
loop the times are drawn beforehand; a request that is late because of a stall counts from when it was due.

Requests that warm the server up come first. When fewer measured requests are left than streams, others that do not count keep the
load up until the last measured one has ended; then they are stopped.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

from bringup.smoke.client import Ask, Client
from bringup.smoke.model import Arrivals, RequestSample

OnSample = Callable[[str, int, int | None, RequestSample], None]
"""Called after each request: its phase (`warm-up` or a stage's name), how many of the phase have ended, of how many, the sample."""
AskFor = Callable[[int], Ask]
"""The request to send as the n-th, from 0."""

_HOPELESS = 3
"""Where nothing has succeeded after so many measured requests (or one for each stream), the rest is not sent."""
_LEAD_S = 0.05
"""From the start of an open loop to its first request, so that it is not late."""


@dataclass(frozen=True)
class Target:
    """How much a load is to measure."""

    warm_up: int
    """Requests sent first that do not count."""
    count_for: Callable[[Sequence[RequestSample]], int] | None = None
    """How many requests to measure, given those of the warm-up that have ended; called once, before the first is measured."""
    seconds: float | None = None
    """How long to measure, where there is no number."""
    limit_s: float | None = None
    """Time after which no further request is sent."""


@dataclass(frozen=True)
class Run:
    """What came of one load."""

    samples: tuple[RequestSample, ...]
    """In the order in which they were to be sent."""
    planned: int | None
    """Measured requests that were planned; None where time ended it."""

    @property
    def unsent(self) -> int:
        """Measured requests that were planned and not sent: nothing succeeded, or the time was over."""
        return 0 if self.planned is None else max(0, self.planned - sum(not sample.warm_up for sample in self.samples))


@dataclass
class _State:
    """What the requests of one load share."""

    name: str
    target: Target
    streams: int
    on_sample: OnSample
    ended: dict[int, RequestSample] = field(default_factory=dict)
    begun: int = 0
    """Measured requests that were sent."""
    measured: int = 0
    succeeded: int = 0
    warmed: int = 0
    count: int | None = None
    until: float | None = None
    limit: float | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def counts(self, number: int) -> bool:
        """Say whether the request that is sent now as the n-th counts."""
        if number < self.target.warm_up:
            return False
        now = perf_counter()
        if self.count is None and self.until is None:
            self.limit = None if self.target.limit_s is None else now + self.target.limit_s
            if self.target.count_for is not None:
                self.count = self.target.count_for([sample for sample in self.ended.values() if sample.warm_up])
            else:
                self.until = now + (self.target.seconds or 0)
        if not self._wants_more(now):
            return False
        self.begun += 1
        return True

    def take(self, number: int, sample: RequestSample) -> None:
        """Keep a request that has ended, and find out whether all is measured."""
        self.ended[number] = sample
        if not sample.warm_up:
            self.measured += 1
            self.succeeded += sample.error is None
            self.on_sample(self.name, self.measured, self.count, sample)
        elif number < self.target.warm_up:
            self.warmed += 1
            self.on_sample("warm-up", self.warmed, self.target.warm_up, sample)
        self.find_out_if_over()

    def find_out_if_over(self) -> None:
        """Set `over` when no request would count any more and all that count have ended."""
        begun_to_measure = self.count is not None or self.until is not None
        if begun_to_measure and self.measured == self.begun and not self._wants_more(perf_counter()):
            self.over.set()

    def run(self) -> Run:
        """Return what came of it."""
        return Run(samples=tuple(sample for _, sample in sorted(self.ended.items())), planned=self.count)

    def _wants_more(self, now: float) -> bool:
        if self.limit is not None and now > self.limit:
            return False
        if not self.succeeded and self.measured >= max(_HOPELESS, self.streams):
            return False
        return self.begun < self.count if self.count is not None else now < (self.until or 0)


async def closed_loop(client: Client, ask_for: AskFor, concurrency: int, name: str, target: Target, on_sample: OnSample) -> Run:
    """Keep `concurrency` requests in flight until all that count have ended."""
    state = _State(name, target, concurrency, on_sample)
    numbers = itertools.count()

    async def stream() -> None:
        while not state.over.is_set():
            number = next(numbers)
            counts = state.counts(number)
            state.find_out_if_over()
            if state.over.is_set():
                return
            state.take(number, await client.send(ask_for(number), warm_up=not counts))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream()) for _ in range(concurrency)]
        await state.over.wait()
        for task in tasks:
            task.cancel()
    return state.run()


async def open_loop(client: Client, ask_for: AskFor, times: Iterator[float], name: str, target: Target, on_sample: OnSample) -> Run:
    """Send a request at each of the times (seconds from now, ascending, without end) until all that count have ended."""
    state = _State(name, target, 1, on_sample)
    begin = perf_counter() + _LEAD_S

    async def one(number: int, intended: float, counts: bool) -> None:
        state.take(number, await client.send(ask_for(number), intended=intended, warm_up=not counts))

    async with asyncio.TaskGroup() as group:
        tasks: set[asyncio.Task[None]] = set()
        for number, offset in enumerate(times):
            intended = begin + offset
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, intended - perf_counter())):
                    await state.over.wait()
            counts = state.counts(number)
            state.find_out_if_over()
            if state.over.is_set():
                break
            tasks.add(task := group.create_task(one(number, intended, counts)))
            task.add_done_callback(tasks.discard)
        for task in tuple(tasks):
            task.cancel()
    return state.run()


def arrival_times(kind: Arrivals, rate_rps: float, seed: int) -> Iterator[float]:
    """Yield when requests are due, in seconds from the start: evenly spaced, or a Poisson process, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - it spreads requests, it guards nothing
    at = 0.0
    while True:
        yield at
        at += rng.expovariate(rate_rps) if kind == "poisson" else 1 / rate_rps
