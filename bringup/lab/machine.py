"""What this machine lets a lab do, found out cheaply and without leaving anything behind."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bringup.errors import BringupError
from bringup.lab.commands import tool_path
from bringup.lab.state import lab_dir

_PACKAGE_OF_TOOL = {  # Debian and Ubuntu
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "apt-get": "apt",
    "unshare": "util-linux",
    "mount": "mount",
}


def why_not(directory: Path | None = None) -> str | None:
    """The reason that no throw-away host can be started here, in one sentence with the way out; None if one can.

    It tries what a host needs (namespaces, an overlay in the state folder's file system) in namespaces of its own.
    """
    directory = directory or lab_dir()
    if sys.platform != "linux":
        return "Throw-away hosts need Linux; run this on a Debian or Ubuntu machine."
    if os.geteuid() != 0:
        return "Throw-away hosts need root rights; run this as root or with sudo."
    missing = sorted({package for tool, package in _PACKAGE_OF_TOOL.items() if not shutil.which(tool, path=tool_path())})
    if missing:
        return f"Throw-away hosts need programs that are not installed here; run `apt-get install {' '.join(missing)}`."
    if refusal := _refusal("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "true"):
        return (
            f"This machine gives root no namespaces of its own ({refusal}), as in an unprivileged container; "
            "run this on a machine or VM, or in a privileged container."
        )
    try:
        refusal = _overlay_refusal(_nearest_existing(directory))
    except OSError as error:
        return f"{directory} cannot be made ({error.strerror}); name a folder on ext4 or xfs in BRINGUP_LAB_DIR."
    if refusal:
        return (
            f"overlayfs cannot be mounted on the file system of {directory} ({refusal}); "
            "name a folder on ext4 or xfs in BRINGUP_LAB_DIR, or run this where root may mount."
        )
    return None


def require_hosts(directory: Path) -> None:
    """Raise BringupError with the reason if no host can be started here."""
    if reason := why_not(directory):
        raise BringupError(reason)


def require_space(directory: Path, needed_mib: int, purpose: str) -> None:
    """Raise BringupError if the file system of `directory` has less than `needed_mib` free."""
    free_mib = shutil.disk_usage(_nearest_existing(directory)).free // 2**20
    if free_mib < needed_mib:
        raise BringupError(
            f"{directory} has {free_mib} MiB free, and {purpose} needs about {needed_mib} MiB; "
            "free some space, or name a folder on a larger disk in BRINGUP_LAB_DIR."
        )


def overlay_options(lower: Path, upper: Path, work: Path) -> str:
    """The mount options of an overlay of these layers."""
    return f"lowerdir={lower},upperdir={upper},workdir={work}"


def _overlay_refusal(folder: Path) -> str | None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".bringup-try-") as name:
        lower, upper, work, root = (Path(name, layer) for layer in ("lower", "upper", "work", "root"))
        for layer in (lower, upper, work, root):
            layer.mkdir()
        # The mount lives in the mount namespace of this one command and goes with it.
        mount = ("mount", "-t", "overlay", "overlay", "-o", overlay_options(lower, upper, work), str(root))
        return _refusal("unshare", "--mount", *mount)


def _refusal(*command: str) -> str | None:
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if finished.returncode == 0:
        return None
    return finished.stderr.strip().splitlines()[0] if finished.stderr.strip() else f"exit code {finished.returncode}"


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
