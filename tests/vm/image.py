"""The VMs' disk: the lab's base with a kernel, built once and kept beside it; every VM writes to an overlay of its own."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bringup.lab import apt, guest
from bringup.lab.base import ensure_base
from bringup.lab.commands import run, step, tool_path
from bringup.lab.container import machine_name, remove_folder
from bringup.lab.machine import require_space, why_not
from bringup.lab.state import LabHost, base_dir, lab_dir

# The kernel of real machines: linux-image-cloud-amd64 has no DRM and with it no nouveau, no EDAC and no IPMI. It costs 70 MB of
# download instead of 27. DKMS finds its headers in linux-headers-amd64.
_KERNEL = "linux-image-amd64"
# irqbalance waits for a test that wants it; apt in a VM would take a minute for both
_PACKAGES = (_KERNEL, "initramfs-tools", "zstd", "dmidecode", "python3", "irqbalance")
_DISK_SIZE = "8G"  # sparse; 0.7 GB are in use
_BUILD_MIB = 3 * 1024  # measured: 0.7 GiB of disk, 0.6 GiB of the root it is made from, and the packages' archives and lists
_PACKAGE_OF_TOOL = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "setpriv": "util-linux",
}
# Fixed addresses of QEMU's user network: this machine's loopback, and a forwarder to its name server
_LOOPBACK, _NAME_SERVER = "10.0.2.2", "10.0.2.3"
# They would compete with a test for the CPU and for apt's lock.
_MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer")
_FETCHED = ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*", "var/log/apt/*")


@dataclass(frozen=True)
class Image:
    """What VMs are started from; nobody writes to it."""

    folder: Path

    @property
    def disk(self) -> Path:
        """Raw disk of one ext4 file system, without a partition table or a boot loader."""
        return self.folder / "disk.raw"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.img"

    @property
    def key(self) -> Path:
        """Private SSH key that root of every VM accepts."""
        return self.folder / "key"

    @property
    def host_key(self) -> str:
        """Public key of every VM's sshd."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])


def why_no_vm() -> str | None:
    """The reason that no VM can be started here, in one sentence with the way out; None if one can."""
    if reason := why_not(base_dir(lab_dir())):
        return reason
    missing = sorted({package for tool, package in _PACKAGE_OF_TOOL.items() if not shutil.which(tool, path=tool_path())})
    if missing:
        return f"VMs need programs that are not installed here; run `apt-get install {' '.join(missing)}`."
    if platform.machine() != "x86_64" or platform.freedesktop_os_release()["ID"] != "debian":
        return "The VMs' image is made from this machine's own packages, and only Debian's on amd64 are known; run this there."
    return None


def ensure_image(console: Console) -> Image:
    """The image for this machine's release and package sources, built now if there is none (about half a minute)."""
    directory = lab_dir()
    bases = base_dir(directory)
    base = ensure_base(directory, console)
    name = f"{base.name.replace('base', 'vm', 1)}-{_recipe_digest()}"
    with _only_one(bases / "vm.lock"):
        image = Image(bases / name)
        if image.folder.is_dir():
            return image
        for old in bases.glob("vm-*-*"):  # of another recipe, or unfinished
            remove_folder(old)
        require_space(bases, _BUILD_MIB, "the image of the VMs")
        partial = Image(bases / f"{name}.partial")
        with step(console, f"Building the image of the VMs from {base.name} and {_KERNEL}"):
            try:
                _build(partial, base)
            except BaseException:
                remove_folder(partial.folder)
                raise
        partial.folder.rename(image.folder)
        return image


def reachable_from_vm(text: str) -> str:
    """The text with the addresses of servers on this machine's loopback as a VM sees them."""
    return re.sub(r"(?<=[/@])(?:localhost|127\.0\.0\.1)(?![\w.-])", _LOOPBACK, text)


