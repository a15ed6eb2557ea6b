"""What was read of a machine's cards and their driver."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Link:
    """Speed and width of a PCI Express link; None where it is not known."""

    generation: int | None
    lanes: int | None


@dataclass(frozen=True)
class DrivenCard:
    """A card as nvidia-smi lists it."""

    address: str
    name: str
    memory_mib: int | None
    free_mib: int | None
    driver_version: str | None
    persistent: bool | None


@dataclass(frozen=True)
class PciCard:
    """One of NVIDIA's display controllers as sysfs shows it."""

    address: str
    pci_id: str
    holder: str | None
    """Kernel driver: ``nvidia``, ``nouveau``, ``vfio-pci``."""
    now: Link
    best: Link
    slot: Link | None
    """What the port above can do; None where there is none, as in a virtual machine."""


@dataclass(frozen=True)
class Node:
    """A device node, and whether the service's user may read and write it."""

    path: str
    usable: bool
    mode: str
    """``660 root:video``"""


@dataclass(frozen=True)
class Copied:
    """What copying between memory and a card showed."""

    to_card_gb_s: float
    from_card_gb_s: float
    links: tuple[Link, ...]
    """Those that were seen meanwhile."""


@dataclass(frozen=True)
class Exercise:
    """How far the engine's own PyTorch got."""

    stage: str
    """The last one: ``done``; else where it hung or failed (`exercise.py`)."""
    error: str | None
    timed_out: bool
    torch: str | None = None
    cuda: str | None = None
    computed: tuple[int, ...] = ()
    """Indices of the cards that computed what they should."""
    addresses: dict[int, str | None] = field(default_factory=dict)
    copied: dict[int, Copied] = field(default_factory=dict)


@dataclass(frozen=True)
class Readings:
    """All of it."""

    smi: tuple[DrivenCard, ...]
    smi_error: str | None
    """Why nvidia-smi gave no list; None where it did."""
    smi_hangs: bool
    cards: tuple[PciCard, ...]
    module_version: str | None
    library_version: str | None
    """Of libcuda.so.1, by the name of its file."""
    packages: dict[str, str]
    """The driver's installed packages, to their upstream version."""
    nodes: tuple[Node, ...]
    missing_nodes: tuple[str, ...]
    log_before: str
    """The kernel log's lines about NVIDIA's driver, of this boot."""
    log_after: str
    log_error: str | None
    serving: bool
    """Whether vllm.service runs: then the cards are not put under load."""
    user: str | None
    """Who the exercise ran as; None: whoever started the check."""
    exercise: Exercise | None
    """None: no Python was named to run it with, or the cards have no memory left for it."""
    exercise_skipped: str | None
    """Why it was not run."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, without the log."""
        return {key: value for key, value in asdict(self).items() if key not in ("log_before", "log_after")}
