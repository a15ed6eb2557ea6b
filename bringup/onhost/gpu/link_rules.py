"""Whether a card's link is as wide and as fast as card and slot can make it, under load."""

from collections.abc import Iterator

from bringup.onhost.gpu.judgement import Check, KnownCard, Wanted
from bringup.onhost.gpu.model import Link, PciCard, Readings

GB_S_PER_LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563, 7: 15.125}
"""Of a generation, one direction, after line coding (PCI-SIG: 8b/10b to generation 2, 128b/130b to 5, FLIT from 6)."""
_SLOW_COPY = 0.5
"""Part of the link's rate below which copies are called slow. Judgement: headers cost some 15 %, half has another cause."""


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def check_links(readings: Readings, wanted: Wanted) -> Iterator[Check]:
    """Judge lanes, speed and rate of each card that is driven."""
    listed = {card.address: card for card in readings.smi}
    exercise = readings.exercise
    by_address = {exercise.addresses.get(i): copied for i, copied in exercise.copied.items()} if exercise else {}
    if exercise and len(listed) == 1 and None in by_address:  # a PyTorch that does not tell the address
        by_address = {next(iter(listed)): by_address[None]}
    for card in readings.cards:
        if card.address not in listed:
            continue
        name = f"{listed[card.address].name} at {card.address}"
        known = wanted.known.get(card.pci_id)
        copied = by_address.get(card.address)
        yield from _lanes(card, known, name, copied.links if copied else ())
        if copied is None:
            if wanted.matters(card.address):
                why = "vllm.service is at work" if readings.serving else "nothing was copied to it"
                yield Check("note", "pcie-not-loaded", f"{name}: the link was not read under load: {why}")
            continue
        yield from _speed(card, known, name, copied.links)
        yield _rate(name, copied.links, copied.to_card_gb_s, copied.from_card_gb_s)


def _lanes(card: PciCard, known: KnownCard | None, name: str, loaded: tuple[Link, ...]) -> Iterator[Check]:
    most = known.pcie_lanes if known and known.pcie_lanes else card.best.lanes
    now = max((link.lanes for link in loaded if link.lanes), default=card.now.lanes)
    if now is None or most is None or now >= most:
        return
    slot = card.slot.lanes if card.slot else None
    fix = (
        f"its slot has no more, move it to one with {most}"
        if slot and slot <= now
        else "reseat it, clean its contacts, try without a riser, and look whether the firmware splits the slot"
    )
    yield Check("warning", "pcie-lanes", f"{name} runs on {now} of its {most} lanes: {fix}")


def _speed(card: PciCard, known: KnownCard | None, name: str, loaded: tuple[Link, ...]) -> Iterator[Check]:
    """Under load the link must run as fast as the slower of card and slot; an idle link is slower on purpose."""
    reached = max((link.generation for link in loaded if link.generation), default=None)
    # the kernel may show a card's own maximum lowered by its slot, hence the catalog's first
    own = known.pcie_generation if known and known.pcie_generation else card.best.generation
    possible = _least(own, card.slot.generation if card.slot else None)
    if reached is None or possible is None:
        yield Check("note", "pcie-unknown", f"{name}: the kernel does not show the speed of its link (as in many virtual machines)")
    elif reached < possible:
        fix = (
            "set the slot's PCIe speed to its generation or to Auto in the firmware, try without a riser, and look for errors of "
            "the link (journalctl -k | grep -i aer)"
        )
        yield Check(
            "warning", "pcie-speed", f"{name} reaches PCIe {reached} under load, where card and slot can do {possible}: {fix}"
        )


def _rate(name: str, loaded: tuple[Link, ...], to_card: float, from_card: float) -> Check:
    rates = [link.lanes * GB_S_PER_LANE[link.generation] for link in loaded if link.lanes and link.generation]
    link = max(loaded, key=lambda link: (link.generation or 0, link.lanes or 0), default=Link(None, None))
    shown = f"PCIe {link.generation} x{link.lanes} under load" if link.generation and link.lanes else "link unknown"
    text = f"{name}: {shown}, {to_card:.1f} GB/s to the card, {from_card:.1f} GB/s from it"
    if rates and min(to_card, from_card) < _SLOW_COPY * max(rates):
        fix = (
            "the link itself could do twice that: memory of another processor, an IOMMU that translates (iommu=pt), slow main "
            "memory or a busy machine"
        )
        return Check("warning", "pcie-rate", f"{text}; it could be {max(rates):.1f}: {fix}")
    return Check("ok", "pcie", text)
