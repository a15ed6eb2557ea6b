"""Operating system, firmware, clock and what else surrounds the service."""

from typing import Literal, cast

from bringup.hardware import AptSource, Board, Confines, Disk, OperatingSystem, System
from bringup.probe.nvidia import parse_broken_packages, parse_kernel_packages
from bringup.probe.sections import key_values

_CONTAINERS = (
    "docker",
    "podman",
    "lxc",
    "lxc-libvirt",
    "systemd-nspawn",
    "rkt",
    "openvz",
    "proot",
    "pouch",
    "wsl",
    "container-other",
)
"""As systemd-detect-virt calls them."""


def parse_operating_system(os_release: str, uname: str) -> OperatingSystem:
    """Combine /etc/os-release with the lines of `uname -r` and `uname -m`."""
    release = key_values(os_release)
    words = uname.split()
    return OperatingSystem(
        id=release.get("ID", "unknown"),
        version_id=release.get("VERSION_ID", ""),
        name=release.get("PRETTY_NAME", "unknown"),
        kernel=words[0] if words else "unknown",
        architecture=words[-1] if words else "unknown",
    )


def parse_virtualization(text: str, board: str, kernel: str) -> tuple[str, str | None]:
    """What this host runs in, innermost first (``none`` on bare metal), and the container it is, if any.

    Without systemd-detect-virt it is told by the files that container engines leave, the kernel's name and the firmware's maker.
    """
    said = key_values(text)
    detected = said.get("detected", "")
    container = said.get("container", "") or detected
    if container not in _CONTAINERS:
        container = said.get("marker", "") or ("wsl" if "microsoft" in kernel.lower() else "")
        if not container and said.get("other") == "yes":
            container = "container-other"
    if container:
        return container, container
    if detected:
        return detected, None
    maker = " ".join(key_values(board).values()).lower()
    known = {"qemu": "qemu", "vmware": "vmware", "virtual machine": "microsoft", "virtualbox": "oracle", "xen": "xen"}
    known |= {"amazon ec2": "amazon", "google": "google", "kvm": "kvm"}
    guess = next((name for word, name in known.items() if word in maker), None)
    if said.get("hypervisor") == "yes":
        return guess or "vm-other", None
    return "none" if "hypervisor" in text or maker.strip() else "unknown", None


def parse_board(text: str) -> Board | None:
    """Parse ``name=value`` lines of /sys/class/dmi/id; None where the firmware names nothing."""
    said = key_values(text)
    if not any(said.values()):
        return None
    return Board(
        vendor=said.get("sys_vendor", ""),
        product=said.get("product_name", ""),
        board_vendor=said.get("board_vendor", ""),
        board=said.get("board_name", ""),
        firmware_version=said.get("bios_version", ""),
        firmware_date=said.get("bios_date", ""),
    )


def _bracketed(text: str) -> str | None:
    """The chosen word of ``always [madvise] never``; the word itself where it stands alone."""
    words = text.split()
    chosen = next((word[1:-1] for word in words if word.startswith("[") and word.endswith("]")), None)
    return chosen or (words[0] if len(words) == 1 else None)


def _time_zone(said: dict[str, str]) -> str | None:
    link = said.get("localtime", "")
    return said.get("Timezone") or said.get("etc_timezone") or (link.partition("zoneinfo/")[2] or None)


def _reboot(text: str) -> tuple[str, ...] | None:
    words = text.split()
    if "pending=yes" not in words:
        return () if "pending=no" in words else None
    return tuple(dict.fromkeys(word for word in words if word != "pending=yes")) or ("a package",)


def _unattended(text: str, packages: dict[str, str]) -> bool | None:
    if not text.strip():
        return None
    periodic = any(line.startswith("APT::Periodic::Unattended-Upgrade ") and '"0"' not in line for line in text.splitlines())
    return "unattended-upgrades" in packages and periodic and "timer=disabled" not in text and "timer=masked" not in text


