"""Throw-away hosts: bringing them up, taking them down."""

import itertools
import random
import subprocess
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from bringup.errors import BringupError
from bringup.lab import container, guest
from bringup.lab.base import ensure_base, remove_base, remove_unfinished
from bringup.lab.commands import step
from bringup.lab.machine import require_hosts, require_space
from bringup.lab.state import LabHost, LabState, known_names, lab_dir, locked, read_state, write_state

HOST_MIB = 6 * 1024  # measured: 2.2 GiB of engine, 0.3 GiB of model; the rest for caches and for copies while installing
_PORTS = range(20000, 30000)  # registered, seldom used, and below the ports that Linux gives to clients (32768 and up)


def up(
    count: int = 1,
    directory: Path | None = None,
    console: Console | None = None,
    release: str | None = None,
    nested: bool = False,
    rented: bool = False,
) -> LabState:
    """See to it that every known host, and at least `count`, is up and answers over SSH; return the lab's state.

    Hosts that are up are left alone; one that died is started again with its files. A lab without hosts gets the `release`
    (codename; None is this machine's own), and whether its hosts may run containers (`nested`) or are like rented containers
    themselves, without systemd (`rented`); one with hosts keeps what it has.
    """
    directory, console = directory or lab_dir(), console or Console(stderr=True)
    require_hosts(directory)
    with locked(directory):
        state = _known_state(directory)
        _remove_unknown(state, console)
        if not state.hosts:
            state = state.model_copy(update={"release": release, "nested": nested, "rented": rented})
        elif (release, nested, rented) not in ((None, False, False), (state.release, state.nested, state.rented)):
            raise BringupError(
                "A lab's hosts are alike: take them down first (`bringup lab down`) or name another BRINGUP_LAB_DIR."
            )
        new_names = _new_names(state, count)
        base = ensure_base(directory, console, state.release)
        require_space(directory, HOST_MIB * len(new_names), f"{', '.join(new_names)} with an engine and a model")
        stopped = [host for host in state.hosts if not container.is_up(host)]
        if not stopped and not new_names:
            return state
        try:
            with step(console, f"Starting {', '.join([*(host.name for host in stopped), *new_names])}"):
                for name in new_names:
                    state = _add_host(state, name, base)
                _start([host for host in state.hosts if host in stopped or host.name in new_names], state, base)
        except BaseException:
            # A host that never worked has nothing worth keeping; its console's last lines are in the error.
            _remove(new_names, state)
            raise
        return state


def down(
    names: tuple[str, ...] = (), directory: Path | None = None, base: bool = False, console: Console | None = None
) -> tuple[str, ...]:
    """Remove the named hosts, or all and whatever a crash left of others; return the names of what was removed.

    With `base` the cached base root file systems go too. Raises BringupError for a name that is not there.
    """
    directory, console = directory or lab_dir(), console or Console(stderr=True)
    if not directory.is_dir():
        if names:
            raise BringupError(f"There is no lab host {names[0]}; {known_names([])}.")
        return ()
    with locked(directory):
        state = _known_state(directory)
        present = sorted({*(host.name for host in state.hosts), *_folder_names(directory)})
        for name in names:
            if name not in present:
                raise BringupError(f"There is no lab host {name}; {known_names(present)}.")
        going = names or tuple(present)
        with step(console, f"Removing {', '.join(going)}") if going else nullcontext():
            _remove(going, state)
        if base:
            remove_base(directory)
        elif not names:
            remove_unfinished(directory)
        return going


def _known_state(directory: Path) -> LabState:
    """The state, or one without hosts where it is torn: what is on disk then counts as left over."""
    try:
        return read_state(directory)
    except BringupError:
        return LabState(directory=directory)


def _folder_names(directory: Path) -> list[str]:
    hosts = directory / "hosts"
    return sorted(path.name for path in hosts.iterdir()) if hosts.is_dir() else []


def _remove_unknown(state: LabState, console: Console) -> None:
    left_over = sorted(set(_folder_names(state.directory)) - {host.name for host in state.hosts})
    if left_over:
        with step(console, f"Removing what an earlier command left of {', '.join(left_over)}"):
            _remove(left_over, state)


def _remove(names: tuple[str, ...] | list[str], state: LabState) -> None:
    """Remove these hosts, known or not; with the last of them also what runs or is mounted below `hosts` for no known reason."""
    for name in names:
        container.remove_folder(state.directory / "hosts" / name)
    if not _folder_names(state.directory):
        container.remove_folder(state.directory / "hosts")
    write_state(state.model_copy(update={"hosts": tuple(host for host in state.hosts if host.name not in names)}))


def _new_names(state: LabState, count: int) -> list[str]:
    taken = {host.name for host in state.hosts}
    free = (name for number in itertools.count(1) if (name := f"lab{number}") not in taken)
    return list(itertools.islice(free, max(0, count - len(taken))))


def _add_host(state: LabState, name: str, base: Path) -> LabState:
    """Make the host's folder, keys and files; return the saved state with it."""
    folder = state.directory / "hosts" / name
    folder.mkdir(mode=0o700, parents=True)
    user_key = guest.make_key(state.key, "bringup-lab")
    ports = _free_ports(2, {port for host in state.hosts for port in (host.ssh_port, host.service_port)})
    host = LabHost(
        name=name,
        ssh_port=ports[0],
        service_port=ports[1],
        root=folder / "root",
        host_key=guest.make_key(folder / "host_key", name),
    )
    container.mount_root(host, base)
    guest.configure(host, folder / "host_key", user_key, state.release)
    if state.rented:
        guest.take_systemd_away(host.root)
    state = state.model_copy(update={"hosts": (*state.hosts, host)})
    write_state(state)
    return state


def _start(hosts: list[LabHost], state: LabState, base: Path) -> None:
    """Boot the hosts side by side and wait for all of them."""
    uv_cache = state.directory / "cache/uv"
    uv_cache.mkdir(parents=True, exist_ok=True)
    shared = guest.shared_paths()
    started: list[tuple[LabHost, subprocess.Popen[bytes]]] = []
    for host in hosts:
        container.mount_root(host, base)
        started.append((host, container.start(host, shared, uv_cache, state.nested, state.rented)))
    for host, nspawn in started:
        container.wait_for_ssh(state, host, nspawn)


def _free_ports(count: int, taken: set[int]) -> list[int]:
    shuffled = random.sample(_PORTS, len(_PORTS))  # at random, so that two labs seldom want the same
    free = (port for port in shuffled if port not in taken and container.port_is_free(port))
    return list(itertools.islice(free, count))
