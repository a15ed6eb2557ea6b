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
            raise BringupError(at_work(_read(LOCK))) from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "since_unix_s": int(time.time()), "work": work, "by": by}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def at_work(content: str, now_unix_s: int | None = None) -> str:
    """Say in words who holds the host.

    Args:
        content: of the lock's file.
        now_unix_s: the host's time, in seconds since 1970; None asks the clock.
    """
    try:
        owner = json.loads(content)
        since_s = int(owner["since_unix_s"])
        clock = datetime.fromtimestamp(since_s, UTC).strftime("%H:%M:%S UTC")
        age_s = max(0, int(time.time() if now_unix_s is None else now_unix_s) - since_s)
        age = f"{age_s // 60} min {age_s % 60} s" if age_s >= 60 else f"{age_s} s"
        by = f", for {owner['by']}" if owner["by"] else ""
        who = f"{owner['work']}, since {clock} ({age}){by}, process {owner['pid']} there"
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError):
        who = "it has only just begun"
    return f"another run is at work on this host: {who}; wait for it to end (a cut connection does not end it)"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
