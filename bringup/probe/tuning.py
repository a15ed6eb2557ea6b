"""What rules clocks, idle states and interrupts; what an earlier run of bringup changed of it."""

import json
from contextlib import suppress

from bringup.cpu_list import parse_cpu_list
from bringup.hardware import TuningFacts
from bringup.probe.sections import key_values


def parse_tuning(sections: dict[str, str]) -> TuningFacts:
    """Put together what the sections say; one that is missing or garbled leaves its facts unknown."""
    idle, interrupts, tuned, ours = (sections.get(name, "") for name in ("idle-states", "interrupts", "tuned", "tuning"))
    latencies = [int(value) for value in _all(idle, "latency_us") if value.isascii() and value.isdecimal() and len(value) < 10]
    number = key_values(interrupts).get("interrupts", "")
    banned: tuple[int, ...] = ()
    with suppress(ValueError):
        banned = parse_cpu_list(key_values(interrupts).get("banned", ""))
    profile = key_values(tuned).get("profile") or None
    return TuningFacts(
        idle_driver=key_values(idle).get("driver") or None,
        deepest_idle_us=max(latencies, default=None),
        latency_limits=key_values(idle).get("limits") == "yes",
        interrupts=int(number) if number.isascii() and number.isdecimal() and len(number) < 7 else None,
        irqbalance=key_values(interrupts).get("irqbalance") == "yes",
        irqbalance_banned=banned,
        tuned_profile=key_values(tuned).get("included", "").replace(",", " ") or None if profile == "bringup" else profile,
        iommu_types=tuple(_all(sections.get("firmware", ""), "iommu_type")),
        found=_found(sections.get("tuning-original", "")),
        files=tuple(_all(ours, "file")),
        update_grub=key_values(ours).get("update_grub") == "yes",
        unit_enabled=key_values(ours).get("enabled") == "yes",
    )


def _all(text: str, name: str) -> list[str]:
    return [line.partition("=")[2].strip() for line in text.splitlines() if line.startswith(f"{name}=")]


def _found(text: str) -> dict[str, str]:
    """Key to what its files held, from onhost/tuning.py's record."""
    try:
        record = json.loads(text)["settings"]
        return {str(key): ",".join(sorted({str(value) for value in files.values()})) for key, files in record.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
