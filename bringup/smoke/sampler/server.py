"""Finds the processes behind a server's address on this machine."""

import ipaddress
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from bringup.smoke.sampler.processes import Watched

_TUNNELS = ("ssh", "sshd", "kubectl")
"""Programs that listen here for a server elsewhere."""
_CONTAINERS = ("docker-", "cri-", "libpod-")
"""How container engines' cgroups begin."""


class ServerSide(NamedTuple):
    """Where a server runs."""

    local: bool
    owners: tuple[int, ...] = ()
    """Processes that listen on its port."""
    cgroup: Path | None = None
    """Folder of the service's or container's own cgroup; None where it has none."""
    quotas: tuple[Path, ...] = ()
    """Its cgroup for CPU time and those above it: a quota counts where it is set, and a container sees its own as the root."""
    note: str = ""
    """Why its processes cannot be seen."""


def find_server(base_url: str, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> ServerSide:
    """Find who listens behind `base_url`; never an error, since a server can be measured without being seen."""
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not _is_here(parts.hostname or ""):
        return ServerSide(False, note=f"the server runs elsewhere ({parts.hostname}): only this side and its /metrics were sampled")
    try:
        sockets = [found for found in psutil.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
        listening = [found.pid for found in sockets if found.laddr and found.laddr.port == port]
    except (psutil.Error, OSError):
        listening = []
    owners = tuple(sorted({pid for pid in listening if pid is not None}))
    if not owners:
        who = "" if os.geteuid() == 0 else " (another user's processes: run it as root to see them)"
        return ServerSide(True, note=f"no process is seen that listens on port {port}{who}: the server's were not sampled")
    names = {name for pid in owners if (name := _name(pid))}
    if names and names <= set(_TUNNELS):
        return ServerSide(False, note=f"{', '.join(sorted(names))} listens on port {port}: the server runs elsewhere")
    return ServerSide(True, owners, *_cgroups_of(proc / str(owners[0]), cgroups))


def server_processes(side: ServerSide) -> list[Watched]:
    """The server's processes now: those of its cgroup, else the listening ones with their children and vLLM's own parents."""
    pids = set(side.owners)
    if side.cgroup is not None:
        with suppress(OSError, ValueError):
            pids |= {int(pid) for pid in (side.cgroup / "cgroup.procs").read_text().split()}
    for pid in side.owners:
        try:
            process = psutil.Process(pid)
            launcher = process.parent()
            if launcher is not None and "vllm" in " ".join(launcher.cmdline()[:3]).lower():
                process = launcher
            pids |= {process.pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.Error:
            continue
    watched = []
    for pid in sorted(pids - {os.getpid()}):
        title = _title(pid)
        if title is not None:
            watched.append(Watched(pid, title, _role(title, pid in side.owners)))
    return watched


def _is_here(host: str) -> bool:
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    mine = {address.address.partition("%")[0] for all_of in psutil.net_if_addrs().values() for address in all_of}
    return any(str(address) in mine or ipaddress.ip_address(str(address)).is_loopback for address in addresses)


def _cgroups_of(process: Path, cgroups: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """A process's own cgroup in the unified hierarchy, and the folders in which its CPU time may be limited (version 2 or 1)."""
    try:
        lines = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
    except OSError:
        return None, ()
    unified = cgroups if (cgroups / "cgroup.controllers").exists() else cgroups / "unified"
    own: Path | None = None
    quotas: list[Path] = []
    for _, controllers, path in lines:
        below = Path(path.lstrip("/"))
        if not controllers:
            # a login's cgroup would hold others too
            is_own = (below.suffix == ".service" and not below.name.startswith("user@")) or below.name.startswith(_CONTAINERS)
            own = unified / below if is_own else None
            quotas += [unified / folder for folder in (below, *below.parents)]
        elif "cpu" in controllers.split(","):
            quotas += [cgroups / controllers / folder for folder in (below, *below.parents)]
    return own, tuple(quotas)


def _name(pid: int) -> str | None:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None


def _title(pid: int) -> str | None:
    """What a process calls itself: vLLM's give themselves titles (``VLLM::EngineCore``), others have a program's name."""
    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        if words and words[0].startswith("VLLM::"):
            return words[0].strip()
        is_vllm = any(word.rsplit("/", 1)[-1].split(".")[0] == "vllm" for word in words[1:4])
        return "vllm" if is_vllm else process.name()
    except psutil.Error:
        return None


def _role(title: str, listens: bool) -> str:
    if "EngineCore" in title:
        return "engine"
    if "Worker" in title:
        return "worker"
    return "api-server" if listens or "APIServer" in title or "ApiServer" in title else "server"
