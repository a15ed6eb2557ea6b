"""What it takes until an installed driver runs."""

from typing import Literal

from bringup.hardware import Frozen
from bringup.plan.driver import DriverPlan
from bringup.probe.driver_status import DriverStatus


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
        return Activation(step="reboot", why=f"module {status.loaded} is still loaded")
    if status.installed is None:
        why = f"no module was built for the running kernel {status.kernel}: see /var/lib/dkms/nvidia/*/build/make.log on the host"
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
