"""From the rows that the sampling process wrote to the columns of a `Timeline`."""

import json
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import ValidationError

from bringup.smoke.timeline import SampledCard, SampledProcess, Series, SeriesName, Timeline

_UNITS = {
    "percent": "%",
    "mib": "MiB",
    "mhz": "MHz",
    "w": "W",
    "c": "°C",
    "mb_s": "MB/s",
    "mib_per_s": "MiB/s",
    "ms_per_s": "ms/s",
    "per_s": "1/s",
    "s": "s",
}
"""Ending of a name to the unit; the longest ending counts."""
_ORDER = {name: place for place, name in enumerate(get_args(SeriesName))}


def unit_of(name: str) -> str:
    """Return the unit that a name ends in; empty for counts and bits."""
    if name.endswith(("_total", "_count")):
        return ""
    return next((_UNITS[end] for end in sorted(_UNITS, key=len, reverse=True) if name.endswith(f"_{end}")), "")


def timeline_of(lines: Iterable[str], interval_s: float) -> Timeline:
    """Return what the rows hold; a last line that was cut short is left out, as is what a newer sampler may add."""
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if "about" in found:
            about |= found["about"]
        else:
            rows.append(found)
    processes = tuple(_each(SampledProcess, about.get("processes", ())))
    cards = tuple(_each(SampledCard, about.get("cards", ())))
    names = {f"process/{process.pid}": f"{process.name} ({process.pid})" for process in processes}
    names |= {f"card/{card.pci_address}": card.name for card in cards}
    keys = {key: None for row in rows for key in row["v"]}
    series = []
    for key in sorted(keys, key=_place):
        name, _, of = key.partition("/")
        if name in _ORDER:
            values = tuple(row["v"].get(key) for row in rows)
            series.append(Series(name=name, unit=unit_of(name), of=of, label=_label(name, of, names), values=values))
    return Timeline(
        interval_s=interval_s,
        at_s=tuple(row["t"] for row in rows),
        series=tuple(series),
        server_is_local=about.get("server_is_local", True),
        processes=processes,
        siblings={int(cpu): tuple(others) for cpu, others in about.get("siblings", {}).items()},
        cards=cards,
        notes=tuple(about.get("notes", ())),
        sampler_cpu_percent=about.get("sampler_cpu_percent"),
    )


def _each(model: Any, found: Iterable[Any]) -> Iterable[Any]:
    for one in found:
        try:
            yield model.model_validate(one)
        except ValidationError:
            continue


def _place(key: str) -> tuple[int, int, str]:
    name, _, of = key.partition("/")
    return _ORDER.get(name, len(_ORDER)), int(of) if of.isdigit() else 0, of


def _label(name: str, of: str, names: dict[str, str]) -> str:
    if not of:
        return ""
    if name == "core_busy_percent":
        return f"CPU {of}"
    if name == "node_memory_mib":
        return f"NUMA node {of}"
    return names.get(f"process/{of}") or names.get(f"card/{of}") or of
