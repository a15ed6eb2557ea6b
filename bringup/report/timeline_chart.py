"""The run over time: requests, tokens, card, processors and the server's own figures, panel below panel on one time axis."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from bringup.report.charts import round_up
from bringup.report.figures import planned_memory
from bringup.report.panels import BASE, COLOURS, PLACES, TOP, Curve, Frame, Panel
from bringup.report.svg import Axis, bar, dot, label, number
from bringup.smoke.model import RequestSample, SmokeReport
from bringup.smoke.summary import measured
from bringup.smoke.timeline import Series, SeriesName, Timeline, throttle_reasons

_MOST_DOTS = 400
_BENIGN = frozenset({"gpu_idle", "applications_clocks_setting", "display_clock_setting", "sync_boost"})


@dataclass(frozen=True)
class TimeChart:
    """All panels, and what was done to the samples to draw them."""

    panels: tuple[Panel, ...]
    notes: tuple[str, ...]


def time_chart(report: SmokeReport) -> TimeChart:
    """Draw the run; panels without anything to show are left out."""
    ends = [stage.end_s for stage in report.stages]
    timeline = report.timeline
    if timeline is not None and timeline.at_s:
        ends.append(timeline.at_s[-1])
    x = Axis(0.0, max(ends, default=1.0) or 1.0)
    frame = Frame(x, report.stages)
    panels = [*_requests(report, frame), *_gaps(report, frame)]
    if timeline is not None and timeline.at_s:
        panels += _sampled(report, timeline, frame)
    notes = []
    if timeline is not None and len(timeline.at_s) > PLACES:
        width = (x.high - x.low) / PLACES
        notes.append(
            f"{len(timeline.at_s):,} samples are drawn in {PLACES} places of {number(width)} s each: the line is their mean, "
            "the shade reaches from the least to the most"
        )
    return TimeChart(tuple(panels), (*notes, *(timeline.notes if timeline is not None else ())))


def _requests(report: SmokeReport, frame: Frame) -> list[Panel]:
    samples = [sample for stage in report.stages for sample in stage.requests]
    changes = sorted(
        change
        for sample in samples
        if (ended_s := _ended_s(sample)) is not None
        for change in ((sample.intended_s, 1), (ended_s, -1))
    )
    if not changes:
        return []
    failed = [sample for sample in measured(samples) if sample.error is not None]
    marks = [label(frame.x.at(sample.sent_s), BASE - 3, "×", "failed-mark") for sample in failed[:_MOST_DOTS]]
    in_flight = frame.curves("Requests in flight", "requests", [_most_in_flight(changes, frame.x)], extra=marks)
    if in_flight is not None and failed:
        which = "" if len(failed) <= _MOST_DOTS else f"; the first {_MOST_DOTS} are marked"
        in_flight = replace(in_flight, note=f"×: {len(failed):,} requests failed{which}")
    timed = [sample for sample in samples if sample.ttft_ms is not None and sample.error is None]
    return [panel for panel in (in_flight, _dots("TTFT of each request", timed, frame)) if panel is not None]


def _ended_s(sample: RequestSample) -> float | None:
    """When the last token of a request came; None where none did."""
    if sample.e2e_ms is not None:
        return sample.intended_s + sample.e2e_ms / 1000
    return None if sample.ttft_ms is None else sample.intended_s + (sample.ttft_ms + sum(sample.itl_ms)) / 1000


def _most_in_flight(changes: Sequence[tuple[float, int]], x: Axis) -> Curve:
    """How many requests were in flight, in each place the most: neither a peak nor a stretch without requests is lost."""
    width = (x.high - x.low) / PLACES
    most, now, index = [], 0, 0
    for place in range(PLACES):
        highest = now
        while index < len(changes) and changes[index][0] < (place + 1) * width:
            now += changes[index][1]
            highest = max(highest, now)
            index += 1
        most.append(float(highest))
    at_s = tuple(place * width for place in range(PLACES + 1))
    return Curve(f"the most in each {number(width)} s", at_s, (*most, most[-1]), stepped=True)


def _dots(title: str, samples: Sequence[RequestSample], frame: Frame) -> Panel | None:
    if not samples:
        return None
    every = -(-len(samples) // _MOST_DOTS)
    # of neighbours the slowest, so that no stall is lost
    kept = [max(samples[start : start + every], key=lambda one: one.ttft_ms or 0.0) for start in range(0, len(samples), every)]
    high = round_up(max(sample.ttft_ms or 0.0 for sample in kept))
    y = Axis(0.0, high, BASE, TOP)
    parts = [
        dot(
            frame.x.at(sample.intended_s),
            y.at(sample.ttft_ms or 0.0),
            "dot idle" if sample.warm_up else "dot a",
            f"{number(sample.ttft_ms or 0.0)} ms at {number(sample.intended_s)} s{', warm-up' if sample.warm_up else ''}",
            2.5,
        )
        for sample in kept
    ]
    notes = []
    if any(sample.warm_up for sample in kept):
        notes.append("grey: warm-up, in no figure")
    if every > 1:
        notes.append(f"one dot for {every} requests: the slowest of them")
    said = f"{len(samples):,} requests, up to {number(high)} ms"
    return Panel(title, "ms", frame.panel(title, "ms", high, parts, said), note="; ".join(notes))


def _gaps(report: SmokeReport, frame: Frame) -> list[Panel]:
    """The longest gap between two tokens in each place: a stall shows, whichever request it hit."""
    longest: dict[int, float] = {}
    width = (frame.x.high - frame.x.low) / PLACES
    for stage in report.stages:
        for sample in stage.requests:
            if sample.ttft_ms is None:
                continue
            at = sample.intended_s + sample.ttft_ms / 1000
            for gap in sample.itl_ms:
                at += gap / 1000
                place = min(PLACES, int(at / width))
                longest[place] = max(longest.get(place, 0.0), gap)
    if not longest:
        return []
    places = sorted(longest)
    curve = Curve("longest gap", tuple(place * width for place in places), tuple(longest[place] for place in places))
    panel = frame.curves(f"Longest gap between two tokens, in each {number(width)} s", "ms", [curve])
    return [] if panel is None else [panel]


def _sampled(report: SmokeReport, timeline: Timeline, frame: Frame) -> list[Panel]:
    def curve(name: SeriesName, title: str, found: Series | None, scale: float = 1.0) -> Curve | None:
        if found is None:
            return None
        return Curve(title, timeline.at_s, tuple(None if value is None else value * scale for value in found.values))

    def panel(
        title: str,
        unit: str,
        curves: Sequence[Curve | None],
        high: float | None = None,
        extra: Sequence[Markup] = (),
        note: str = "",
    ) -> None:
        made = frame.curves(title, unit, [one for one in curves if one is not None], high, extra)
        if made is not None:
            panels.append(replace(made, note=note))

    panels: list[Panel] = []
    several = len(timeline.cards) > 1
    for card in timeline.cards:
        of = card.pci_address
        on = f", {of}" if several else ""
        utilisation = curve("gpu_util_percent", "GPU in use", timeline.one("gpu_util_percent", of))
        panel(f"GPU in use, beside the busiest core{on}", "%", [utilisation, _busiest_core(timeline)], 100)
        memory = curve("gpu_memory_mib", "in use", timeline.one("gpu_memory_mib", of), 1 / 1024)
        panel(f"GPU memory{on}", "GiB", [memory, _planned_memory(report, timeline)])
        held, words = _throttled(timeline, of, frame)
        panel(
            f"Clock of the SMs{on}",
            "MHz",
            [curve("sm_clock_mhz", "clock", timeline.one("sm_clock_mhz", of))],
            extra=held,
            note=words,
        )
        limit = Curve("limit", (frame.x.low, frame.x.high), (card.power_limit_w, card.power_limit_w), stepped=True)
        panel(f"Power{on}", "W", [curve("power_w", "drawn", timeline.one("power_w", of)), limit])
        panel(f"Temperature{on}", "°C", [curve("temperature_c", "card", timeline.one("temperature_c", of))])
    if not timeline.cards:
        panel("Busiest core", "%", [_busiest_core(timeline)], 100)
    panel("CPU of the server's processes", "% of one core", _busiest_processes(timeline))
    panel(
        "Waiting for a CPU, all threads of a process together",
        "ms/s",
        [
            curve("run_queue_delay_ms_per_s", found.label or found.of, found)
            for found in _greatest(timeline.all("run_queue_delay_ms_per_s"), 3)
        ],
    )
    panel(
        "Requests in the server",
        "requests",
        [
            curve("requests_running", "running", timeline.one("requests_running")),
            curve("requests_waiting", "waiting", timeline.one("requests_waiting")),
        ],
    )
    panel("KV cache in use", "%", [curve("kv_use_percent", "in use", timeline.one("kv_use_percent"))], 100)
    return panels


def _busiest_core(timeline: Timeline) -> Curve | None:
    """The highest of all cores at each moment: a mean over cores would hide the one that everything waits for."""
    cores = [series.values for series in timeline.all("core_busy_percent")]
    if not cores:
        return None
    moments = [[value for value in moment if value is not None] for moment in zip(*cores, strict=True)]
    return Curve("busiest core", timeline.at_s, tuple(max(values, default=None) for values in moments))


def _greatest(series: Iterable[Series], most: int) -> list[Series]:
    def total(one: Series) -> float:
        return sum(value for value in one.values if value is not None)

    return sorted((one for one in series if total(one) > 0), key=total, reverse=True)[:most]


def _busiest_processes(timeline: Timeline) -> list[Curve]:
    found = _greatest(timeline.all("process_cpu_percent"), len(COLOURS))
    return [Curve(series.label or series.of, timeline.at_s, series.values) for series in found]


def _planned_memory(report: SmokeReport, timeline: Timeline) -> Curve | None:
    memory = planned_memory(report)
    if memory is None:
        return None
    gib = memory.budget_bytes / 2**30
    return Curve("vLLM's planned budget", (timeline.at_s[0], timeline.at_s[-1]), (gib, gib), stepped=True)


def _throttled(timeline: Timeline, of: str, frame: Frame) -> tuple[list[Markup], str]:
    """Bars along the bottom where the card held its clocks back, and the reasons in words."""
    series = timeline.one("throttle_reasons", of)
    if series is None:
        return [], ""
    moments = [
        (at, tuple(name for name in throttle_reasons(int(bits)) if name not in _BENIGN))
        for at, bits in zip(timeline.at_s, series.values, strict=True)
        if bits is not None
    ]
    parts: list[Markup] = []
    begun: tuple[float, tuple[str, ...]] | None = None
    for at, reasons in [*moments, (timeline.at_s[-1], ())]:
        if begun is not None and reasons != begun[1]:
            start = frame.x.at(begun[0])
            parts.append(
                bar(start, BASE - 5, max(0.4, frame.x.at(at) - start), 5, "throttled", f"held back: {', '.join(begun[1])}")
            )
            begun = None
        if reasons and begun is None:
            begun = (at, reasons)
    times = Counter(reason for _, reasons in moments for reason in reasons)
    shares = (f"{reason} in {count / len(moments):.0%} of the samples" for reason, count in times.most_common())
    return parts, f"Red along the bottom: the card held it back ({', '.join(shares)})." if times else ""
