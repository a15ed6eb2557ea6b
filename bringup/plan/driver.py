"""Which NVIDIA driver a host gets, from which packages, and what stands in the way of it."""

import re
from typing import Literal

from bringup.catalog.entries import GpuModel
from bringup.hardware import AptSource, Frozen, Gpu, HostFacts
from bringup.settings import NvidiaRepository, Settings

_OPEN_FROM = (7, 5)
"""Turing: NVIDIA's open kernel modules take cards with a GSP (Driver Installation Guide, Kernel Modules)."""
_OPEN_ONLY_FROM = (10, 0)
"""Blackwell: the closed modules do not know it (same source)."""
_OPEN_FROM_BRANCH = 560
"""Before it the open modules were alpha or beta for anything but data-centre cards (release notes of 545.23.06); since then they
are NVIDIA's default (release notes of 560)."""
_LAST_BRANCH_BEFORE_TURING = 580
"""Later branches dropped Maxwell, Pascal and Volta (release notes of 590)."""
_DRIVER_PACKAGES = ("nvidia-", "libnvidia-", "linux-modules-nvidia-")
_DEBIANS_OWN = {"12": 535, "13": 550}
"""Branch of the driver in Debian's own non-free, by release (Debian's package search: nvidia-kernel-dkms)."""
_DEBIANS_OTHER_NAMES = ("libcuda1", "firmware-nvidia-")
_DEBIANS_COMPONENTS = ("contrib", "non-free", "non-free-firmware")
"""Where its parts are: nvidia-support, the driver itself, firmware-nvidia-gsp."""
KEYRING = "/etc/apt/keyrings/bringup-nvidia.gpg"
"""Key of `nvidia_repository` on the host."""
_SIGNED_BY_CANONICAL = "linux-modules-nvidia-"
_BRANCH_IN_NAMES_BEFORE = 590
"""From it on NVIDIA's packages for Ubuntu carry the branch in their versions alone (Driver Installation Guide r590)."""


class DriverPlan(Frozen):
    """What is done about the driver of a host."""

    state: Literal["present", "absent"]
    branch: int
    version: str | None = None
    """Exact version, or how it begins; None takes the newest of the branch."""
    modules: Literal["open", "proprietary"] = "open"
    build: Literal["dkms", "signed"] = "dkms"
    """Built on the host for each kernel, or as the distribution built and signed them."""
    packages: tuple[str, ...] = ()
    """Installed in one transaction."""
    kernel_package_prefix: str = ""
    """What is needed once for each installed kernel; the kernel's release follows the prefix."""
    hold: bool = True
    """Whether the driver's packages are put on hold."""
    fence: tuple[str, ...] = ()
    """Beginnings of the names of packages that unattended-upgrades must leave alone."""
    repository: NvidiaRepository | None = None
    not_from: str | None = None
    """Origin whose packages of the driver are never taken, since they would mix with those of `repository`."""
    added_sources: tuple[AptSource, ...] = ()
    """Components of the distribution's own suites that have the driver and that the host has not enabled."""
    boot_wait_s: int = 900
    """How long a restarted host may take until it answers."""
    below_need: str | None = None
    """Why the plan's engine will not run with it; None where it will. The driver alone can be installed all the same."""
    reboot: Literal["never", "if-needed", "always-ask"] = "if-needed"
    why: str
    blockers: tuple[str, ...] = ()
    """What must be mended by somebody before anything is installed, each with the ways out."""

    @property
    def sources(self) -> tuple[AptSource, ...]:
        """What bringup's own file of package sources says."""
        if self.repository is None:
            return self.added_sources
        repository = self.repository
        return (AptSource(uri=repository.uri, suite=repository.suite, components=repository.components, signed_by=KEYRING),)

    @property
    def wanted_version(self) -> str:
        """How the version of each of the driver's packages begins: ``580.`` or the exact version that was asked for."""
        return self.version or f"{self.branch}."

    def is_met_by(self, version: str) -> bool:
        """Whether a version of the driver is one that this plan asks for."""
        return f"{version}.".startswith(f"{self.wanted_version.rstrip('.')}.")