def _recipe_digest() -> str:
    """Of all that makes an image what it is, besides the packages' versions: this file and the machine's ways to packages."""
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    parts = [
        Path(__file__).read_bytes(),
        repr((apt.machine_index_targets(), sorted(apt.machine_apt_settings().items()))).encode(),
        bundle.read_bytes() if bundle.is_file() else b"",
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Wait until no other test run builds an image."""
    with lock.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(image: Image, base: Path) -> None:
    image.folder.mkdir(mode=0o700)
    root = image.folder / "root"
    run("cp", "-a", "--reflink=auto", base, root, failure=f"{base} could not be copied:")
    _configure(root, guest.make_key(image.key, "bringup-vm"), guest.make_key(image.folder / "host_key", "bringup-vm"))
    _install(root)
    for pattern in _FETCHED:
        for path in root.glob(pattern):
            path.unlink()
    _adapt_to_user_network(root)
    shutil.copy((root / "vmlinuz").parent / (root / "vmlinuz").readlink(), image.kernel)
    shutil.copy((root / "initrd.img").parent / (root / "initrd.img").readlink(), image.initrd)
    command = ("mke2fs", "-q", "-t", "ext4", "-d", root, image.disk, _DISK_SIZE)
    run(*command, failure="The file system of the VMs could not be made:")
    remove_folder(root)


def _configure(root: Path, user_key: str, host_key: str) -> None:
    """Make the copy of the base a host that is reached over SSH and that gets its packages as this machine does."""
    apt.copy_configuration(root, apt.machine_apt_settings())
    host = LabHost(name="vm", ssh_port=22, service_port=8000, root=root, host_key=host_key)
    files = guest.host_files(host, user_key, dict(os.environ)) | {
        "etc/ssh/sshd_config.d/lab.conf": (
            "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\n"
        ),
        # Empty: each VM makes its own, yet counts its boot as no first boot, which would enable all units (ssh.socket for one).
        "etc/machine-id": "",
        "etc/systemd/network/80-dhcp.network": "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\n",
        # A tenth of an initrd for all hardware, which the emulated CPU would have to unpack at every boot
        # at the least compression, since tests have it made anew a dozen times
        "etc/initramfs-tools/conf.d/vm": "MODULES=list\nCOMPRESSLEVEL=1\n",
        "usr/share/initramfs-tools/modules.d/vm": "virtio_pci\nvirtio_blk\next4\n",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(mode=0o700 if path.startswith("root/") else 0o755, parents=True, exist_ok=True)
        (root / path).write_text(text)
    sshd_key = root / "etc/ssh/ssh_host_ed25519_key"
    sshd_key.touch(mode=0o600)
    sshd_key.write_bytes((root.parent / "host_key").read_bytes())
    guest.trust_what_the_machine_trusts(root)


def _install(root: Path) -> None:
    """Install the kernel in a container, which has /proc and this machine's network, and leaves no mounts when it is killed."""
    name = machine_name(root)  # `remove_folder` knows it by that
    command = ["systemd-nspawn", "--settings=no", "--quiet", "-D", str(root), "-M", name, "--register=no", "--keep-unit", "--pipe"]
    command += ["--resolv-conf=replace-host", "--link-journal=no", "--setenv=DEBIAN_FRONTEND=noninteractive"]
    command += [f"--bind-ro={path}" for path in guest.shared_paths()]
    # what an SSH session of a lab host would have from PAM
    command += [f"--setenv={line}" for line in (root / "etc/environment").read_text().splitlines()]
    script = f"apt-get update -qq && apt-get upgrade -y -qq && apt-get install -y -qq --no-install-recommends {' '.join(_PACKAGES)}"
    run(*command, "sh", "-c", script, failure="The kernel of the VMs could not be installed:")


def _adapt_to_user_network(root: Path) -> None:
    """Replace what held in the container: this machine's network. Package folders on this machine's disk are not there in a VM."""
    sources = [*(root / "etc/apt").glob("sources.list*"), *(root / "etc/apt/sources.list.d").iterdir()]
    for path in (*sources, root / "etc/apt/apt.conf.d/90machine", root / "etc/environment"):
        if path.is_file():
            path.write_text(reachable_from_vm(path.read_text()))
    resolv_conf = root / "etc/resolv.conf"
    resolv_conf.unlink(missing_ok=True)
    resolv_conf.write_text(f"nameserver {_NAME_SERVER}\n")
    systemctl = ("systemctl", f"--root={root}", "--quiet")
    run(*systemctl, "enable", "systemd-networkd.service", "ssh.service", failure="The VMs' units could not be enabled:")
    run(*systemctl, "disable", "irqbalance.service", failure="The VMs' irqbalance could not be disabled:")
    run(*systemctl, "mask", "ssh.socket", *_MASKED, failure="The VMs' units could not be masked:")