def parse_system(
    sections: dict[str, str], container: str | None, packages: dict[str, str], holds: tuple[str, ...] | None
) -> System:
    """Put together what surrounds the service, from the sections that are about it."""

    def body(name: str) -> str:
        return sections.get(name, "")

    firmware = key_values(body("firmware"))
    time = key_values(body("time"))
    # a container sees its machine's firmware or nothing, and cannot tell which
    boot = firmware.get("boot") if container is None else None
    groups = firmware.get("iommu_groups", "")
    return System(
        board=parse_board(body("board")),
        kernel_command_line=body("kernel-command-line").strip() or None,
        # a container sees its machine's firmware or nothing, and cannot tell which
        boot=cast(Literal["uefi", "bios"], boot) if boot in ("uefi", "bios") and container is None else None,
        secure_boot={"1": True, "0": False}.get(
            firmware.get("secure_boot", ""), False if boot == "bios" and not container else None
        ),
        lockdown=_bracketed(firmware.get("lockdown", "")),
        iommu_groups=int(groups) if groups.isascii() and groups.isdecimal() and len(groups) < 7 else None,
        transparent_hugepages=_bracketed(body("transparent-hugepages")),
        swap_devices=tuple(line.split()[0] for line in body("swaps").splitlines()[1:] if line.split()),
        time_zone=_time_zone(time),
        clock_synchronized={"yes": True, "no": False}.get(time.get("NTPSynchronized", "")),
        container=container,
        package_holds=holds,
        broken_packages=parse_broken_packages(body("packages")),
        kernel_packages=parse_kernel_packages(packages),
        distribution_sources=parse_apt_sources(body("apt-sources")),
        reboot_pending=_reboot(body("reboot")),
        unattended_upgrades=_unattended(body("unattended-upgrades"), packages),
    )


def parse_apt_sources(text: str) -> tuple[AptSource, ...] | None:
    """Parse lines of ``origin|uri|suite|component|file|keyring``: Debian's own suites, with the components that the host has.

    Left out are bringup's own file, whose components the host has only as long as bringup wants them, and entries whose key
    stands in the entry itself. Where apt has no lists yet, an entry counts as Debian's unless it names another key.
    """
    rows = [row for line in text.splitlines() if len(row := line.split("|")) == 6]
    components: dict[tuple[str, str, str], list[str]] = {}
    for origin, uri, suite, component, file, key in rows:
        unknown = origin in ("", "$(ORIGIN)") and (key == "" or "debian-archive" in key) and not suite.endswith("-backports")
        if (origin == "Debian" or unknown) and key != "embedded" and not file.endswith("/bringup-nvidia.sources"):
            components.setdefault((uri.rstrip("/"), suite, key), []).append(component)
    found = tuple(
        AptSource(uri=uri, suite=suite, components=tuple(dict.fromkeys(names)), signed_by=key)
        for (uri, suite, key), names in components.items()
    )
    return found if rows else None


def parse_confines(text: str) -> Confines:
    """Parse what processes here may: capabilities as the kernel's hexadecimal bits, limits, shared memory.

    Raises:
        ValueError: something of it is no number.
    """
    said = {name: value for name, value in key_values(text).items() if value not in ("", "unlimited")}
    return Confines(
        capabilities=int(said["capabilities"], 16) if "capabilities" in said else None,
        open_files=int(said["open_files"]) if "open_files" in said else None,
        shared_memory_mib=int(said["shared_memory_kb"]) // 1024 if "shared_memory_kb" in said else None,
    )


def parse_disks(text: str) -> tuple[Disk, ...]:
    """Parse lines of ``folder free-kB device [file-system]``; a line of another form is a folder that df could not measure.

    Raises:
        ValueError: the free space is no number.
    """
    rows = (line.split() for line in text.splitlines())
    return tuple(
        Disk(path=row[0], free_mib=int(row[1]) // 1024, device=row[2], filesystem=row[3] if len(row) == 4 else None)
        for row in rows
        if len(row) in (3, 4)
    )


def parse_sysctls(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Parse lines of ``name rw|ro value``: the live values, and the names that root cannot write."""
    rows = [row for line in text.splitlines() if len(row := line.split(maxsplit=2)) == 3]
    return {row[0]: row[2] for row in rows}, tuple(row[0] for row in rows if row[1] == "ro")