def plan_driver(facts: HostFacts, settings: Settings, gpu: Gpu, card: GpuModel, least_branch: int) -> DriverPlan | None:
    """Plan the driver of one host; None where there is nothing to do about it.

    A driver that works, is new enough and was installed by somebody else is left alone, unless another one is asked for.

    Args:
        facts: the host.
        settings: what the inventory says of it.
        gpu: the card that serves.
        card: what the catalog knows of it.
        least_branch: the engine's need.
    """
    if settings.nvidia_state == "absent":
        return _absence(facts, settings)
    running = gpu.driver_version if "nvidia-smi" not in facts.unknown else None
    pinned = settings.nvidia_driver
    debians = _debians_own(facts, settings, least_branch)
    branch = int(pinned.split(".")[0]) if pinned else debians or least_branch
    new_enough = running is not None and int(running.split(".")[0]) >= least_branch
    if new_enough and running is not None and not facts.nvidia.managed and (pinned is None or _begins(running, pinned)):
        return None
    if running is None and gpu.kernel_driver == "nvidia" and not facts.nvidia.managed and pinned is None:
        return None  # somebody else's driver that does not answer: no installation mends that
    compute = _compute(card)
    can_be_open = compute >= _OPEN_ONLY_FROM or (compute >= _OPEN_FROM and branch >= _OPEN_FROM_BRANCH)
    modules: Literal["open", "proprietary"] = "open" if can_be_open else "proprietary"
    repository = settings.nvidia_repository
    nvidias = repository is not None and repository.is_flat
    signed = facts.os.id == "ubuntu" and facts.system.secure_boot is True and not nvidias
    plan = DriverPlan(
        state="present",
        branch=branch,
        version=pinned if pinned and "." in pinned else None,
        modules=modules,
        build="signed" if signed else "dkms",
        packages=_debians_packages(facts) if debians else _packages(facts, branch, modules, signed, nvidias),
        kernel_package_prefix=_kernel_package_prefix(branch, modules, signed),
        # signed modules come with the kernel's updates and depend on a version of the rest: held back, they would leave the next
        # kernel without a driver
        hold=not signed,
        fence=(*_DRIVER_PACKAGES, *(_DEBIANS_OTHER_NAMES if debians else ("linux-",) if signed else ())),
        repository=repository,
        not_from="Ubuntu" if facts.os.id == "ubuntu" and nvidias else None,
        added_sources=_missing_components(facts) if debians else (),
        boot_wait_s=settings.boot_wait_s,
        below_need=_below_need(branch, least_branch),
        reboot=settings.reboot,
        why=_why(running, pinned, least_branch, facts.nvidia.managed),
    )
    return plan.model_copy(update={"blockers": tuple(_blockers(facts, plan, running, compute, least_branch))})


def _debians_own(facts: HostFacts, settings: Settings, least_branch: int) -> int | None:
    """The branch of Debian's own driver where that is the one to take, None elsewhere."""
    own = _DEBIANS_OWN.get(facts.os.version_id) if facts.os.id == "debian" else None
    if own is None or settings.nvidia_repository is not None:
        return None
    enough = settings.nvidia_driver.split(".")[0] == str(own) if settings.nvidia_driver else least_branch <= own
    return own if enough else None


def _missing_components(facts: HostFacts) -> tuple[AptSource, ...]:
    """What Debian's own suites on this host lack for the driver."""
    sources = facts.system.distribution_sources or ()
    lacking = {source: tuple(name for name in _DEBIANS_COMPONENTS if name not in source.components) for source in sources}
    return tuple(source.model_copy(update={"components": names}) for source, names in lacking.items() if names)


def _below_need(branch: int, least_branch: int) -> str | None:
    if branch >= least_branch:
        return None
    return (
        f"nvidia_driver asks for branch {branch}, but branch {least_branch} or newer is needed for the engine: "
        "name a newer one, or another engine"
    )


