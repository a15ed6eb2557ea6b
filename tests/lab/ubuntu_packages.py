"""The driver's packages as Ubuntu names them in its own archive, and as NVIDIA names them in its repository for Ubuntu."""

from nvidia_repository import (
    KERNEL,
    VERSIONS,
    Package,
    build_tools,
    dkms_package,
    firmware,
    module,
    nvidia_smi,
)

SIGNED = f"linux-modules-nvidia-580-server-open-{KERNEL}"


def _one(name: str, kind: str, *needs: str) -> tuple[str, ...]:
    """Fields of a package whose branches exclude each other."""
    depends = (f"Depends: {', '.join(needs)}",) if needs else ()
    return (*depends, f"Provides: {kind}", f"Conflicts: {kind}", f"Replaces: {kind}")


def server_driver(version: str) -> list[Package]:
    """One version of the driver's server flavour, with open modules that DKMS builds."""
    branch, package = version[:3], f"{version}-0ubuntu0.24.04.1"
    same = f"(= {package})"
    dkms, common = f"nvidia-dkms-{branch}-server-open", f"nvidia-kernel-common-{branch}-server"
    utils, compute = f"nvidia-utils-{branch}-server", f"libnvidia-compute-{branch}-server"
    driver = f"nvidia-driver-{branch}-server-open"
    needs = (f"{dkms}", f"{utils} {same}", f"{compute} {same}", f"{common} {same}")
    return [
        Package(driver, package, _one(driver, "nvidia-driver-any", *needs)),
        Package(utils, package, _one(utils, "nvidia-utils-any"), nvidia_smi(version)),
        Package(compute, package, _one(compute, "libnvidia-compute-any"), firmware(version)),
        Package(common, package, _one(common, "nvidia-kernel-common-any")),
        dkms_package(dkms, package, version, _one(dkms, "nvidia-dkms-any", "dkms")),
    ]


def signed_modules(version: str, build: int) -> list[Package]:
    """Modules that come built and signed for one kernel, and the package that follows the flavour's newest kernel. Their versions
    are the kernel's; that of the driver is in a dependency alone."""
    package = f"6.8.0-{build}"
    needs = f"Depends: nvidia-kernel-common-580-server (>= {version})"
    provides = "Provides: nvidia-dkms-580-server-open, nvidia-dkms-any"
    files = ((f"lib/modules/{KERNEL}/kernel/nvidia-580srv-open/nvidia.ko", module(version), 0o644),)
    return [
        Package(SIGNED, package, (needs, provides, "Conflicts: nvidia-dkms-any"), files),
        Package("linux-modules-nvidia-580-server-open-generic", package, (f"Depends: {SIGNED} (= {package})",)),
    ]


def archive_packages() -> list[Package]:
    """Ubuntu's own, in its component restricted."""
    flavour = Package("linux-headers-generic", "99:1", (f"Depends: linux-headers-{KERNEL}",))
    drivers = [package for version in VERSIONS.values() for package in server_driver(version)]
    # of the same name as NVIDIA's and newer
    rival = Package("libnvidia-compute-580", "580.999.01-0ubuntu0.24.04.1", (), firmware("580.999.01"))
    return [*build_tools(), flavour, *drivers, rival, *signed_modules(VERSIONS[580], 1)]


def _nvidias(version: str) -> list[Package]:
    named = f"-{version[:3]}" if version < "590" else ""
    package = f"{version}-1ubuntu1"
    common = f"nvidia-kernel-common{named}"
    same = f"{common} (= {package})"
    compute, utils, dkms = f"libnvidia-compute{named}", f"nvidia-utils{named}", f"nvidia-dkms{named}-open"
    return [
        Package(common, package, _one(common, "nvidia-kernel-common-any")),
        Package(compute, package, _one(compute, "libnvidia-compute-any", same), firmware(version)),
        Package(utils, package, _one(utils, "nvidia-utils-any", f"{compute} (= {package})"), nvidia_smi(version)),
        dkms_package(dkms, package, version, _one(dkms, "nvidia-dkms-any", "dkms", same)),
    ]


def nvidias_packages() -> list[Package]:
    """NVIDIA's for Ubuntu: without ``server`` in their names, and from branch 590 on without the branch."""
    return [*build_tools(), *(package for version in VERSIONS.values() for package in _nvidias(version))]
