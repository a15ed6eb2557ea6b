"""Puts the rules in order and asks each of them.

The order of what is found: by confidence first; then by the order of `RULES`, in which stands first what rules the others out (a
line that nothing can meet) or makes them happen (a quota makes threads wait, so that the card waits for them). A cause that acts
on none of the lines that were missed is of low confidence.
"""

from typing import Any

from pydantic import ValidationError

from bringup.hardware import HostFacts
from bringup.smoke.diagnosis import card, memory, processors, requests
from bringup.smoke.diagnosis.case import Case, Missed, Rule, Sent
from bringup.smoke.diagnosis.model import Cause
from bringup.smoke.model import SmokeReport
from bringup.smoke.timeline import Timeline

_ALL = frozenset(("ttft", "itl", "tpot", "e2e"))
_FIRST_TOKEN = frozenset(("ttft", "e2e"))
_JUDGED = ("smoke", "soak")
"""Stages whose requests are held against lines, as in run.py; the first that ran counts."""
_RANK = {"high": 0, "medium": 1, "low": 2}

RULES: tuple[Rule, ...] = (
    Rule(requests.impossible_line, _ALL),
    Rule(requests.kv_exhausted, _ALL),
    Rule(requests.queueing, _FIRST_TOKEN),
    Rule(requests.other_clients, _ALL),
    Rule(card.throttled, _ALL),
    Rule(card.low_clocks, _ALL),
    Rule(card.shared_card, _ALL),
    Rule(card.power_capped, _ALL),
    Rule(memory.swapping, _ALL),
    Rule(processors.quota, _ALL),
    Rule(processors.steal, _ALL),
    Rule(processors.too_few_cpus, _ALL),
    Rule(processors.contended, _ALL),
    Rule(processors.smt_neighbours, _ALL),
    Rule(processors.front_end, _FIRST_TOKEN),
    Rule(processors.gpu_waits, _ALL),
    Rule(requests.network, _FIRST_TOKEN),
    Rule(processors.client_saturated, _ALL),
    Rule(memory.remote_memory, _ALL),
    Rule(memory.moving_pages, _ALL),
    Rule(card.memory_errors, _ALL),
    Rule(card.narrow_link, _FIRST_TOKEN),
    Rule(memory.slow_memory, _ALL),
)


def diagnose(report: SmokeReport) -> tuple[Cause, ...]:
    """Return why the run missed its lines, most likely first; nothing where it met them, or where no rule saw anything."""
    case = case_of(report)
    return causes_of(case) if case.missed else ()


def causes_of(case: Case) -> tuple[Cause, ...]:
    """Ask each rule and put what was found in order."""
    found = [cause for rule in RULES if (cause := rule.cause(case)) is not None]
    return tuple(sorted(found, key=lambda cause: _RANK[cause.confidence]))  # sorted() keeps the rules' order within a rank


def case_of(report: SmokeReport) -> Case:
    """Take from a record what the rules look at: the stage that was judged, and what was sampled while it ran."""
    judged = next((stage for stage in report.stages if stage.name in _JUDGED), None)
    timeline = report.timeline or Timeline(interval_s=1.0, at_s=(), series=())
    if judged is not None:
        timeline = timeline.between(judged.begin_s, judged.end_s)
    sent = (
        Sent(sample.sent_s, sample.ttft_ms, sample.e2e_ms, sample.prompt_tokens, sample.completion_tokens)
        for sample in (judged.requests if judged else ())
    )
    missed = (
        Missed(verdict.metric, verdict.at_most, verdict.measured, verdict.floor_ms)
        for verdict in report.verdicts
        if verdict.outcome != "PASS"
    )
    return Case(timeline=timeline, missed=tuple(missed), sent=tuple(sent), plan=report.plan or {}, facts=_facts_of(report.facts))


def _facts_of(document: dict[str, Any] | None) -> HostFacts | None:
    """The host's facts, or None where there are none or another version of bringup wrote them: rules do without."""
    try:
        return HostFacts.model_validate(document) if document else None
    except ValidationError:
        return None
