"""Processes and mounts of throw-away hosts: mounting, starting, finding and ending them."""

import os
import re
import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from bringup.errors import BringupError
from bringup.lab.commands import last_lines, run
from bringup.lab.guest import START_COMMAND
from bringup.lab.machine import overlay_options
from bringup.lab.state import LabHost, LabState

BOOT_LIMIT_S = 60  # a boot to SSH took 2 s on two cores; the rest is for slow disks and several hosts at once
POWEROFF_LIMIT_S = 15  # an idle host powers off in about 1 s; one that serves a model may hang on to its service
KILL_LIMIT_S = 10
_STARTERS = ("systemd-nspawn", "debootstrap")
# Where systemd tracks a container's processes: cgroup v2, and beside it v1's own hierarchy.
_CGROUP_ROOTS = tuple(Path("/sys/fs/cgroup", name) for name in ("", "unified", "systemd"))
_AS_DOCKER = (
    # what nspawn leaves to a container and Docker does not (moby: daemon/pkg/oci/caps/defaults.go)
    "--drop-capability=CAP_AUDIT_CONTROL,CAP_DAC_READ_SEARCH,CAP_IPC_OWNER,CAP_LEASE,CAP_LINUX_IMMUTABLE,CAP_NET_BROADCAST,"
    "CAP_SYS_ADMIN,CAP_SYS_BOOT,CAP_SYS_NICE,CAP_SYS_PTRACE,CAP_SYS_RESOURCE,CAP_SYS_TTY_CONFIG",
    # what its filter of system calls refuses without CAP_SYS_NICE
    "--system-call-filter=~set_mempolicy ~mbind ~get_mempolicy ~migrate_pages ~move_pages",
    # lower than any plan asks for, and as much as vLLM's CPU backend needs
    "--rlimit=NOFILE=16384",
    "--tmpfs=/dev/shm:size=512m,mode=1777",
)
_NSPAWN_PROPAGATE = Path("/run/systemd/nspawn/propagate")  # nspawn makes a folder a host in it, and leaves it when killed
# Moves itself into each cgroup named before `--`, then becomes the program named after it.
_IN_CGROUPS = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@"'


def machine_name(host_folder: Path) -> str:
    """The name under which nspawn runs the host in this folder; it differs between labs in different folders."""
    return f"bringup-{zlib.crc32(os.fsencode(host_folder.parent)):08x}-{host_folder.name}"


def is_up(host: LabHost) -> bool:
    """Whether the host's nspawn runs."""
    processes = psutil.process_iter(["name", "cmdline"])
    return any(
        process.info["name"] == "systemd-nspawn" and str(host.root) in (process.info["cmdline"] or ()) for process in processes
    )


def port_is_free(port: int) -> bool:
    """Whether nothing listens on that port of 127.0.0.1 or of all addresses."""
    with socket.socket() as probe:
        # as sshd does, so that connections of a minute ago do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def mount_root(host: LabHost, base: Path) -> None:
    """Mount the host's root file system, an overlay on `base`, unless it is mounted."""
    if host.root.is_mount():
        return
    folder = host.root.parent
    for layer in ("upper", "work", "root"):
        (folder / layer).mkdir(exist_ok=True)
    options = overlay_options(base, folder / "upper", folder / "work")
    run("mount", "-t", "overlay", "overlay", "-o", options, host.root, failure=f"{host.root} could not be mounted:")


