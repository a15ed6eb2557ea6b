"""Two runs held against each other: differences with intervals, so that noise is not taken for a change.

The unit is a request. The gaps within one answer resemble each other, so of ITL each request gives two numbers: their mean (TPOT)
and the longest. How a difference gets its interval: `bringup.report.bootstrap`. The level is divided by the number of differences
that are judged (Bonferroni), so that all intervals of a comparison hold together.

What is compared are two runs. Whether their settings make the difference, rather than the hour or the room's temperature, takes
several runs of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from bringup.errors import BringupError
from bringup.hardware import Frozen
from bringup.report.answers import Answers, compare_answers
from bringup.report.bootstrap import interval
from bringup.report.figures import of_plan
from bringup.report.panels import stage_name
from bringup.smoke.model import RequestSample, SmokeReport, Stage
from bringup.smoke.statistics import nearest_rank
from bringup.smoke.summary import measured

Verdict = Literal["slower", "faster", "no difference shown", "too few requests"]
SEED = 20261125
"""Of the drawn requests, so that a comparison repeated says the same."""
_NEEDED = {50: 10, 90: 30}
"""Requests that a quantile of each run must rest on."""


class Difference(Frozen):
    """One quantile in both runs; times in ms."""

    stage: str
    metric: str
    """`TTFT P50`, `longest gap P90`…"""
    before: float | None
    after: float | None
    requests: tuple[int, int]
    paired: bool
    lower: float | None = None
    """Of after - before; None where there are too few requests."""
    upper: float | None = None
    verdict: Verdict

    @property
    def change(self) -> float | None:
        """After - before in ms; None where one of them is not known."""
        return None if self.before is None or self.after is None else self.after - self.before


class Throughput(Frozen):
    """Output tokens/s of one stage in both runs: one figure a run, so without an interval."""

    stage: str
    before: float | None
    after: float | None
    failed: tuple[int, int]


class Comparison(Frozen):
    """Two runs side by side."""

    confidence: float
    """Of all intervals together."""
    seed: int
    differences: tuple[Difference, ...]
    throughput: tuple[Throughput, ...]
    other: tuple[tuple[str, str, str], ...] = ()
    """What else is not the same: what, before, after."""
    loads: tuple[str, ...] = ()
    """How the loads differ; empty where they do not."""
    plans: tuple[tuple[str, str, str], ...] = Field(default=())
    """Settings that the plans decide differently: setting, before, after."""
    plan_note: str = ""
    answers: Answers | None = None
    """The fixed questions, where both runs were asked them."""

    @property
    def slower(self) -> bool:
        """Whether a figure was shown to be slower."""
        return any(found.verdict == "slower" for found in self.differences)


@dataclass(frozen=True)
class _Pair:
    """One stage in both runs, with what is judged on it."""

    before: Stage
    after: Stage

    def good(self) -> tuple[list[RequestSample], list[RequestSample], bool]:
        """The requests of both runs that succeeded, and whether they stand in pairs of the same prompt."""
        first, second = measured(self.before.requests), measured(self.after.requests)
        prompts = [[sample.prompt_index for sample in samples] for samples in (first, second)]
        if prompts[0] == prompts[1] and len(set(prompts[0])) > 1:
            both = [(a, b) for a, b in zip(first, second, strict=True) if a.error is None and b.error is None]
            return [a for a, _ in both], [b for _, b in both], True
        return [a for a in first if a.error is None], [b for b in second if b.error is None], False


_METRICS: tuple[tuple[str, Callable[[RequestSample], float | None]], ...] = (
    ("TTFT", lambda sample: sample.ttft_ms),
    ("TPOT", lambda sample: sample.tpot_ms),
    ("longest gap", lambda sample: max(sample.itl_ms, default=None)),
    ("E2E", lambda sample: sample.e2e_ms),
)


def compare(
    before: SmokeReport, after: SmokeReport, *, anyway: bool = False, confidence: float = 0.95, seed: int = SEED
) -> Comparison:
    """Hold the second run against the first.

    Args:
        before: the run that is the measure.
        after: the run that is held against it.
        anyway: compare different loads too, and say so.
        confidence: of all intervals together.
        seed: of the drawn requests.

    Raises:
        BringupError: the loads differ and `anyway` is not set, or the runs have no stage in common.
    """
    loads = _different_loads(before, after)
    if loads and not anyway:
        raise BringupError(
            "The runs were made under different loads, so their figures say nothing about each other: "
            f"{'; '.join(loads)}. With --anyway they are compared all the same."
        )
    pairs = _pairs(before, after)
    if not pairs:
        names = [", ".join(dict.fromkeys(stage.name for stage in report.stages)) or "none" for report in (before, after)]
        raise BringupError(f"The runs have no stage in common: the first has {names[0]}, the second {names[1]}.")
    plans, plan_note = _plans(before, after)
    return Comparison(
        confidence=confidence,
        seed=seed,
        differences=tuple(_differences(pairs, confidence, seed)),
        throughput=tuple(
            Throughput(
                stage=stage_name(pair.after),
                before=pair.before.summary.output_tokens_per_s,
                after=pair.after.summary.output_tokens_per_s,
                failed=(pair.before.summary.failed, pair.after.summary.failed),
            )
            for pair in pairs
        ),
        other=tuple(_other(before, after)),
        loads=tuple(loads),
        plans=tuple(plans),
        plan_note=plan_note,
        answers=compare_answers(before, after),
    )


def _load(stage: Stage) -> tuple[tuple[str, Any], ...]:
    # how many requests were sent changes how sure a figure is, not what it is
    return tuple(stage.load.model_dump(exclude={"requests"}).items())


def _different_loads(before: SmokeReport, after: SmokeReport) -> list[str]:
    found = []
    for name in dict.fromkeys(stage.name for stage in before.stages):
        first, second = ([stage for stage in report.stages if stage.name == name] for report in (before, after))
        if not second or {_load(stage) for stage in first} & {_load(stage) for stage in second}:
            continue
        for key, value in _load(first[0]):
            other = dict(_load(second[0]))[key]
            if value != other:
                found.append(f"{name}: {key.replace('_', ' ')} {value} and {other}")
    one, two = before.request, after.request
    if one.prompt != two.prompt:
        found.append("different prompts")
    if one.api != two.api:
        found.append(f"api {one.api} and {two.api}")
    return found


def _pairs(before: SmokeReport, after: SmokeReport) -> list[_Pair]:
    """Stages with the same name and load; where a name has none, its first ones."""
    pairs = []
    for name in dict.fromkeys(stage.name for stage in before.stages):
        first, second = ([stage for stage in report.stages if stage.name == name] for report in (before, after))
        same = [_Pair(a, b) for a in first for b in second if _load(a) == _load(b)]
        pairs += same or ([_Pair(first[0], second[0])] if second else [])
    return pairs


def _differences(pairs: Sequence[_Pair], confidence: float, seed: int) -> list[Difference]:
    judged: list[tuple[str, str, list[float], list[float], bool]] = []
    for pair in pairs:
        first, second, paired = pair.good()
        for name, value_of in _METRICS:
            old, new = ([value for one in samples if (value := value_of(one)) is not None] for samples in (first, second))
            # a request that lacks this value would shift the pairs
            judged.append((stage_name(pair.after), name, old, new, paired and len(old) == len(new) == len(first)))
    enough = [(min(len(first), len(second)) >= needed) for _, _, first, second, _ in judged for needed in _NEEDED.values()].count(
        True
    )
    level = (1 - confidence) / max(1, enough)
    found = []
    for stage, name, old, new, together in judged:
        percents = [percent for percent, needed in _NEEDED.items() if min(len(old), len(new)) >= needed]
        intervals = interval(old, new, percents, level, together, seed) if percents else {}
        for percent in _NEEDED:
            found.append(_difference(stage, f"{name} P{percent}", percent, old, new, together, intervals.get(percent)))
    return found


def _difference(
    stage: str,
    metric: str,
    percent: int,
    first: Sequence[float],
    second: Sequence[float],
    paired: bool,
    bounds: tuple[float, float] | None,
) -> Difference:
    verdict: Verdict = "too few requests"
    if bounds is not None:
        verdict = "slower" if bounds[0] > 0 else "faster" if bounds[1] < 0 else "no difference shown"
    return Difference(
        stage=stage,
        metric=metric,
        before=nearest_rank(first, percent),
        after=nearest_rank(second, percent),
        requests=(len(first), len(second)),
        paired=paired,
        lower=None if bounds is None else round(bounds[0], 4),
        upper=None if bounds is None else round(bounds[1], 4),
        verdict=verdict,
    )


def _other(before: SmokeReport, after: SmokeReport) -> list[tuple[str, str, str]]:
    def card(report: SmokeReport) -> str:
        cards = report.timeline.cards if report.timeline is not None else ()
        return ", ".join(dict.fromkeys(one.name for one in cards)) or "not known"

    rows = [
        ("host", before.host, after.host),
        ("measured from", before.measured_from or "not known", after.measured_from or "not known"),
        ("model", before.request.model, after.request.model),
        ("vLLM", before.server.vllm_version or "not known", after.server.vllm_version or "not known"),
        ("card", card(before), card(after)),
        ("profile", before.profile or "none", after.profile or "none"),
        ("release", before.release or "none", after.release or "none"),
        ("measured by", before.tool_version, after.tool_version),
        ("verdict", before.outcome, after.outcome),
    ]
    return [row for row in rows if row[1] != row[2]]


def _plans(before: SmokeReport, after: SmokeReport) -> tuple[list[tuple[str, str, str]], str]:
    if before.plan is None or after.plan is None:
        which = (
            "Neither record holds"
            if before.plan is after.plan
            else f"The {'first' if before.plan is None else 'second'} record does not hold"
        )
        return [], f"{which} a plan, so what was configured differently is not known."
    old, new = (
        {str(item.get("key")): str(item.get("value")) for item in of_plan(report, "decisions") or [] if isinstance(item, dict)}
        for report in (before, after)
    )
    keys = dict.fromkeys([*old, *new])
    rows = [(key, old.get(key, "unset"), new.get(key, "unset")) for key in keys if old.get(key) != new.get(key)]
    return rows, "" if rows else "The plans decide the same."
