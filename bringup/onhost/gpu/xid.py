"""Errors of a card in the kernel log: NVIDIA's Xid numbers, what they mean and what helps.

Meanings and actions follow NVIDIA's Xid catalog for Ampere and newer cards, "Resolution Bucket (Immediate Action)"
(docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), in words of our own.
"""

import re
from dataclasses import dataclass
from typing import Literal

CATALOG = "docs.nvidia.com/deploy/xid-errors"
FALLEN_OFF_THE_BUS = 79

Kind = Literal["program", "reset", "reboot", "power", "note", "unknown"]
"""Whose error it is: ``program``, a program's own, the card goes on; ``reset`` and ``reboot``, the card needs that; ``power``, its
cables; ``note``, nothing to do."""


@dataclass(frozen=True)
class Meaning:
    """What a number stands for."""

    kind: Kind
    what: str
    fix: str


_RESTART = "a program's error: restart that program; if it returns with vLLM alone, report it to vLLM with the log"
_RESET = "stop what uses the card and reset it (nvidia-smi --gpu-reset), or reboot; if it returns, have the card replaced"
_MEMORY = "reset the card (nvidia-smi --gpu-reset) or reboot; if it returns, have the card replaced: its memory is failing"
_GSP = (
    "reset the card or reboot; if it returns, switch the machine off and on, then try another branch of the driver (nvidia_driver)"
)
_BUS = (
    "reboot (switch the machine off and on if that does not help); then look at its power cables, its seat in the slot or a riser "
    "without certificate for this PCIe generation, its temperature, and the board's firmware"
)

_MEANINGS: dict[int, Meaning] = {
    8: Meaning("program", "the card stopped processing", _RESTART),
    11: Meaning("program", "invalid or damaged commands", _RESTART),
    13: Meaning("program", "an exception in a kernel, mostly an access out of bounds", _RESTART),
    25: Meaning("program", "invalid commands", _RESTART),
    31: Meaning("program", "a page fault of the card's memory, mostly an illegal address", _RESTART),
    32: Meaning(
        "program",
        "damaged commands on their way over PCIe",
        "restart the program; if it returns, reseat the card and try without a riser: this is mostly the quality of the link",
    ),
    39: Meaning("program", "an exception in the copy engine", _RESTART),
    40: Meaning("program", "an exception in the copy engine", _RESTART),
    41: Meaning("program", "an exception in the copy engine", _RESTART),
    43: Meaning("note", "a program hit an error of its own and ended; the card is healthy", "nothing, unless it returns"),
    45: Meaning(
        "note", "a program was stopped while it used the card", "nothing, if somebody stopped it; else see the Xid before it"
    ),
    46: Meaning("reset", "the card stopped processing", _RESET),
    48: Meaning("reset", "an uncorrectable memory error (double-bit ECC)", _MEMORY),
    54: Meaning("power", "the card's auxiliary power is not connected", "connect all power cables of the card"),
    61: Meaning("reset", "the card's power controller stopped", _RESET),
    62: Meaning("reset", "a controller inside the card halted", _RESET),
    63: Meaning("note", "a bad part of the card's memory was marked and is replaced by a spare at the next reset", "nothing"),
    64: Meaning("reset", "a bad part of the card's memory could not be replaced", _MEMORY),
    69: Meaning("program", "invalid commands for the compute engine", _RESTART),
    74: Meaning("reset", "an error of NVLink", "reset the cards of the link or reboot; if it returns, reseat the bridge"),
    79: Meaning("reboot", "the card fell off the bus", _BUS),
    92: Meaning("note", "many memory errors that were corrected", "watch it; have the card replaced if they go on"),
    94: Meaning("program", "a memory error that stopped one program", "restart that program; reset the card when convenient"),
    95: Meaning("reset", "a memory error that may have touched all programs on the card", _MEMORY),
    109: Meaning("reset", "a switch between programs took too long", _RESET),
    110: Meaning("reset", "a security fault", "switch the machine off and on; undo what was changed in its hardware"),
    119: Meaning("reset", "the card's own processor (GSP) does not answer the driver", _GSP),
    120: Meaning("reset", "an error in the card's own processor (GSP)", _GSP),
    136: Meaning("reset", "training a link failed", _RESET),
    140: Meaning("reset", "an uncorrectable memory error that could not be fenced off", _MEMORY),
    143: Meaning("reset", "the card could not be initialised", _RESET),
    154: Meaning("note", "the driver says what the card needs after another error", "do what its words say"),
    156: Meaning("reset", "a failing part of the card is taken out of use at the next reset", _RESET),
    157: Meaning("note", "a failing part of the card could not be taken out of use", "have the card replaced if errors go on"),
    158: Meaning("reset", "the card did not answer in time", _RESET),
}


@dataclass(frozen=True)
class XidEvent:
    """One error that the driver reported."""

    number: int
    card: str
    """As the log names it, without function: ``0000:01:00``."""
    text: str
    """What stands behind the number."""
    line: str

    def is_of(self, address: str) -> bool:
        """Whether it is about the card at a PCI address as sysfs has it: ``0000:01:00.0``."""
        return address.lower().startswith(self.card.lower().removesuffix(".0"))


def parse_xids(log: str) -> tuple[XidEvent, ...]:
    """Find the errors in the text of a kernel log, oldest first; a card that is lost without a number counts as 79."""
    found: list[tuple[int, XidEvent]] = []
    for match in re.finditer(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)[^)\n]*\): ([0-9]{1,5})(?:, *([^\n]*))?", log):
        line = log[log.rfind("\n", 0, match.start()) + 1 : match.end()].strip()
        event = XidEvent(number=int(match[2]), card=match[1].lower(), text=(match[3] or "").strip(), line=line)
        found.append((match.start(), event))
    # of a card that was lost before the driver had it, some branches write three lines and no number
    for match in re.finditer(r"NVRM: The NVIDIA GPU ([0-9A-Fa-f:.]+)[^\n]*\n(?:[^\n]*\n){0,2}?[^\n]*fallen off the bus", log):
        lost = XidEvent(
            number=FALLEN_OFF_THE_BUS,
            card=match[1].lower(),
            text="fallen off the bus and is not responding to commands",
            line=" ".join(match[0].split()),
        )
        found.append((match.start(), lost))
    return tuple(event for _, event in sorted(found, key=lambda pair: pair[0]))


def meaning_of(number: int) -> Meaning:
    """Say what a number stands for, and what helps."""
    return _MEANINGS.get(number, Meaning("unknown", "not among those that bringup knows", f"look it up: {CATALOG}"))
