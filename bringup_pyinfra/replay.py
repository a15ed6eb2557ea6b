"""pyinfra's connector ``@replay/NAME``: a recorded host that can be looked at, and not changed.

NAME is a recording that comes with bringup, or the path of a recording's folder: ``@replay/4090d-workstation``,
``@replay/./my-box``, ``@replay//srv/recordings/my-box``. Several hosts are separated by commas, each with its ``@replay/``.

pyinfra loads this module in every run of every project, so it imports nothing of bringup before it is used.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from pyinfra import logger
from pyinfra.api.exceptions import ConnectError, InventoryError
from pyinfra.api.output import echo, format_text
from pyinfra.api.state import StateStage
from pyinfra.connectors.base import BaseConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

if TYPE_CHECKING:
    from bringup.recording import Recording

_PREFIX = "@replay/"
_PROBE = "@@bringup "
"""What only the probe's script contains: how its sections begin."""
_ONLY_LOOK = "a recording can only be looked at: use --dry"
# What pyinfra's own operations ask of every host, as a fresh Linux answers. All else is empty: nothing is installed, no file is
# there.
_ALWAYS_THERE = {
    "uname -s": "Linux",
    "command -v useradd": "/usr/sbin/useradd",
    "command -v groupadd": "/usr/sbin/groupadd",
}


def _load(name: str) -> "Recording":
    from bringup.errors import BringupError
    from bringup.recording import recording_named

    try:
        return recording_named(name)
    except BringupError as error:
        raise InventoryError(f"{_PREFIX}{name}: {error.message}") from None


def _would_change() -> bool:
    """Whether pyinfra's command line was told to change hosts; False where there is no command line, as in a script."""
    context = click.get_current_context(silent=True)
    given: dict[str, Any] = context.params if context else {}
    if "dry" not in given or "operations" not in given:
        return False
    only_shows = given["dry"] or given["debug_facts"] or given["debug_operations"] or (given["json_output"] and not given["yes"])
    return not only_shows and given["operations"][0] != "fact"


class ReplayConnector(BaseConnector):
    """Answers the probe with a recording, and everything else as a bare host does. For dry runs only."""

    handles_execution = True

    def __init__(self, state: Any, host: Any) -> None:
        """Find out whether this run is a dry one, here where pyinfra's command line can still be seen."""
        super().__init__(state, host)
        self._refused = _would_change()

    @staticmethod
    def make_names_data(name: str | None = None) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """Name one host, in the group ``replay``.

        Raises:
            InventoryError: there is no such recording.
        """
        if not name:
            from bringup.recording import shipped_recordings

            raise InventoryError(f"{_PREFIX}NAME needs a recording's name or path; known: {', '.join(shipped_recordings())}")
        _load(name)
        yield f"{_PREFIX}{name}", {}, ["replay"]

    def connect(self) -> None:
        """Refuse a run that would change hosts.

        Raises:
            ConnectError: the run would change hosts.
        """
        if self._refused:
            raise ConnectError(_ONLY_LOOK)

    def run_shell_command(
        self, command: Any, print_output: bool = False, print_input: bool = False, **arguments: Any
    ) -> tuple[bool, CommandOutput]:
        """Answer a fact's command; an operation's fails."""
        text = command if isinstance(command, str) else command.get_raw_value()
        if print_input:
            echo(f"{self.host.print_prefix}>>> {text}", err=True)
        if self.state.current_stage >= StateStage.Execute:
            return False, CommandOutput([OutputLine("stderr", _ONLY_LOOK)])
        lines = [OutputLine("stdout", line) for line in self._answer(text)]
        if print_output:
            for line in lines:
                echo(f"{self.host.print_prefix}{line.line}", err=True)
        return True, CommandOutput(lines)

    def _answer(self, command: str) -> list[str]:
        if _PROBE in command:
            return _load(self.host.name.removeprefix(_PREFIX)).probe_text(int(time.time())).splitlines()
        return [answer for question, answer in _ALWAYS_THERE.items() if command.startswith(question)]

    def put_file(self, *args: Any, **kwargs: Any) -> bool:
        """Refuse."""
        return self._refuse()

    def get_file(self, *args: Any, **kwargs: Any) -> bool:
        """Refuse: no file is there."""
        return self._refuse()

    def check_can_rsync(self) -> None:
        """Let a dry run plan it."""

    def rsync(self, *args: Any, **kwargs: Any) -> bool:
        """Refuse."""
        return self._refuse()

    def _refuse(self) -> bool:
        logger.error(f"{self.host.print_prefix}{format_text(_ONLY_LOOK, 'red')}")
        return False