def _absence(facts: HostFacts, settings: Settings) -> DriverPlan | None:
    if not facts.nvidia.managed:
        return None
    blockers = []
    if facts.service_state not in ("absent", "inactive", "failed"):
        blockers.append(
            "vllm.service serves with the driver that is to be removed: systemctl disable --now vllm.service first, after its "
            "users went elsewhere"
        )
    why = "nvidia_state is absent: what bringup installed is taken away"
    return DriverPlan(
        state="absent",
        branch=0,
        boot_wait_s=settings.boot_wait_s,
        reboot=settings.reboot,
        why=why,
        blockers=tuple(blockers),
    )


def _begins(version: str, wanted: str) -> bool:
    return f"{version}.".startswith(f"{wanted}.")


def _compute(card: GpuModel) -> tuple[int, int]:
    major, _, minor = card.compute_capability.partition(".")
    return int(major), int(minor)


def _why(running: str | None, pinned: str | None, least_branch: int, managed: bool) -> str:
    if pinned is not None:
        return f"nvidia_driver is {pinned}"
    need = f"the engine needs branch {least_branch} or newer (NVIDIA's CUDA release notes: CUDA 13.0 needs 580)"
    if running is None:
        return f"no driver runs; {need}"
    if managed:
        return f"bringup installed {running} and keeps it"
    return f"the driver is {running}; {need}; nvidia_state=absent brings {running} back while a package source has it"


def _flavours(facts: HostFacts) -> tuple[str, ...]:
    """The kernel flavours that the host follows: ``generic-hwe-24.04``, ``amd64``; empty where its kernel is nobody's."""
    named = tuple(package.removeprefix("linux-image-") for package in facts.system.kernel_packages)
    if named:
        # Ubuntu's virtual machines follow generic kernels with fewer drivers, for which no signed modules are named
        return tuple(dict.fromkeys(re.sub("^virtual", "generic", name) if facts.os.id == "ubuntu" else name for name in named))
    # 6.8.0-88-generic and 6.1.0-30-amd64; a recording of before may lack the packages
    match = re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+-[0-9]+-([a-z][a-z0-9-]*)", facts.os.kernel)
    return (match[1],) if match else ()


def _packages(facts: HostFacts, branch: int, modules: str, signed: bool, nvidias: bool) -> tuple[str, ...]:
    """Names of the packages: Ubuntu's own, or those of NVIDIA's repository for the distribution.

    NVIDIA's are those of a compute-only installation (Driver Installation Guide), on Ubuntu with nvidia-smi. Ubuntu's signed
    modules of one kernel depend on nvidia-kernel-common of the version that they were built from: on exactly that one (branch 515
    for 5.15.0-56-generic) or on it and newer ones (525 for 5.15.0-69, 580 for 7.0.0-30), so that the step compares the versions.
    """
    flavours = _flavours(facts)
    if facts.os.id != "ubuntu":
        driver = ["nvidia-driver-cuda", "nvidia-kernel-open-dkms" if modules == "open" else "nvidia-kernel-dkms"]
    elif nvidias:
        named = f"-{branch}" if branch < _BRANCH_IN_NAMES_BEFORE else ""
        driver = [f"libnvidia-compute{named}", f"nvidia-utils{named}", f"nvidia-dkms{named}{'-open' if modules == 'open' else ''}"]
    else:
        kind = f"{branch}-server-open" if modules == "open" else f"{branch}-server"
        driver = [f"nvidia-driver-{kind}", f"nvidia-utils-{branch}-server"]
        if signed:
            return (*driver, *(f"{_SIGNED_BY_CANONICAL}{kind}-{flavour}" for flavour in flavours))
        driver.append(f"nvidia-dkms-{kind}")
    return (*driver, *_headers(flavours))


def _debians_packages(facts: HostFacts) -> tuple[str, ...]:
    """What computing needs of Debian's own driver. The closed modules: the open ones lag behind the rest (in Debian 12 they were
    535.261.03 when the rest was 535.309.01)."""
    return ("nvidia-kernel-dkms", "nvidia-smi", "libcuda1", *_headers(_flavours(facts)))


def _headers(flavours: tuple[str, ...]) -> tuple[str, ...]:
    """So that the next kernel has its headers too, and DKMS builds for it."""
    return tuple(f"linux-headers-{flavour}" for flavour in flavours)


