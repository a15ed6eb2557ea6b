"""What systemd says of vllm.service."""

import subprocess
from pathlib import Path

from bringup.errors import BringupError

SERVICE = "vllm.service"


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


def main_pid() -> str | None:
    """Process id of the server; None while there is none."""
    pid = systemctl("show", SERVICE, "--property=MainPID", "--value")
    return pid if pid not in ("", "0") else None


def server_pid() -> str | None:
    """Process id of the server itself; the main process of a container's unit is the one that watches over it."""
    pid = main_pid()
    if pid is None or read(Path(f"/proc/{pid}/comm")).strip() != "conmon":
        return pid
    children = read(Path(f"/proc/{pid}/task/{pid}/children")).split()
    return children[0] if children else None


def main_process_command() -> str:
    """Command line of the server; empty while there is none."""
    pid = main_pid()
    return read(Path(f"/proc/{pid}/cmdline")) if pid else ""


def read(path: Path) -> str:
    """Text of a file of /proc, its NULs as spaces; empty when the process is gone."""
    try:
        return path.read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
