"""Operating system, firmware and what else surrounds the service."""

from typing import Literal

from bringup.hardware.base import Frozen


class OperatingSystem(Frozen):
    """From /etc/os-release and uname."""

    id: str
    """``debian``, ``ubuntu``, …"""
    version_id: str
    """``12``, ``24.04``; empty on a rolling release."""
    name: str
    """For people: ``Debian GNU/Linux 12 (bookworm)``."""
    kernel: str
    architecture: str
    """As uname says: ``x86_64``."""


class Board(Frozen):
    """The machine as its firmware names it (SMBIOS), serial numbers left out; empty where it does not."""

    vendor: str
    product: str
    board_vendor: str
    board: str
    firmware_version: str
    firmware_date: str


class AptSource(Frozen):
    """One suite of an apt repository, as a paragraph of a deb822 file names it."""

    uri: str
    suite: str
    components: tuple[str, ...] = ()
    signed_by: str = ""
    """Keyring on the host, as the host's own entry names it; empty where it names none."""


class System(Frozen):
    """What surrounds the service. None: it could not be learnt."""

    board: Board | None = None
    kernel_command_line: str | None = None
    boot: Literal["uefi", "bios"] | None = None
    secure_boot: bool | None = None
    lockdown: str | None = None
    """Kernel lockdown: ``none``, ``integrity``, ``confidentiality``."""
    iommu_groups: int | None = None
    """0: no IOMMU is in use."""
    transparent_hugepages: str | None = None
    """``always``, ``madvise``, ``never``."""
    swap_devices: tuple[str, ...] = ()
    time_zone: str | None = None
    clock_synchronized: bool | None = None
    container: str | None = None
    """What the host is a container of (``docker``, ``systemd-nspawn``, ``wsl``…); None on a machine of its own."""
    package_holds: tuple[str, ...] | None = None
    broken_packages: tuple[str, ...] = ()
    """Packages that are unpacked or configured by half."""
    kernel_packages: tuple[str, ...] = ()
    """Installed packages that follow the kernels of a flavour: ``linux-image-generic-hwe-24.04``, ``linux-image-amd64``."""
    distribution_sources: tuple[AptSource, ...] | None = None
    """Where the host gets the distribution's own packages from; None: not asked for, which only a card on Debian makes it."""
    reboot_pending: tuple[str, ...] | None = None
    """Packages that ask for a reboot (``a package`` where none is named); empty where none is pending."""
    unattended_upgrades: bool | None = None
    """Whether packages are upgraded by themselves."""


class Confines(Frozen):
    """What the processes of this host may, which a container's owner decides. None: it could not be learnt."""

    capabilities: int | None = None
    """Set that none of them can exceed, as the kernel's bits (capabilities(7))."""
    open_files: int | None = None
    """Files that a process may open at most; None also where there is no limit."""
    shared_memory_mib: int | None = None
    """Size of /dev/shm."""

    def may(self, capability: int) -> bool:
        """Whether root here has the capability of that number, as far as is known."""
        return self.capabilities is None or bool(self.capabilities >> capability & 1)


class Disk(Frozen):
    """Free space for one folder of ours, measured at its nearest existing parent."""

    path: str
    device: str
    """As df names the file system; equal for folders that share one."""
    free_mib: int
    filesystem: str | None = None
    """``ext2/ext3``, ``xfs``, ``overlayfs``… as stat names it."""