def _kernel_package_prefix(branch: int, modules: str, signed: bool) -> str:
    if not signed:
        return "linux-headers-"
    return f"{_SIGNED_BY_CANONICAL}{branch}-server-open-" if modules == "open" else f"{_SIGNED_BY_CANONICAL}{branch}-server-"


def _blockers(facts: HostFacts, plan: DriverPlan, running: str | None, compute: tuple[int, int], least_branch: int) -> list[str]:
    has = f"the NVIDIA driver is {running}" if running else "no NVIDIA driver runs"
    needs = f"branch {least_branch} or newer is needed" if plan.below_need is None else f"branch {plan.branch} is asked for"
    if facts.system.container is not None:
        text = f"{has}, and {needs}; this is a container ({facts.system.container}), whose driver is its machine's"
        return [f"{text}: that machine's owner must install it there"]
    if facts.os.id not in ("debian", "ubuntu") or facts.system.package_holds is None:
        return [f"{has}, and {needs}; bringup installs it with apt, which this host does not have: install it by hand"]
    if facts.nvidia.run_file is not None:
        return [
            f"{has}, and {needs}; the one that is there came from NVIDIA's .run installer ({facts.nvidia.run_file}), whose files "
            "packages would overwrite by half: run `nvidia-uninstall`, remove /var/lib/nvidia, reboot, then run bringup again"
        ]
    if running and not any(name.startswith(_DRIVER_PACKAGES) for name in facts.nvidia.packages):
        return [
            f"{has}, and {needs}; it was not installed from packages, so bringup cannot replace it: remove it the way it came, "
            f"or install branch {least_branch} or newer yourself"
        ]
    return [*_card_blockers(plan, compute), *_source_blockers(facts, plan, has)]


def _card_blockers(plan: DriverPlan, compute: tuple[int, int]) -> list[str]:
    if plan.modules == "proprietary" and plan.branch > _LAST_BRANCH_BEFORE_TURING:
        return [
            f"branch {plan.branch} does not know a card of compute capability {compute[0]}.{compute[1]}: "
            f"{_LAST_BRANCH_BEFORE_TURING} is the last that does (nvidia_driver)"
        ]
    if compute >= _OPEN_ONLY_FROM and plan.branch < 570:
        return [f"branch {plan.branch} does not know this card: Blackwell needs 570 or newer (nvidia_driver)"]
    return []


def _source_blockers(facts: HostFacts, plan: DriverPlan, has: str) -> list[str]:
    blockers = []
    if facts.system.secure_boot and plan.build == "dkms":
        own = "take Ubuntu's own modules, which are signed: leave nvidia_repository out"
        signed = own if facts.os.id == "ubuntu" else "take Ubuntu, whose modules are signed"
        blockers.append(
            f"{has}, and Secure Boot is on: it would refuse modules that are built here, since no key of this machine signs them. "
            "Switch Secure Boot off in the firmware; or enrol a key of yours for DKMS (mokutil --import), install the driver "
            f"yourself and run bringup again; or {signed}"
        )
    from_distribution = facts.os.id == "ubuntu"
    there = any(name.startswith("nvidia-driver-cuda") for name in facts.nvidia.packages)
    if "libcuda1" in plan.packages:
        if not facts.system.distribution_sources:
            blockers.append(
                f"{has}; Debian's own is in {', '.join(_DEBIANS_COMPONENTS)}, and apt names no source of Debian's whose address "
                "and key bringup may repeat: enable these components yourself, or set nvidia_repository"
            )
    elif plan.repository is None and not from_distribution and not there:
        blockers.append(
            f"{has}; {facts.os.name} itself has no driver of branch {plan.branch}: set nvidia_repository to NVIDIA's CUDA "
            "repository for this distribution, or to a mirror of it, with its key and the key's fingerprint"
        )
    if facts.system.secure_boot and plan.build == "signed" and not _flavours(facts):
        blockers.append(
            f"Secure Boot is on, and kernel {facts.os.kernel} is none of Ubuntu's, for which signed modules exist: boot one of "
            "them, or switch Secure Boot off in the firmware"
        )
    return blockers
