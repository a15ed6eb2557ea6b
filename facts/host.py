"""The one composite fact: everything that bringup wants to know of a host, in one round trip."""

from pyinfra.api import FactBase, FactProcessError

from bringup.hardware import HostFacts
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script


class _Probe:
    def command(self, model_folder: str | None = None) -> str:
        """The probe: a POSIX shell script that only reads."""
        return probe_script(model_folder)


class HostProbe(_Probe, FactBase[HostFacts]):
    """What the host is and what an earlier run left on it.

    Example: ``pyinfra inventories/lab.py fact facts.host.HostProbe``
    """

    def process(self, output: list[str]) -> HostFacts:
        """Parse the sections; what is no probe output at all fails this host only."""
        try:
            return parse_host("\n".join(output))
        except ValueError as error:
            raise FactProcessError(str(error)) from error


class HostProbeText(_Probe, FactBase[str]):
    """What the probe printed, as it stands: what a recording is made from, before anything is scrubbed."""

    def process(self, output: list[str]) -> str:
        """Put the lines together."""
        return "\n".join(output)
