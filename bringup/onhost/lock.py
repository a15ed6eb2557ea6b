"""One run at a time on a host, since a cut connection leaves the work of its run going on."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from bringup.errors import BringupError

LOCK = Path("/run/bringup.lock")


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Hold the host for one build, download or switch.

    Raises:
        BringupError: another run holds it.
    """
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BringupError(
                "another run is at work on this host (perhaps one whose connection was cut); wait for it to end"
            ) from error
        yield
