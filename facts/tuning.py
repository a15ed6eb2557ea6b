"""What the host's settings and the service's processes are now, for verification."""

from pyinfra.api import FactBase, FactProcessError

from bringup.plan.tuning import TuningPlan
from bringup.verify.reading import Reading, parse_reading, reading_command


class HostReading(FactBase[Reading | None]):
    """Live values of the settings that a plan makes; None where the host has no Python to read them with."""

    def command(self, request: TuningPlan | None = None) -> str:
        """Read only."""
        return reading_command(request)

    def process(self, output: list[str]) -> Reading | None:
        """Validate what was read."""
        try:
            return parse_reading("\n".join(output)) if output else None
        except ValueError as error:
            raise FactProcessError(str(error)) from error


class HostReadingText(FactBase[str]):
    """What `bringup verify` compares: the settings that the host has written down, and the service's processes.

    Example: ``pyinfra inventories/lab.py fact facts.tuning.HostReadingText``
    """

    def command(self) -> str:
        """Read only."""
        return reading_command()

    def process(self, output: list[str]) -> str:
        """Put the lines together."""
        return "\n".join(output)
