"""What the cards of a machine are judged against, and what a judgement is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "problem"]
"""``problem``: nothing can be served before it is mended. ``warning``: wasted or about to go wrong."""


@dataclass(frozen=True)
class KnownCard:
    """What the catalog says of a card."""

    name: str
    memory_mib: tuple[int, ...]
    """As nvidia-smi prints it; several where an id stands for several sizes."""
    memory_is_nominal: bool = False
    """The size that it is sold with, which nvidia-smi does not print."""
    pcie_generation: int | None = None
    pcie_lanes: int | None = None


@dataclass(frozen=True)
class Wanted:
    """What the inventory and the plan say of this machine's cards."""

    serving: str | None = None
    """PCI address of the card that serves; None: all of them matter."""
    expected_name: str | None = None
    expected_ids: tuple[str, ...] = ()
    expected_count: int | None = None
    known: Mapping[str, KnownCard] = field(default_factory=dict)
    """PCI id to what the catalog says."""
    least_branch: int | None = None
    """The engine's need."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Wanted":
        """Read it from a request's plain values."""
        expect = content.get("expect") or {}
        return cls(
            serving=content.get("serving"),
            expected_name=expect.get("gpu"),
            expected_ids=tuple(expect.get("pci_ids") or ()),
            expected_count=expect.get("count"),
            known={
                pci_id: KnownCard(**{**card, "memory_mib": tuple(card["memory_mib"])})
                for pci_id, card in (content.get("known") or {}).items()
            },
            least_branch=content.get("least_branch"),
        )

    def matters(self, address: str) -> bool:
        """Whether trouble with this card stops the service."""
        return self.serving is None or self.serving == address


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    level: Level
    id: str
    text: str
    """What it is; where it is not right, what to do about it."""
