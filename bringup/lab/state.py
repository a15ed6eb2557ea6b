"""The lab's state folder: where it is, which hosts it has, and the lock that keeps two lab commands apart."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bringup.errors import BringupError


class LabBusyError(BringupError):
    """Another lab command holds the folder."""


class LabHost(BaseModel):
    """One throw-away host; it is reached at 127.0.0.1."""

    model_config = ConfigDict(frozen=True)

    name: str
    ssh_port: int = Field(ge=1, le=65535)
    service_port: int = Field(ge=1, le=65535, description="set aside for the served model, as hosts share the network")
    root: Path = Field(description="root file system, as seen from this machine while the host is up")
    host_key: str = Field(description="public key of the host's sshd")


class LabState(BaseModel):
    """The hosts of one lab, up or not."""

    model_config = ConfigDict(frozen=True)

    directory: Path = Field(exclude=True)
    hosts: tuple[LabHost, ...] = ()
    release: str | None = Field(None, description="codename of the hosts' release; None is this machine's own")
    rented: bool = Field(False, description="whether the hosts are like rented containers: no systemd, few rights")
    nested: bool = Field(False, description="whether the hosts may run containers of their own (Podman)")

    @property
    def key(self) -> Path:
        """Private SSH key of root on every host."""
        return self.directory / "key"

    @property
    def known_hosts(self) -> Path:
        """OpenSSH known_hosts file with the key of every host."""
        return self.directory / "known_hosts"

    def host(self, name: str) -> LabHost:
        """The host of that name; raises BringupError, naming those that exist."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise BringupError(f"There is no lab host {name}; {known_names([host.name for host in self.hosts])}.")


def known_names(names: list[str]) -> str:
    """The part of an error message that says which hosts there are."""
    return f"there are: {', '.join(names)}" if names else "there is none yet (`bringup lab up` starts one)"


def lab_dir() -> Path:
    """The state folder: BRINGUP_LAB_DIR, else /var/lib/bringup-lab. It need not exist."""
    return Path(os.environ.get("BRINGUP_LAB_DIR") or "/var/lib/bringup-lab").resolve()


def base_dir(directory: Path) -> Path:
    """Where base root file systems are kept: BRINGUP_LAB_BASE_DIR, else the state folder."""
    return Path(os.environ.get("BRINGUP_LAB_BASE_DIR") or directory).resolve()


def read_state(directory: Path) -> LabState:
    """The state of the lab in `directory`, without hosts if there is no lab; raises BringupError if it is torn."""
    path = directory / "state.json"
    try:
        return LabState.model_validate({**json.loads(path.read_bytes()), "directory": directory})
    except FileNotFoundError:
        return LabState(directory=directory)
    except PermissionError as error:
        raise BringupError(f"{path} is for root alone; run this as root or with sudo.") from error
    except (OSError, TypeError, ValueError) as error:  # pydantic's and json's errors are ValueErrors
        raise BringupError(f"{path} cannot be read ({type(error).__name__}); `bringup lab down` clears it.") from error


def write_state(state: LabState) -> None:
    """Save the state and the known_hosts file that follows from it; a reader sees the old or the new, never a half."""
    write_atomically(state.known_hosts, known_hosts(state))
    write_atomically(state.directory / "state.json", state.model_dump_json(indent=2) + "\n")


def known_hosts(state: LabState) -> str:
    """The text of the OpenSSH known_hosts file for these hosts."""
    return "".join(f"[127.0.0.1]:{host.ssh_port} {host.host_key}\n" for host in state.hosts)


def write_atomically(path: Path, text: str) -> None:
    """Replace the file in one step; it is readable by its owner alone."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def locked(directory: Path, name: str = "lock") -> Iterator[None]:
    """Hold the folder (made if needed, mode 0700) for one lab command; raises LabBusyError while another holds it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / name).open("a+")
    except OSError as error:
        raise BringupError(
            f"The lab's folder {directory} cannot be used ({error.strerror}); run as root, or name another folder "
            "in BRINGUP_LAB_DIR."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabBusyError(f"Another lab command is at work in {directory}; wait until it has ended, then try again.") from None
        yield
