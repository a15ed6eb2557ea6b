"""The service under Supervisor, where systemd does not run the host: in most rented containers.

Why Supervisor (supervisord.org): rented images know it, it is maintained (4.3.0 of 2025), needs nothing but Python, and writes and
rotates logs. It runs from an environment of bringup's own, beside one that the image may have. It starts what has ended, and no
more; what a systemd unit does beyond that is done by the program that it runs (keeper.py).
"""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from bringup.errors import BringupError
from bringup.onhost import supervised
from bringup.onhost.files import read

CONTROL = ("/opt/bringup/tools/supervisor/bin/supervisorctl", "-c", "/etc/bringup/supervisord.conf")
START = "/opt/bringup/bin/bringup-start"
"""Starts the supervisor; the line for the container's start command."""
PROGRAM = "vllm"
LOG = Path("/var/log/bringup/vllm.log")
START_LIMIT_S = 30.0
_MARK = "bringup: start at "
"""Begins the line that the keeper logs at each start."""
_NOT_RUNNING = 7
"""supervisorctl's exit code for it: LSB's."""


class Supervisor:
    """The program; each method is one of `bringup.onhost.manager.Manager`."""

    name = "supervisor"
    log_command = f"less {LOG}"

    def stage(self, release: Path) -> None:
        """Nothing: what the program runs is read from the current release."""

    def place(self) -> None:
        """Nothing."""

    def restart(self) -> None:
        """Start the program anew, and the supervisor where it does not run."""
        supervised.Starts().forget()
        if self._started():
            return
        self._control("update")  # another configuration, if there is one
        self.stop()
        supervised.Starts().forget()
        self._control("start", PROGRAM)

    def stop(self) -> None:
        """Stop it. At the container's next start there is nothing to serve: a release is current, or it is not."""
        if self._runs():
            self._control("stop", PROGRAM)

    def state(self) -> str:
        """As its keeper says; ``activating`` while there is none and the supervisor is about to start one."""
        said = supervised.told().state
        if supervised.is_kept() or said in ("inactive", "failed"):
            return said
        return "activating" if self._runs() else "inactive"

    def restarts(self) -> int:
        """How often it was started again by itself since somebody started it."""
        return max(0, len(supervised.Starts().seconds()) - 1)

    def main_pid(self) -> str | None:
        """Process id of the server; None while there is none."""
        said = supervised.told()
        return str(said.main_pid) if said.main_pid is not None and supervised.is_of(str(said.main_pid), said.session) else None

    def server_pid(self) -> str | None:
        """The same: nothing stands between."""
        return self.main_pid()

    def owns(self, pid: str) -> bool:
        """Whether a process is one of the server's."""
        return supervised.is_of(pid, supervised.told().session)

    def forget_failures(self) -> None:
        """Forget the starts that count towards giving up."""
        supervised.Starts().forget()

    def result(self) -> str:
        """Why it ended last."""
        return supervised.told().result

    def log(self, since_unix_s: float, lines: int = 25) -> str:
        """Return the last lines that it logged since its first start after a time (seconds since 1970)."""
        text = "\n".join(read(path) for path in (LOG.with_name(f"{LOG.name}.1"), LOG))
        marks = [mark for mark in re.finditer(rf"^{_MARK}([\d.]+)", text, re.MULTILINE) if float(mark[1]) >= since_unix_s]
        return "\n".join(text[marks[0].start() :].strip().splitlines()[-lines:]) if marks else ""

    def _runs(self) -> bool:
        """Whether the supervisor answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(str(supervised.FOLDER / "supervisor.sock"))
            except OSError:
                return False
            return True

    def _started(self) -> bool:
        """Start the supervisor; False where it runs already.

        Raises:
            BringupError: it does not start.
        """
        if self._runs():
            return False
        subprocess.run([START], check=False)
        limit = time.monotonic() + START_LIMIT_S
        while not self._runs():
            if time.monotonic() > limit:
                raise BringupError(f"the supervisor does not start within {START_LIMIT_S:.0f} s: see /var/log/bringup/start.log")
            time.sleep(0.2)
        return True

    def _control(self, *words: str) -> None:
        done = subprocess.run([*CONTROL, *words], capture_output=True, text=True, check=False)
        if done.returncode not in (0, _NOT_RUNNING):
            raise BringupError(f"supervisorctl {' '.join(words)} failed: {(done.stdout + done.stderr).strip()}")


def mark_start() -> None:
    """Write the line that `Supervisor.log` finds a start by."""
    print(f"{_MARK}{time.time():.3f}", file=sys.stdout, flush=True)


def properties() -> dict[str, str]:
    """What `systemctl show vllm.service` says where there is systemd, for facts and verification."""
    service, said = Supervisor(), supervised.told()
    return {
        "LoadState": "loaded" if os.access(CONTROL[-1], os.R_OK) else "not-found",
        "ActiveState": service.state(),
        "UnitFileState": "enabled" if os.access(START, os.X_OK) else "disabled",
        "MainPID": service.main_pid() or "0",
        "NRestarts": str(service.restarts()),
        "Session": str(said.session or ""),
    }