def start(
    host: LabHost, shared: tuple[Path, ...], uv_cache: Path, nested: bool = False, rented: bool = False
) -> "subprocess.Popen[bytes]":
    """Boot the host, whose root is mounted and which is not up; `wait_for_ssh` tells when it is ready.

    `shared` is shown to it read-only at the same paths, `uv_cache` as root's uv cache. A `nested` one can run containers;
    a `rented` one has no systemd and the rights of a Docker container.
    """
    _end(host.root.parent)
    if not port_is_free(host.ssh_port):
        raise BringupError(
            f"Port {host.ssh_port} of 127.0.0.1, which {host.name}'s sshd needs, is in use by another program; "
            f"end that, or make the host anew: `bringup lab down {host.name}`, then `bringup lab up`."
        )
    name = machine_name(host.root.parent)
    command = ["systemd-nspawn", "--settings=no", "-D", str(host.root), "-M", name, f"--hostname={host.name}"]
    command += ["--register=no", "--link-journal=no", "--resolv-conf=replace-host"]
    command += [f"--bind-ro={_escaped(path)}" for path in shared]
    command += [f"--bind={_escaped(uv_cache)}:/root/.cache/uv"]
    environment: dict[str, str] = {}
    if nested:
        containers = host.root.parent / "containers"
        containers.mkdir(exist_ok=True)
        # Podman's own overlays cannot lie on the host's, which is one itself; crun makes keyrings and device filters
        command += [f"--bind={_escaped(containers)}:/var/lib/containers", "--system-call-filter=add_key keyctl bpf"]
        # Quadlet's units need control groups of version 2
        environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
    command += [*_AS_DOCKER, str(START_COMMAND)] if rented else ["-b"]
    if not Path("/run/systemd/system").is_dir():
        # No systemd here makes a scope for the container, and hosts that keep the caller's cgroup share one: their
        # systemds then fail to kill their own services (seen: "Failed to kill control group: Input/output error").
        cgroups = [root / name for root in _CGROUP_ROOTS if (root / "cgroup.procs").is_file()]
        for cgroup in cgroups:
            cgroup.mkdir(exist_ok=True)
        command = ["sh", "-c", _IN_CGROUPS, "sh", *map(str, cgroups), "--", command[0], "--keep-unit", *command[1:]]
    with _console(host).open("wb") as console:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ssh_command(state: LabState, host: LabHost, *options: str) -> list[str]:
    """The ssh command line for root on the host; a remote command may follow it."""
    settings = {
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": f'"{state.known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "PasswordAuthentication": "no",
        "LogLevel": "ERROR",
    }
    command = ["ssh", "-F", "/dev/null", "-i", str(state.key), "-p", str(host.ssh_port)]
    command += [f"-o{name}={value}" for name, value in settings.items()]
    return [*command, *options, "root@127.0.0.1"]


def wait_for_ssh(state: LabState, host: LabHost, nspawn: "subprocess.Popen[bytes]") -> None:
    """Return once a command runs over SSH; raises BringupError with the host's last console lines if that fails."""
    limit = time.monotonic() + BOOT_LIMIT_S
    command = [*ssh_command(state, host, "-oConnectTimeout=2", "-oBatchMode=yes"), "true"]
    while True:
        attempt = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if attempt.returncode == 0:
            return
        if nspawn.poll() is not None:
            what = f"systemd-nspawn ended with exit code {nspawn.returncode} instead of keeping {host.name} up"
            break
        if time.monotonic() > limit:
            what = f"{host.name} did not answer over SSH within {BOOT_LIMIT_S} s ({attempt.stderr.strip()})"
            break
        time.sleep(0.2)
    raise BringupError(f"{what}; its console said last:{last_lines(_console(host).read_text(errors='replace'))}")


def remove_folder(folder: Path) -> None:
    """End every process that works in the folder, unmount everything in it, remove it and the cgroups of its hosts.

    Works on whatever a crash left. Raises BringupError rather than delete through a mount that stays.
    """
    _end(folder)
    for mount in reversed(_mounts_in(folder)):
        if subprocess.run(["umount", mount], capture_output=True).returncode:
            # Somebody's shell stands in it: take it out of the tree, the kernel drops it when they leave.
            run("umount", "--lazy", mount, failure=f"{mount} could not be unmounted:")
    if left := _mounts_in(folder):
        raise BringupError(f"{left[0]} is still mounted; unmount it by hand (`umount {left[0]}`), then try again.")
    if folder.exists():
        shutil.rmtree(folder)
    name = machine_name(folder)
    for root in _CGROUP_ROOTS:
        _remove_cgroup(root / name)
    shutil.rmtree(_NSPAWN_PROPAGATE / name, ignore_errors=True)


def _console(host: LabHost) -> Path:
    return host.root.parent / "console.log"


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:")


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that works in the folder, wherever it came from.

    These are nspawn and debootstrap whose command line names the folder, what runs chrooted into it, and what lives in
    a host's own mount namespace: a host outlives its nspawn if that is killed.
    """
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        proc = Path("/proc", str(process.pid))
        try:
            if (
                (process.info["name"] in _STARTERS and _names_folder(process.info["cmdline"] or (), folder))
                or (proc / "root").readlink().is_relative_to(folder)
                or _root_is_overlay_in((proc / "mountinfo").read_text(), folder)
            ):
                found.append(process)
        except OSError:  # it ended just now, or is a zombie or a kernel thread
            continue
    return found


def _names_folder(arguments: Iterable[str], folder: Path) -> bool:
    return any(Path(argument).is_relative_to(folder) for argument in arguments)


def _root_is_overlay_in(mountinfo: str, folder: Path) -> bool:
    for line in mountinfo.splitlines():
        fields = line.split()
        if fields[4] == "/":  # the mount point; the last field holds the file system's own options
            upper = re.search(r"(?:^|,)upperdir=([^,]*)", fields[-1])
            if upper and Path(upper[1]).is_relative_to(folder):
                return True
    return False


def _end(folder: Path) -> None:
    """Have nspawn power its host off, then kill what is left in the folder."""
    starters = [process for process in _processes_of(folder) if process.info["name"] in _STARTERS]
    for process in starters:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _wait_until_gone(starters, POWEROFF_LIMIT_S)
    rest = _processes_of(folder)
    for process in rest:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    if alive := _wait_until_gone(rest, KILL_LIMIT_S):
        raise BringupError(
            f"Process {alive[0].pid} of {folder} cannot be ended; try again once it is gone, or restart this machine."
        )


def _wait_until_gone(processes: list[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Wait, and return those still alive at the limit; a zombie counts as gone, its parent may never collect it."""
    limit = time.monotonic() + limit_s
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < limit:
        time.sleep(0.05)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _mounts_in(folder: Path) -> list[str]:
    """Mount points in the folder, in the order in which they were mounted."""
    mounts = [partition.mountpoint for partition in psutil.disk_partitions(all=True)]
    return [mount for mount in mounts if Path(mount).is_relative_to(folder)]


def _remove_cgroup(cgroup: Path) -> None:
    if cgroup.is_dir():
        for directory, _, _ in os.walk(cgroup, topdown=False):
            Path(directory).rmdir()
