"""What an installed driver does at this moment: module, library and card."""

from bringup.hardware import Frozen
from bringup.probe.sections import key_values


class DriverStatus(Frozen):
    """As the host tells between two parts of the driver's step."""

    kernel: str
    loaded: str | None
    """Version of the loaded module."""
    installed: str | None
    """Version of the module that is installed for the running kernel; None: there is none."""
    nouveau: bool
    """Whether nouveau holds a card."""
    boot_id: str
    serving: bool
    """Whether vllm.service runs."""
    library: str | None
    """Version that nvidia-smi prints; None where it does not answer or is not there."""
    silent: str | None
    """What nvidia-smi says instead of a version; None where it answers or is not there."""


def parse_driver_status(text: str) -> DriverStatus:
    """Parse the ``name=value`` lines of driver.sh.

    Raises:
        ValueError: the lines are not those of driver.sh.
    """
    said = key_values(text)
    if not said.get("boot_id"):
        raise ValueError("the host did not tell the state of its driver")
    answer = said.get("smi", "").strip()
    answers = said.get("smi_rc") == "0" and answer != ""
    return DriverStatus(
        kernel=said.get("kernel", ""),
        loaded=said.get("loaded") or None,
        installed=said.get("installed") or None,
        nouveau=said.get("nouveau") == "yes",
        boot_id=said["boot_id"],
        serving=said.get("service") == "active",
        library=answer.split()[0] if answers else None,
        silent=None if answers or "smi_rc" not in said else answer or "nothing",
    )
