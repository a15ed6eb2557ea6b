"""Waits until the server has answered a request; systemd counts the service as up then (ExecStartPost of vllm.service)."""

import json
import os
import time
from pathlib import Path

from bringup.errors import BringupError
from bringup.onhost.say import say
from bringup.onhost.server import server_of

_POLL_S = 0.5


def wait_until_ready(plan_file: Path) -> None:
    """Wait for /health, then have a few tokens generated.

    There is no limit of its own but systemd's TimeoutStartSec. The API key is in the environment, as it is for the server, and
    so is the server's process id (MAINPID, from systemd).

    Raises:
        BringupError: the plan cannot be read, the server has ended, or it is healthy and does not generate.
    """
    try:
        plan = json.loads(plan_file.read_text())
    except (OSError, ValueError) as error:
        raise BringupError(f"{plan_file} cannot be read: {error}") from error
    server = server_of(plan, os.environ.get("VLLM_API_KEY"))
    main = os.environ.get("MAINPID")
    while not server.is_healthy():
        # systemd waits for us before it looks at a server that has ended meanwhile (seen with 252)
        if main is not None and _has_ended(int(main)):
            raise BringupError("the server ended before it was ready")
        time.sleep(_POLL_S)
    began_s = time.monotonic()
    server.answer()
    say(f"ready: the first answer took {time.monotonic() - began_s:.1f} s")


def _has_ended(pid: int) -> bool:
    """Whether there is no such process. Not by /proc, where the unit's sandbox hides the server from what is started beside it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it has not yet become the service's user
        return False
    return False
