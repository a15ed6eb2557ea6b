"""What it takes until an installed driver runs."""

import re
from itertools import takewhile
from typing import Literal

from bringup.hardware import Frozen
from bringup.plan.driver import DriverPlan
from bringup.probe.driver_status import DriverStatus

_WAYS_OUT = (
    (
        r"not supported by the",
        "this driver does not know the card, or the card does not answer: see nvidia_driver, and the card's seat and power",
    ),
    (
        r"No NVIDIA GPU found|probe routine was not called",
        "no card is free for it: look whether one is there (lspci), and whether another driver has it",
    ),
    (
        r"[Kk]ey was rejected|[Rr]equired key not available|ockdown|not permitted",
        "Secure Boot or a locked-down kernel refuses modules that nobody signed",
    ),
    (
        r"Exec format error|Unknown symbol|Invalid argument",
        "it was built for another kernel: dkms status on the host tells for which",
    ),
)
"""What modprobe or the kernel says, and what it means."""


class Activation(Frozen):
    """The next thing to do, and why."""

    step: Literal["done", "load", "reboot", "broken"]
    """``broken``: nothing that bringup does will mend it."""
    why: str


def activation(plan: DriverPlan, status: DriverStatus) -> Activation:
    """Decide how the host gets from what runs to what is installed."""
    if plan.state == "absent":
        if status.loaded is None:
            return Activation(step="done", why="no NVIDIA module is loaded")
        if status.loaded == status.installed:
            return Activation(step="done", why=f"driver {status.loaded} runs, which is not bringup's")
        left = f", {status.installed} is installed" if status.installed else ""
        return Activation(step="reboot", why=f"module {status.loaded} is still loaded{left}")
    if status.installed is None:
        why = f"no module was built for the running kernel {status.kernel}: see /var/lib/dkms/nvidia*/*/build/make.log on the host"
        return Activation(step="broken", why=why)
    if not plan.is_met_by(status.installed):
        why = f"the module for kernel {status.kernel} is {status.installed}, not {plan.wanted_version.rstrip('.')}"
        return Activation(step="broken", why=f"{why}: another one lies in /lib/modules/{status.kernel}, remove it")
    if status.nouveau:
        return Activation(step="reboot", why="nouveau holds the card")
    if status.loaded is None:
        return Activation(step="load", why="no module is loaded")
    if status.loaded != status.installed:
        return Activation(step="reboot", why=f"module {status.loaded} is loaded, {status.installed} is installed")
    if status.library is None:
        said = status.silent or "it is not installed"
        return Activation(step="broken", why=f"module {status.loaded} is loaded, but nvidia-smi does not answer: {said}")
    if status.library != status.loaded:
        why = f"module {status.loaded} is loaded, but the library is {status.library}: packages of two versions are installed"
        return Activation(step="broken", why=why)
    return Activation(step="done", why=f"driver {status.loaded} runs: module, library and nvidia-smi agree")


def why_not_loaded(said: str, kernel_log: str) -> str:
    """Say why an installed module cannot be loaded.

    Args:
        said: by modprobe.
        kernel_log: the kernel's last lines about it; may be empty.
    """
    # a message of several lines has NVRM: before each
    logged = " ".join(re.sub(r"^(\[[^]]*\])?\s*(NVRM: *)?", "", line).strip() for line in kernel_log.splitlines())
    # Debian's "nvidia" is a command that loads nvidia-current: the rest says only that it failed, as an invalid argument
    cause = " ".join(takewhile(lambda line: "Error running install command" not in line, said.splitlines())).strip()
    text = f"the driver is installed, but its module does not load: {cause or 'modprobe says nothing'}"
    if logged:
        text += f". The kernel's log says: {logged}"
    way_out = next((way for pattern, way in _WAYS_OUT if re.search(pattern, f"{cause} {logged}")), "see dmesg on the host")
    return f"{text} ({way_out})"
