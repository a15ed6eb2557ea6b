"""Causes that lie with the card: slowed down, clocked low, shared, or on a narrow link."""

from bringup.smoke.diagnosis.case import Case
from bringup.smoke.diagnosis.model import Cause
from bringup.smoke.statistics import nearest_rank
from bringup.smoke.timeline import SampledCard, throttle_reasons

_THERMAL = 0x20 | 0x40
_HARDWARE = 0x8 | 0x80
_POWER_CAP = 0x4
_SET_CLOCKS = 0x2
_IDLE = 0x1
# limits of ours
_SLOWED_SHARE, _CAPPED_SHARE = 0.05, 0.2
_SLOWED_CLOCK, _CAPPED_CLOCK = 0.9, 0.85
_LOW_CLOCK, _VERY_LOW_CLOCK = 0.7, 0.5
"""Parts of the highest clock. GeForce cards run at 80 to 90 % of it under load: it is the boost's end, not its middle."""
_LOW_MEMORY_CLOCK = 0.9
"""A GeForce that computes is in P2, whose memory clock is 2 to 3 % below the highest."""
_MUCH_OTHER_MIB, _LEAST_OTHER_MIB = 512.0, 64.0
_OTHER_USE_PERCENT = 5.0
_LINK_USE = 0.5
_MB_S_PER_LANE = {1: 250, 2: 500, 3: 985, 4: 1969, 5: 3938, 6: 7563}
"""One direction, after line coding (PCI-SIG)."""


def throttled(case: Case) -> Cause | None:
    """Heat or the power supply slows the card down."""
    for card in case.timeline.cards:
        bits = [int(value) for value in case.under_load(case.timeline.one("throttle_reasons", card.pci_address))]
        slowed = [value & (_THERMAL | _HARDWARE) for value in bits if value & (_THERMAL | _HARDWARE)]
        if not bits or len(slowed) < len(bits) * _SLOWED_SHARE:
            continue
        reasons = sorted({name for value in set(slowed) for name in throttle_reasons(value)})
        thermal = any(value & _THERMAL for value in slowed)
        ratio, clocks = _clocks(case, card)
        heat = case.under_load(case.timeline.one("temperature_c", card.pci_address))
        limit = f", it slows down at {card.slowdown_c} °C" if card.slowdown_c else ""
        return Cause(
            key="gpu-throttled",
            title=f"the card is slowed down: {'it is too hot' if thermal else 'its power supply or its protection asks for it'}",
            evidence=(
                f"{', '.join(reasons)} in {len(slowed) / len(bits):.0%} of the samples",
                *clocks,
                *((f"up to {max(heat):.0f} °C{limit}",) if heat else ()),
            ),
            confidence="high" if ratio is not None and ratio < _SLOWED_CLOCK else "medium",
            fix="more air: clean it, leave the slot beside it free, turn the fans up, or lower its power limit (nvidia-smi -pl)"
            if thermal
            else "look at its power cables and the power supply; with a splitter or a loose plug the card protects itself",
        )
    return None


def power_capped(case: Case) -> Cause | None:
    """The power limit holds the clocks down."""
    for card in case.timeline.cards:
        bits = [int(value) for value in case.under_load(case.timeline.one("throttle_reasons", card.pci_address))]
        capped = sum(bool(value & _POWER_CAP) for value in bits)
        if not bits or capped < len(bits) * _CAPPED_SHARE:
            continue
        ratio, clocks = _clocks(case, card)
        lowered = card.power_limit_w and card.default_power_limit_w and card.power_limit_w < card.default_power_limit_w
        # a card under full load runs at its limit when all is well
        if not lowered and (ratio is None or ratio >= _CAPPED_CLOCK):
            continue
        drawn = case.under_load(case.timeline.one("power_w", card.pci_address))
        usual = f", {card.default_power_limit_w:.0f} W is usual" if lowered else ""
        limit = f" of {card.power_limit_w:.0f} W{usual}" if card.power_limit_w else ""
        return Cause(
            key="gpu-power-capped",
            title="the power limit holds the card's clocks down" + (", and it is set below the usual one" if lowered else ""),
            evidence=(
                f"sw_power_cap in {capped / len(bits):.0%} of the samples",
                *((f"{sum(drawn) / len(drawn):.0f} W on average{limit}",) if drawn else ()),
                *clocks,
            ),
            confidence="high" if lowered and ratio is not None and ratio < _CAPPED_CLOCK else "medium",
            fix=f"set the usual limit: nvidia-smi -pl {card.default_power_limit_w:.0f}"
            if lowered
            else "nothing, if the card is cooled and supplied as it should be: long prompts and many streams draw more than it may",
        )
    return None


