"""What the host's reading script printed (bringup/onhost/reading.py), validated."""

import shlex
from importlib.resources import files
from typing import Any

from pydantic import Field, ValidationError

from bringup.hardware import Frozen
from bringup.plan.tuning import TuningPlan


class SettingReading(Frozen):
    """Live values of one setting."""

    files: dict[str, str]
    """File of the kernel to its value; empty where this machine has none."""
    writable: bool


class KernelReading(Frozen):
    """Which of the words that were asked for are on the kernel's command line."""

    running: tuple[str, ...] = ()
    next_boot: tuple[str, ...] = ()
    """By GRUB's menu."""


class MemoryReading(Frozen):
    """Where a process's memory is."""

    policies: dict[str, int]
    """NUMA policy as the kernel writes it (``default``, ``bind:0``) to the number of its mappings."""
    own_kib: dict[int, int]
    """NUMA node to KiB there that are the process's own, and no file's."""


class ProcessReading(Frozen):
    """One process of the service."""

    name: str
    threads: dict[str, int]
    """CPUs that threads may run on, in the kernel's list format, to the number of such threads."""
    memory: MemoryReading | None
    nofile: str | None
    """Hard limit of open files, as the kernel writes it."""


class PlannedService(Frozen):
    """What the served release's plan says of its processes."""

    cpus: str
    memory_nodes: str
    limits: dict[str, str]
    enabled: str = "enabled"
    """What systemd calls a unit file of its kind that starts at boot."""
    manager: str = "systemd"
    """Who keeps the server running."""
    tuning: TuningPlan | None
    """None in a plan of a version that set nothing but sysctls."""


class Reading(Frozen):
    """One host, as it is now."""

    request: TuningPlan | None
    """The settings that it should have; None where nothing was ever written down."""
    applied: bool
    settings: dict[str, SettingReading]
    kernel: KernelReading = KernelReading()
    refused: dict[str, str]
    """Affinity files of interrupts that the kernel would not move, to the name of their device."""
    irqbalance_banned: str | None
    tuned_profile: str | None
    units: dict[str, dict[str, str]]
    plan: PlannedService | None
    most_files: str | None = None
    """Hard limit of open files of process 1, which none of a container's own can exceed; as the kernel writes it."""
    processes: dict[int, ProcessReading] = Field(default_factory=dict)


def reading_command(request: TuningPlan | None = None) -> str:
    """Return the shell command that reads a host with root's rights; it prints nothing where there is no Python.

    Args:
        request: what should be applied; None takes what the host has written down, and looks at the service's processes too.
    """
    script = files("bringup.onhost").joinpath("reading.py").read_text(encoding="utf-8")
    argument = "" if request is None else f" {shlex.quote(request.model_dump_json())}"
    return (
        'command -v python3 >/dev/null || exit 0; [ "$(id -u)" = 0 ] && asroot= || asroot="sudo -n"; '
        f"$asroot python3 -c {shlex.quote(script)}{argument}"
    )


def parse_reading(text: str) -> Reading:
    """Validate what the command printed.

    Raises:
        ValueError: it is something else.
    """
    try:
        return Reading.model_validate_json(text)
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise ValueError(f"the host's reading cannot be used: {where}: {first['msg']}") from None
