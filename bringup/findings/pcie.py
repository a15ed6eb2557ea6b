"""What is wrong with a card's link. An idle card lowers its generation, so only lanes and what the slot can do are judged."""

from bringup.catalog.entries import GpuModel
from bringup.findings.finding import Finding, note, warning
from bringup.hardware import Gpu

_GB_S_PER_LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563, 7: 15.125}
"""Of a generation, one direction, after line coding (PCI-SIG: 8b/10b to generation 2, 128b/130b to 5, FLIT from 6)."""
_DECODING = "decoding on one card hardly uses the link"


def gb_s(gpu: Gpu, known: GpuModel) -> float | None:
    """Most GB/s over the card's link in one direction; None where its lanes are not known.

    An idle link has a lower generation than a busy one, so that the lesser of card and slot counts.
    """
    lanes = gpu.link_now.lanes if gpu.link_now else known.pcie_lanes
    slot = gpu.slot_max.generation if gpu.slot_max else None
    generation = min(filter(None, (known.pcie_generation, slot)), default=None)
    rate = _GB_S_PER_LANE.get(generation) if generation else None
    return lanes * rate if lanes and rate else None


def link_findings(gpu: Gpu, known: GpuModel | None, name: str) -> list[Finding]:
    """Name a card that has fewer lanes than it could use, and a slot of an older generation than the card's."""
    now = gpu.link_now or (gpu.state.link_now if gpu.state else None)
    best = gpu.link_max or (gpu.state.link_max if gpu.state else None)
    lanes = known.pcie_lanes if known else best.lanes if best else None
    generation = known.pcie_generation if known else best.generation if best else None
    findings = []
    if now and now.lanes and lanes and now.lanes < lanes:
        slot = gpu.slot_max.lanes if gpu.slot_max else None
        why = (
            f"its slot has no more, move it to one with {lanes}"
            if slot and slot <= now.lanes
            else "reseat it, clean its contacts, try without a riser, and look whether the firmware splits the slot"
        )
        rate = _GB_S_PER_LANE.get(generation or 0)
        figures = f" of {lanes * rate:.1f} GB/s one has {now.lanes * rate:.1f} (PCIe {generation}, one direction)" if rate else ""
        findings.append(
            warning(
                "pcie-lanes",
                f"{name} runs on {now.lanes} of its {lanes} lanes: {why}",
                f"time to load the model, and offloading:{figures}; {_DECODING}",
            )
        )
    slot_generation = gpu.slot_max.generation if gpu.slot_max else None
    if generation and slot_generation and slot_generation < generation:
        findings.append(
            note(
                "pcie-generation",
                f"{name} can do PCIe {generation}, its slot PCIe {slot_generation}",
                f"each generation less halves the rate of loading and offloading; {_DECODING}",
            )
        )
    return findings
