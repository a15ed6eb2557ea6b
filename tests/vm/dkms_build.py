"""Debian's own NVIDIA modules for the VMs' kernels, built by DKMS on a throw-away host, once, and kept beside the image.

The emulated CPU would need most of an hour for each kernel. DKMS itself has the way to take modules along that were built
elsewhere, an archive that the package's own maintainer script looks for; all else of an installation happens in the VM.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from deployment import Deployment

from bringup.lab import hosts
from bringup.lab.state import base_dir, lab_dir

_MODULE = "nvidia-current"  # DKMS' name of the modules of Debian's nvidia-kernel-dkms
_NOT_LATER = "/etc/dkms/no-autoinstall"
_BUILD_LIMIT_S = 3600  # one kernel takes three minutes on two idle cores, and took 12 beside four other test runs


@dataclass(frozen=True)
class Build:
    """Modules of one version of the driver for some kernels."""

    version: str
    kernels: tuple[str, ...]
    archive: Path
    """Of the first kernel, as `dkms mktarball` makes it: DKMS 3.0 takes no more than one along."""
    other_archive: Path
    """The folder of the second in DKMS' tree."""

    @property
    def place(self) -> str:
        """Where nvidia-kernel-dkms looks for the archive on a host."""
        return f"/usr/share/{_MODULE}-dkms/{_MODULE}-{self.version}.dkms.tar.gz"

    @property
    def tree(self) -> str:
        """Where DKMS keeps what it built; the other archive belongs there before the kernel comes."""
        return f"/var/lib/dkms/{_MODULE}/{self.version}"


def ensure_build(kernel: str, directory: Path) -> Build:
    """Build for `kernel` and for the newest other one that Debian has, unless they are there (five minutes).

    Args:
        kernel: the release of the image's kernel.
        directory: an empty folder for the host.
    """
    hosts.up(1, directory)
    try:
        return _build(Deployment(directory, directory / "reports"), kernel)
    finally:
        hosts.down(directory=directory)


def _build(host: Deployment, kernel: str) -> Build:
    host.ssh(
        "sed -Ei '/^(Components:|deb )/s/ main( |$)/ main contrib non-free non-free-firmware /' "
        "$(ls /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null) && apt-get -qq update"
    )
    policy = host.ssh("apt-cache policy nvidia-kernel-dkms | sed -n 's/^  Candidate: //p'").strip()
    version = policy.partition("-")[0]
    found = host.ssh("apt-cache pkgnames linux-headers- | grep -E '^linux-headers-[0-9.]+-[0-9]+-amd64$' | sort -V").split()
    others = [name.removeprefix("linux-headers-") for name in found if name != f"linux-headers-{kernel}"]
    kernels = (kernel, others[-1])
    kept = base_dir(lab_dir())
    build = Build(version, kernels, *(kept / f"nvidia-{version}-{name}.tar.gz" for name in kernels))
    archives = dict(zip(kernels, (build.archive, build.other_archive), strict=True))
    for old in set(kept.glob("nvidia-*.tar.gz")) - set(archives.values()):
        old.unlink()
    missing = [name for name, archive in archives.items() if not archive.exists()]
    if missing:
        headers = " ".join(f"linux-headers-{name}" for name in missing)
        host.ssh(
            f"export DEBIAN_FRONTEND=noninteractive; mkdir -p /etc/dkms && touch {_NOT_LATER} && "
            f"apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-unsafe-io {headers} nvidia-kernel-dkms && "
            f"{{ dkms status | grep -q {_MODULE} || dkms add {_MODULE}/{version}; }}"
        )
    made = f"{build.tree}/built.tar.gz"
    for name in missing:
        host.ssh(f"dkms build {_MODULE}/{version} -k {name}", limit_s=_BUILD_LIMIT_S)
        if name == kernel:
            host.ssh(f"dkms mktarball {_MODULE}/{version} -k {name} --archive x.tar.gz && mv {build.tree}/tarball/x.tar.gz {made}")
        else:
            host.ssh(f"tar -C {build.tree} -czf {made} {name}")
        partial = archives[name].with_suffix(".partial")
        shutil.copy(host.host().root / made.lstrip("/"), partial)
        partial.rename(archives[name])
    return build
