"""One run at a time on a host, since a cut connection leaves the work of its run going on."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bringup.errors import BringupError

LOCK = Path("/run/bringup.lock")
"""Says who holds it. The kernel's lock on it goes with the process that holds it, and /run with the boot, so that none is left
over."""


@contextlib.contextmanager
def lock(work: str, by: str | None = None) -> Iterator[None]:
    """Hold the host for one build, download or switch.

    Args:
        work: what is done meanwhile, in words.
        by: who had it done: user, machine and process of the run that this belongs to.

    Raises:
        BringupError: another run holds it; the message says which one, and since when.
    """
    with LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BringupError(
                f"another run is at work on this host: {_owner(file.name)}; wait for it to end (a cut connection does not end it)"
            ) from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "since_unix_s": int(time.time()), "work": work, "by": by}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _owner(path: str) -> str:
    """Who holds the lock, in words."""
    try:
        owner = json.loads(Path(path).read_text())
        since_s = int(owner["since_unix_s"])
        clock = datetime.fromtimestamp(since_s, UTC).strftime("%H:%M:%S UTC")
        age_s = max(0, int(time.time()) - since_s)
        age = f"{age_s // 60} min {age_s % 60} s" if age_s >= 60 else f"{age_s} s"
        by = f", for {owner['by']}" if owner["by"] else ""
        return f"{owner['work']}, since {clock} ({age}){by}, process {owner['pid']} here"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has only just begun"
