"""What a rule looks at: the lines that were missed, the requests that were judged, and what was sampled while they ran."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from bringup.hardware import HostFacts
from bringup.smoke.diagnosis.model import Cause, Confidence
from bringup.smoke.timeline import SampledProcess, Series, SeriesName, Timeline

Family = Literal["ttft", "itl", "tpot", "e2e", "failed"]

_MOST_OF, _PART_OF = 0.5, 0.1
"""Parts of what is too much from which a cause explains it (high) or some of it (medium); our judgement."""


class Missed(NamedTuple):
    """An acceptance line that was not met, or not proven; in milliseconds, or a count for ``failed_requests``."""

    metric: str
    at_most: float
    measured: float | None
    floor: float | None = None

    @property
    def family(self) -> str:
        """What it is a quantile of: ``ttft``, ``itl``, ``tpot``, ``e2e``, or ``failed``."""
        return self.metric.partition("_")[0]


class Sent(NamedTuple):
    """One request of ours, warm-up included; `sent_s` counts from the run's start."""

    sent_s: float
    ttft_ms: float | None
    e2e_ms: float | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Case:
    """One run that missed a line."""

    timeline: Timeline
    """Of the time in which the judged requests ran."""
    missed: tuple[Missed, ...] = ()
    sent: tuple[Sent, ...] = ()
    """Requests of that time, in any order."""
    plan: dict[str, Any] = field(default_factory=dict)
    """The release's plan.json; empty where there is none."""
    facts: HostFacts | None = None

    @cached_property
    def loaded(self) -> tuple[bool, ...]:
        """For each moment whether the server had something to do since the one before: a request of ours, or of others as it tells.

        All moments where neither is known.
        """
        running = self.timeline.one("requests_running")
        if not self.sent and running is None:
            return (True,) * len(self.timeline.at_s)
        begin_s = tuple(at - self.timeline.interval_s for at in self.timeline.at_s)
        ours = [(sent.sent_s, sent.sent_s + (sent.e2e_ms or 0.0) / 1000) for sent in self.sent]
        theirs = _carried_on(running.values) if running else [None] * len(begin_s)
        return tuple(
            bool(told) or any(sent <= at and ended >= begin for sent, ended in ours)
            for begin, at, told in zip(begin_s, self.timeline.at_s, theirs, strict=True)
        )

    def under_load(self, series: Series | None) -> list[float]:
        """Values of a series in the moments in which the server had something to do."""
        if series is None:
            return []
        return [value for value, loaded in zip(series.values, self.loaded, strict=True) if loaded and value is not None]

    def mean(self, name: SeriesName, of: str | None = None) -> float | None:
        """Mean of the series under load; None where it was not sampled."""
        values = self.under_load(self.timeline.one(name, of))
        return sum(values) / len(values) if values else None

    def grown(self, name: SeriesName) -> float | None:
        """How much a counter grew; None where it was sampled less than twice."""
        series = self.timeline.one(name)
        values = [value for value in series.values if value is not None] if series else []
        return values[-1] - values[0] if len(values) > 1 else None

    def server_mean_ms(self, which: Literal["ttft", "queue", "prefill", "e2e"]) -> float | None:
        """Mean of one of the server's own times over the requests that ended while it was sampled."""
        names: dict[str, tuple[SeriesName, SeriesName]] = {
            "ttft": ("server_ttft_sum_s", "server_ttft_count"),
            "queue": ("server_queue_sum_s", "server_queue_count"),
            "prefill": ("server_prefill_sum_s", "server_prefill_count"),
            "e2e": ("server_e2e_sum_s", "server_e2e_count"),
        }
        total, count = (self.grown(name) for name in names[which])
        return total / count * 1000 if total is not None and count else None

    @property
    def server_processes(self) -> tuple[SampledProcess, ...]:
        """The server's processes that were sampled here."""
        return tuple(process for process in self.timeline.processes if process.role != "client")

    @property
    def server_cpus(self) -> tuple[int, ...]:
        """Logical CPUs that any of them may run on."""
        return tuple(sorted({cpu for process in self.server_processes for cpu in process.cpus}))

    @property
    def has_card(self) -> bool:
        """Whether a card serves; without one the CPUs compute, and are busy when all is well."""
        return bool(self.timeline.cards) or bool(self.plan.get("gpu"))

    def used_cpus(self, processes: Iterable[SampledProcess]) -> float:
        """CPU time per time of these processes under load: 2.0 is two CPUs."""
        return sum(self.mean("process_cpu_percent", str(process.pid)) or 0.0 for process in processes) / 100

    def waited_ms_per_s(self, processes: Iterable[SampledProcess]) -> float:
        """Time that their threads were ready to run and had no CPU, added up."""
        return sum(self.mean("run_queue_delay_ms_per_s", str(process.pid)) or 0.0 for process in processes)

    def excess_ms(self, *families: Family) -> float | None:
        """Most milliseconds by which a line of these families was missed; None where none was, or by how much is not known."""
        over = [m.measured - m.at_most for m in self.missed if m.family in families and m.measured is not None]
        return max((ms for ms in over if ms > 0), default=None)

    def confidence(self, cost_ms: float, *families: Family) -> Confidence:
        """How far `cost_ms` explains by how much these lines were missed; medium where that is not known."""
        excess = self.excess_ms(*families)
        if excess is None:
            return "medium"
        return "high" if cost_ms >= excess * _MOST_OF else "medium" if cost_ms >= excess * _PART_OF else "low"


@dataclass(frozen=True)
class Rule:
    """One cause: how it is found, and what it acts on."""

    find: Callable[[Case], Cause | None]
    acts_on: frozenset[str]
    """Families of metrics that it can make worse."""

    def cause(self, case: Case) -> Cause | None:
        """The cause, if it is there; of low confidence where it acts on none of the missed lines."""
        found = self.find(case)
        families = {missed.family for missed in case.missed}
        if found is not None and families and not families & (self.acts_on | {"failed"}):
            return found.model_copy(update={"confidence": "low"})
        return found


def _carried_on(values: Sequence[float | None]) -> list[float | None]:
    """Fill the gaps of a source that is read less often: with what came last, and at the beginning with what came first."""
    last = next((value for value in values if value is not None), None)
    filled = []
    for value in values:
        last = value if value is not None else last
        filled.append(last)
    return filled
