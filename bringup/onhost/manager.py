"""Who keeps the server running on this host: systemd, or a supervisor where systemd does not run it."""

from pathlib import Path
from typing import Protocol

from bringup.onhost.files import read
from bringup.onhost.supervisor import Supervisor
from bringup.onhost.systemd import Systemd

_SYSTEMD_RUNS = Path("/run/systemd/system")
"""There where systemd is process 1: sd_booted(3)."""


class Manager(Protocol):
    """What bringup asks of either."""

    name: str
    """As the plan calls it: ``systemd``, ``supervisor``."""
    log_command: str
    """What shows people the service's whole log."""

    def stage(self, release: Path) -> None:
        """Write what will be put in place, as far as a release has a part in it."""

    def place(self) -> None:
        """Put it in place."""

    def restart(self) -> None:
        """Have the service start with the host, forget its failures, and start it anew without waiting for it to be up."""

    def stop(self) -> None:
        """Stop it, and do not start it with the host."""

    def state(self) -> str:
        """``active`` (it has answered a request), ``activating``, ``deactivating``, ``inactive`` (stopped) or ``failed`` (given
        up)."""

    def restarts(self) -> int:
        """How often it was started again by itself since somebody started it."""

    def main_pid(self) -> str | None:
        """Process id of the server; None while there is none."""

    def server_pid(self) -> str | None:
        """Process id of the server itself, where the main process only watches over it."""

    def owns(self, pid: str) -> bool:
        """Whether a process is one of the service's."""

    def forget_failures(self) -> None:
        """Forget the starts that count towards giving up."""

    def result(self) -> str:
        """Why it ended last, in a few words."""

    def log(self, since_unix_s: float, lines: int = 25) -> str:
        """Return the last lines that it logged since a time (seconds since 1970)."""


def service_manager(in_container: bool = False) -> Manager:
    """Return this host's.

    Args:
        in_container: whether Podman runs the engine of the release that is meant.
    """
    return Systemd(in_container) if _SYSTEMD_RUNS.is_dir() else Supervisor()


def main_process_command(manager: Manager) -> str:
    """Command line of the server; empty while there is none."""
    pid = manager.main_pid()
    return read(Path(f"/proc/{pid}/cmdline")) if pid else ""
