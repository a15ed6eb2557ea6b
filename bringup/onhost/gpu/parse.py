"""Pure parsers of what the machine prints about its cards."""

import json
import re
from typing import Any

from bringup.onhost.gpu.bounded import Outcome
from bringup.onhost.gpu.model import Copied, DrivenCard, Exercise, Link

SMI_FIELDS = ("pci.bus_id", "name", "memory.total", "memory.free", "driver_version", "persistence_mode")
"""What nvidia-smi is asked for, in this order."""
_RATES = {"2.5": 1, "5": 2, "8": 3, "16": 4, "32": 5, "64": 6, "128": 7}
"""GT/s to the generation of PCI Express."""


def parse_link(speed: str, width: str) -> Link:
    """Parse sysfs' ``16.0 GT/s PCIe`` and ``16``; 0, 63 and 255 lanes are what the kernel reads where there is no link."""
    lanes = int(width) if re.fullmatch(r"[0-9]{1,2}", width.strip()) and 0 < int(width) <= 32 else None
    rate = speed.split(" ")[0].removesuffix(".0")
    return Link(generation=_RATES.get(rate), lanes=lanes)


def parse_smi(csv: str) -> tuple[DrivenCard, ...]:
    """Parse nvidia-smi's list (csv, noheader, nounits).

    Raises:
        ValueError: it is something else; the message quotes it.
    """
    cards = []
    for line in filter(None, csv.splitlines()):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(SMI_FIELDS) or not re.fullmatch(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9]", cells[0]):
            raise ValueError(f"nvidia-smi did not list the cards but said: {' '.join(csv.split())[:300]}")
        cards.append(
            DrivenCard(
                # nvidia-smi writes the domain with eight digits, sysfs with four
                address=cells[0].lower()[-12:],
                name=cells[1],
                memory_mib=int(cells[2]) if cells[2].isdecimal() else None,
                free_mib=int(cells[3]) if cells[3].isdecimal() else None,
                driver_version=cells[4] if re.match("[0-9]", cells[4]) else None,
                persistent={"Enabled": True, "Disabled": False}.get(cells[5]),
            )
        )
    return tuple(cards)


def parse_exercise(outcome: Outcome) -> Exercise:
    """Read the lines of exercise.py; other lines, as warnings of PyTorch, are passed over."""
    stages: list[dict[str, Any]] = []
    for line in outcome.text.splitlines():
        if line.startswith('{"stage"'):
            try:
                stages.append(json.loads(line))
            except ValueError:
                continue  # cut off in the middle
    by_name = {stage["stage"]: stage for stage in stages}
    failed = by_name.get("failed")
    reached = [stage["stage"] for stage in stages if stage["stage"] != "failed"]
    error = failed["error"] if failed else None
    if error is None and not outcome.timed_out and "done" not in by_name:
        rest = [line for line in outcome.text.splitlines() if line.strip() and not line.startswith('{"stage"')]
        error = rest[-1][:600] if rest else f"it ended with status {outcome.code} and without a word"
    return Exercise(
        stage=reached[-1] if reached else "begin",
        error=error,
        timed_out=outcome.timed_out,
        torch=by_name.get("torch", {}).get("version"),
        cuda=by_name.get("torch", {}).get("cuda"),
        computed=tuple(stage["index"] for stage in stages if stage["stage"] == "computed"),
        addresses={stage["index"]: stage["address"] for stage in stages if stage["stage"] == "card"},
        copied={
            stage["index"]: Copied(
                to_card_gb_s=stage["to_card"]["gb_s"],
                from_card_gb_s=stage["from_card"]["gb_s"],
                links=tuple(
                    parse_link(link["speed"], link["width"]) for way in ("to_card", "from_card") for link in stage[way]["links"]
                ),
            )
            for stage in stages
            if stage["stage"] == "copied"
        },
    )


def upstream(version: str) -> str:
    """A package's version without epoch and the distribution's part: ``580.95.05``."""
    match = re.match(r"(?:[0-9]+:)?([0-9.]*[0-9])", version)
    return match[1] if match else version
