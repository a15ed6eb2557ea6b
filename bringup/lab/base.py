"""The base: a bare root file system with systemd and sshd, built once, on which all hosts are overlays."""

import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
from rich.console import Console

from bringup.errors import BringupError
from bringup.lab import apt
from bringup.lab.commands import run, step
from bringup.lab.container import remove_folder
from bringup.lab.machine import require_space
from bringup.lab.state import LabBusyError, base_dir, locked

BASE_MIB = 1024  # measured: 324 MiB when done, and the packages' archives and lists while it is built
_PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,ca-certificates,iproute2,kmod,procps"
# What the packages' installation wrote and each host must have of its own, or fetches anew.
_NOT_SHARED = ("etc/machine-id", "var/lib/dbus/machine-id", "etc/ssh/ssh_host_*", "etc/hostname", "etc/resolv.conf")
_CACHES = ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*", "var/log/*.log")


def ensure_base(directory: Path, console: Console, release: str | None = None) -> Path:
    """The base of the lab in `directory`, built now if there is none (about a minute).

    `release` is a codename of this machine's distribution (``trixie``); None takes this machine's own.
    """
    machine = platform.freedesktop_os_release()
    codename = release or machine.get("VERSION_CODENAME", "")
    bases = base_dir(directory)
    base = bases / f"base-{codename}"
    if base.is_dir():
        return base
    repository = apt.choose_repository(apt.machine_index_targets(), machine.get("VERSION_CODENAME", ""), machine["ID"])
    repository = repository._replace(suite=codename)
    with locked(bases, "base.lock"):
        if base.is_dir():  # another lab has just built it
            return base
        require_space(bases, BASE_MIB, "the base of all hosts")
        partial = bases / f"{base.name}.partial"
        remove_folder(partial)
        with step(console, f"Building the base of all hosts: {machine['ID']} {codename} from {repository.uri}") as show:
            try:
                _debootstrap(repository, partial, show)
            except BaseException:
                remove_folder(partial)
                raise
        partial.rename(base)
    return base


def remove_unfinished(directory: Path) -> None:
    """Remove what an interrupted build of a base left, unless a build is going on."""
    for partial in base_dir(directory).glob("base-*.partial"):
        with suppress(LabBusyError), locked(partial.parent, "base.lock"):
            remove_folder(partial)


def remove_base(directory: Path) -> list[Path]:
    """Remove the cached bases and return them; raises BringupError while a host of any lab is mounted on one."""
    bases = sorted(path for path in base_dir(directory).glob("base-*") if path.is_dir())
    for base in bases:
        for partition in psutil.disk_partitions(all=True):
            if f"lowerdir={base}," in f"{partition.opts},":
                raise BringupError(f"{base} is in use by {partition.mountpoint}; take that host down first.")
    for base in bases:
        remove_folder(base)
    return bases


def _debootstrap(repository: apt.Repository, target: Path, show: Callable[[str], None]) -> None:
    run(
        "debootstrap",
        "--variant=minbase",
        f"--include={_PACKAGES}",
        f"--components={','.join(repository.components)}",
        repository.suite,
        target,
        repository.uri,
        env=apt.proxy_environment(apt.machine_apt_settings()),
        on_line=lambda line: show(line.removeprefix("I: ")),
        failure=(
            f"debootstrap could not build {repository.suite} from {repository.uri}; see whether `apt-get update` works "
            "on this machine, mend its package sources if not, then try again:"
        ),
    )
    for pattern in (*_NOT_SHARED, *_CACHES):
        for path in target.glob(pattern):
            path.unlink()