def low_clocks(case: Case) -> Cause | None:
    """The card's clocks are set low, or do not rise."""
    for card in case.timeline.cards:
        bits = [int(value) for value in case.under_load(case.timeline.one("throttle_reasons", card.pci_address))]
        if sum(bool(value & (_THERMAL | _HARDWARE | _POWER_CAP)) for value in bits) > len(bits) * _SLOWED_SHARE:
            continue  # that has a cause of its own
        chosen = sum(bool(value & _SET_CLOCKS) for value in bits) > len(bits) / 2
        ratio, clocks = _clocks(case, card)
        memory = _working(case, card, "memory_clock_mhz")
        memory_low = bool(memory and card.max_memory_clock_mhz and memory < card.max_memory_clock_mhz * _LOW_MEMORY_CLOCK)
        low = ratio is not None and ratio < _LOW_CLOCK
        if not low and not memory_low:
            continue
        evidence = [*clocks] if low else []
        if memory_low:
            evidence.append(f"memory clock {memory:.0f} of {card.max_memory_clock_mhz} MHz while it worked")
        if chosen:
            asked = f", {card.application_clock_mhz} MHz" if card.application_clock_mhz else ""
            evidence.append(f"the driver says that the clocks are set so (applications_clocks_setting{asked})")
        return Cause(
            key="gpu-clocks",
            title="the card's clocks are set low" if chosen else "the card's clocks stay low while it works",
            evidence=tuple(evidence),
            confidence="high" if chosen or memory_low or (ratio or 1) < _VERY_LOW_CLOCK else "medium",
            fix="give the clocks back to the driver: nvidia-smi -rgc, -rmc and -rac; persistence mode on (nvidia-smi -pm 1)",
        )
    return None


def shared_card(case: Case) -> Cause | None:
    """Another program uses the card."""
    for card in case.timeline.cards:
        others = case.under_load(case.timeline.one("gpu_other_memory_mib", card.pci_address))
        most = max(others, default=0.0)
        use = case.mean("gpu_other_util_percent", card.pci_address) or 0.0
        works = use >= _OTHER_USE_PERCENT
        if most < _LEAST_OTHER_MIB or not card.others:
            continue
        evidence = [f"on the card besides the server: {'; '.join(card.others[:4])}"]
        if works:
            evidence.append(f"it worked for them {use:.0f} % of the time")
        return Cause(
            key="gpu-shared",
            title="another program uses the card",
            evidence=tuple(evidence),
            confidence="high" if works else "medium" if most >= _MUCH_OTHER_MIB else "low",
            fix="stop it, or give it another card; draw the desktop on the processor's own graphics",
        )
    return None


def narrow_link(case: Case) -> Cause | None:
    """The card's link has fewer lanes, or a lower generation under load, than card and slot could have."""
    for card in case.timeline.cards:
        lanes = max(case.under_load(case.timeline.one("pcie_lanes", card.pci_address)), default=0.0)
        generation = max(case.under_load(case.timeline.one("pcie_generation", card.pci_address)), default=0.0)
        narrow = card.max_pcie_lanes and 0 < lanes < card.max_pcie_lanes
        # an idle card lowers its generation, so that the highest one under load counts
        slow = card.max_pcie_generation and 0 < generation < card.max_pcie_generation
        if not narrow and not slow:
            continue
        evidence = []
        if narrow:
            evidence.append(f"{lanes:.0f} of {card.max_pcie_lanes} lanes")
        if slow:
            evidence.append(f"PCIe generation {generation:.0f} of {card.max_pcie_generation} while it worked")
        rates = [*case.under_load(case.timeline.one("pcie_rx_mb_s", card.pci_address)),
                 *case.under_load(case.timeline.one("pcie_tx_mb_s", card.pci_address))]  # fmt: skip
        can = lanes * _MB_S_PER_LANE.get(int(generation), 0)
        if rates and can:
            evidence.append(f"up to {max(rates):.0f} MB/s crossed it in one direction; it carries {can:.0f} at most")
        full = bool(rates and can and max(rates) >= can * _LINK_USE)
        return Cause(
            key="pcie-link",
            title="the card's link is narrower or slower than it could be",
            evidence=tuple(evidence),
            confidence="high" if full else "low",
            fix="reseat the card, clean its contacts, try another slot and no riser, look at the slot's settings in the firmware; "
            "decoding on one card hardly uses the link, loading and offloading do",
        )
    return None


def memory_errors(case: Case) -> Cause | None:
    """The card's memory fails."""
    for card in case.timeline.cards:
        if card.uncorrectable_ecc_errors:
            return Cause(
                key="gpu-memory-errors",
                title="the card's memory had errors during the run",
                evidence=(f"{card.uncorrectable_ecc_errors} uncorrectable errors came up on {card.name}",),
                confidence="medium",
                fix="reset the card (nvidia-smi -r) or reboot, and replace it if they return",
            )
    return None


def _working(case: Case, card: SampledCard, name: str) -> float | None:
    """Median of a clock in the moments in which the server had something to do and the card did not say that it idled."""
    series = case.timeline.one(name, card.pci_address)  # type: ignore[arg-type]
    reasons = case.timeline.one("throttle_reasons", card.pci_address)
    if series is None:
        return None
    bits = reasons.values if reasons else (None,) * len(series.values)
    values = [
        value
        for value, bit, loaded in zip(series.values, bits, case.loaded, strict=True)
        if loaded and value is not None and not int(bit or 0) & _IDLE
    ]
    return nearest_rank(values, 50)


def _clocks(case: Case, card: SampledCard) -> tuple[float | None, tuple[str, ...]]:
    """The SM clock while it worked as a part of the highest, and that in words."""
    clock = _working(case, card, "sm_clock_mhz")
    if clock is None or not card.max_sm_clock_mhz:
        return None, ()
    return clock / card.max_sm_clock_mhz, (f"SM clock {clock:.0f} of {card.max_sm_clock_mhz} MHz while it worked",)
