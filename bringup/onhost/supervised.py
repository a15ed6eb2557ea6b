"""What the supervised server's keeper (keeper.py) tells others of it, by files in /run/bringup.

A container's /run may outlive the container's restart, so that what is told counts for the start of process 1 in which it was
written alone.
"""

import contextlib
import fcntl
import json
import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bringup.onhost.files import read, staged, stat_fields
from bringup.onhost.reading import session_of

FOLDER = Path("/run/bringup")
USER = "vllm"


@dataclass(frozen=True)
class Told:
    """How the server is."""

    state: str
    """As systemd's ActiveState: ``activating``, ``active``, ``deactivating``, ``inactive``, ``failed``."""
    result: str = ""
    """Why it ended last, in a few words."""
    main_pid: int | None = None
    session: int | None = None
    """Session that all of the server's processes are in, and no other."""
    boot: str = ""


def boot() -> str:
    """Name this start of the container, or of the machine."""
    fields = stat_fields(Path("/proc/1"))
    return f"{read(Path('/proc/sys/kernel/random/boot_id')).strip()} {fields[19] if len(fields) > 19 else ''}"


def tell(told: Told) -> None:
    """Replace what is told."""
    path = FOLDER / "service.json"
    staged(path).write_text(json.dumps(asdict(told)))
    staged(path).replace(path)


def told() -> Told:
    """Return what was told last in this start of the container; ``inactive`` where nothing was."""
    try:
        last = Told(**json.loads((FOLDER / "service.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Told("inactive")
    return last if last.boot == boot() else Told("inactive")


class Starts:
    """When the server was started, in a row: since somebody started it, or since it was last found sound.

    By the clock that counts from the machine's boot, which nobody can set.
    """

    def __init__(self) -> None:
        """Nothing is read before it is asked for."""
        self.path = FOLDER / "starts.json"

    def seconds(self) -> list[float]:
        """Times of starts, by `time.monotonic`."""
        try:
            said = json.loads(self.path.read_text())
            return [float(start_s) for start_s in said["starts_s"]] if said["boot"] == boot() else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def add(self) -> None:
        """One more, now."""
        starts = [*self.seconds(), time.monotonic()]
        staged(self.path).write_text(json.dumps({"boot": boot(), "starts_s": starts}))
        staged(self.path).replace(self.path)

    def forget(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock_file() -> Iterator[int]:
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    file = os.open(FOLDER / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def keeping() -> Iterator[bool]:
    """Be the one keeper, as long as this lasts; False while another one is.

    The kernel's lock goes with the process, so that none is left over.
    """
    with _lock_file() as file:
        yield _locked(file)


def is_kept() -> bool:
    """Whether a keeper is at work."""
    with _lock_file() as file:
        return not _locked(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_of(pid: str, session: int | None) -> bool:
    """Whether a process is one of the server's: in its session, and its user's."""
    folder = Path("/proc", pid)
    if session is None or session_of(folder) != session:
        return False
    try:
        # the folder's owner is root for a process that has just become another user
        return f"\nUid:\t{pwd.getpwnam(USER).pw_uid}\t" in read(folder / "status")
    except KeyError:
        return False


def processes_of(session: int | None) -> list[int]:
    """The server's processes."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if is_of(folder.name, session)]
