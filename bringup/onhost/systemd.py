"""vllm.service as systemd manages it."""

import shutil
import subprocess
from pathlib import Path

from bringup.errors import BringupError
from bringup.onhost.files import read, staged

SERVICE = "vllm.service"
UNIT = Path("/etc/systemd/system/vllm.service")
CONTAINER_UNIT = Path("/etc/containers/systemd/vllm.container")
"""Of which Podman's generator makes vllm.service; one in /etc/systemd/system would go before it."""


def systemctl(*arguments: str) -> str:
    """Run systemctl and return what it printed.

    Raises:
        BringupError: it failed, other than by answering a question with no.
    """
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    # reset-failed fails for a unit that is not loaded, which is as well
    if done.returncode and arguments[0] not in ("show", "is-active", "reset-failed"):
        raise BringupError(f"systemctl {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


class Systemd:
    """The unit; each method is one of `bringup.onhost.manager.Manager`."""

    name = "systemd"
    log_command = f"journalctl -u {SERVICE}"

    def __init__(self, in_container: bool = False) -> None:
        """Take whether a container's unit is meant where one is written or taken away."""
        self.in_container = in_container
        self.unit, self.other_unit = (CONTAINER_UNIT, UNIT) if in_container else (UNIT, CONTAINER_UNIT)

    def stage(self, release: Path) -> None:
        """Write the release's unit beside the one in place."""
        self.unit.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(release / self.unit.name, staged(self.unit))

    def place(self) -> None:
        """Put the staged unit in place."""
        if self.other_unit.exists():
            # a container and a process are ended in different ways, each of which is in its own unit
            _remove(self.other_unit)
        staged(self.unit).replace(self.unit)

    def restart(self) -> None:
        """Have it start at boot, and start it anew without waiting for it."""
        systemctl("daemon-reload")
        if not self.in_container:  # the generator does that for a container, by the file itself
            systemctl("enable", "--quiet", SERVICE)
        systemctl("reset-failed", SERVICE)
        systemctl("restart", "--no-block", SERVICE)

    def stop(self) -> None:
        """Stop it, now and for the next boot."""
        if self.in_container:
            _remove(self.unit)
        else:
            systemctl("disable", "--now", "--quiet", SERVICE)
        systemctl("reset-failed", SERVICE)

    def state(self) -> str:
        """ActiveState."""
        return systemctl("is-active", SERVICE)

    def restarts(self) -> int:
        """How often it was started again by itself since somebody started it."""
        said = systemctl("show", SERVICE, "--property=NRestarts", "--value")
        return int(said) if said.isdecimal() else 0

    def main_pid(self) -> str | None:
        """Process id of the server; None while there is none."""
        pid = systemctl("show", SERVICE, "--property=MainPID", "--value")
        return pid if pid not in ("", "0") else None

    def server_pid(self) -> str | None:
        """Process id of the server itself; the main process of a container's unit is the one that watches over it."""
        pid = self.main_pid()
        if pid is None or read(Path(f"/proc/{pid}/comm")).strip() != "conmon":
            return pid
        children = read(Path(f"/proc/{pid}/task/{pid}/children")).split()
        return children[0] if children else None

    def owns(self, pid: str) -> bool:
        """Whether a process is one of the unit's."""
        return f"/{SERVICE}" in read(Path(f"/proc/{pid}/cgroup"))

    def forget_failures(self) -> None:
        """Forget the starts that count towards giving up."""
        systemctl("reset-failed", SERVICE)

    def result(self) -> str:
        """Why it ended last: ``exit-code``, ``timeout``…"""
        return systemctl("show", SERVICE, "--property=Result", "--value")

    def log(self, since_unix_s: float, lines: int = 25) -> str:
        """Return the last lines that the service logged since a time (seconds since 1970)."""
        # not with --lines: together with --since it counts from the oldest line (systemd 252)
        command = ["journalctl", "-u", SERVICE, "--since", f"@{int(since_unix_s)}", "--no-pager", "-o", "cat"]
        log = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
        return "\n".join(log.strip().splitlines()[-lines:])


def _remove(unit: Path) -> None:
    """Stop the service as this unit says, and take the unit away."""
    systemctl("stop", SERVICE)
    if unit == UNIT:
        systemctl("disable", "--quiet", SERVICE)
    unit.unlink()
    systemctl("daemon-reload")
