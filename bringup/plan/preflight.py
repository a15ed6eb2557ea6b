"""What stops a deploy on a host before it starts."""

from bringup.hardware import HostFacts
from bringup.plan.container import container_blockers
from bringup.plan.model import Plan
from bringup.plan.plan import HOME_DIR, UNPINNED

_SUPPORTED = {"debian": 12.0, "ubuntu": 24.04}
"""Distribution to the oldest release whose own Python (3.11 or newer) vLLM runs on."""
_SUPPORTED_DRIVER = {"debian": 12.0, "ubuntu": 22.04}
"""Distribution to the oldest release for which there are packages of the driver."""
_CPU_SHARED_MEMORY_MIB = 400
"""For the two rings through which its processes talk (160 and 240 MiB: vLLM 0.32.0, which refuses to start with less, 2026-11-27);
with one card there is one process for it, and no ring. Docker gives a container 64 MiB."""
_CLOCK_TOLERANCE_S = 300
"""Beyond it certificates and package signatures begin to look not yet valid or expired."""


def host_blockers(facts: HostFacts, now_unix_s: int, driver_only: bool = False) -> list[str]:
    """List what is wrong with the host itself, each with what to do; empty when it is fit.

    Args:
        facts: the host.
        now_unix_s: the control machine's time, in seconds since 1970.
        driver_only: nothing but the driver is deployed.
    """
    blockers = []
    if "pci-display" in facts.unknown:
        blockers.append(f"its PCI devices cannot be read ({facts.unknown['pci-display']}): whether it has a card is not known")
    if facts.run_at_work is not None:
        blockers.append(facts.run_at_work)
    if facts.foreign_unit is not None:
        blockers.append(
            f"it has a vllm.service that bringup did not write ({facts.foreign_unit}): "
            "stop it and move it away, since ours has that name"
        )
    if facts.service_user_home not in (None, HOME_DIR):
        blockers.append(
            f"it has a user vllm whose home is {facts.service_user_home}, which bringup did not make: rename that user, "
            "since ours has that name"
        )
    supported = _SUPPORTED_DRIVER if driver_only else _SUPPORTED
    least = supported.get(facts.os.id)
    try:
        version = float(facts.os.version_id or "0")
    except ValueError:
        version = 0.0
    if least is None or version < least or facts.os.architecture != "x86_64":
        blockers.append(
            f"{facts.os.name} on {facts.os.architecture} is not supported: "
            f"take Debian {supported['debian']:g} or newer or Ubuntu {supported['ubuntu']:.2f} or newer, on x86_64"
        )
    if facts.root_access == "none":
        blockers.append(
            f"user '{facts.login_user}' is not root and cannot use sudo without a password: "
            "log in as root, or allow it NOPASSWD in /etc/sudoers.d"
        )
    if facts.init != "systemd" and facts.system.container is None:
        blockers.append(
            f"systemd does not run this host (process 1 is {facts.init}), and it is no container: only containers are served "
            "without systemd"
        )
    skew_s = facts.clock_unix_s - now_unix_s
    if abs(skew_s) > _CLOCK_TOLERANCE_S:
        blockers.append(
            f"its clock is {abs(skew_s)} s {'ahead of' if skew_s > 0 else 'behind'} the control machine's: "
            "set it (timedatectl set-ntp true)"
        )
    return blockers


def plan_blockers(facts: HostFacts, plan: Plan) -> list[str]:
    """List what the host lacks for its plan, each with what to do; empty when nothing is."""
    blockers = _no_space(facts, plan)
    if plan.tuning.kernel_parameters and not facts.tuning.update_grub:
        blockers.append(
            "kernel_parameters is set, and this host has no update-grub with its /boot/grub: add "
            f"{' '.join(plan.tuning.kernel_parameters)} to its boot loader's configuration yourself, and take the setting away"
        )
    # what is served now gives its memory back before the new release starts
    if facts.service_state != "active" and 0 < facts.memory.available_mib < plan.needs.memory_mib:
        blockers.append(
            f"{facts.memory.available_mib} MiB of memory are free, {plan.needs.memory_mib} MiB are needed: stop what else "
            "runs there, or choose a smaller model or context"
        )
    shared_mib = facts.confines.shared_memory_mib
    if plan.gpu is None and shared_mib is not None and shared_mib < _CPU_SHARED_MEMORY_MIB:
        blockers.append(
            f"shared memory (/dev/shm) has {shared_mib} MiB, and vLLM's CPU backend needs {_CPU_SHARED_MEMORY_MIB} MiB: "
            "the container's owner gives it more (docker run --shm-size=1g)"
        )
    if not plan.installable:
        blockers.append(f"{plan.engine} is there to plan with and is never installed: name another engine")
    if plan.model_revision == UNPINNED:
        blockers.append(
            f"the catalog pins no revision of {plan.repository}: copy it to a folder of the control machine and name that as "
            "model_source, or ask for less (setting `needs`)"
        )
    if any(gpu.pci_address == plan.gpu and gpu.state and gpu.state.mig for gpu in facts.gpus):
        blockers.append(
            f"the card at {plan.gpu} is split into instances (MIG), and this version serves whole cards: nvidia-smi -mig 0"
        )
    if plan.container is not None:
        blockers += container_blockers(facts, plan.container)
        if plan.manager != "systemd":
            blockers.append("runtime 'container' needs systemd, which does not run this host: take runtime 'venv'")
    if plan.driver is not None and plan.driver.below_need is not None:
        blockers.append(plan.driver.below_need)
    return [*blockers, *driver_blockers(facts, plan)]


def driver_blockers(facts: HostFacts, plan: Plan) -> list[str]:
    """List what stands in the way of the plan's driver and the card's settings; empty when nothing does."""
    of_card = list(plan.card.blockers) if plan.card is not None else []
    if plan.driver is not None:
        return [*plan.driver.blockers, *of_card]
    if plan.needs.min_driver_branch is not None and "nvidia-smi" in facts.unknown:
        return [
            f"the NVIDIA driver does not answer: {facts.unknown['nvidia-smi']} (reboot the host if the driver was just upgraded; "
            f"nvidia_driver: '{plan.needs.min_driver_branch}' has bringup install its own)",
            *of_card,
        ]
    return of_card


def _no_space(facts: HostFacts, plan: Plan) -> list[str]:
    """Compare free space with what is not there yet; engine and model often share one file system."""
    needs = []
    if plan.container is not None:
        if plan.container.local_image not in facts.containers.images:
            needs.append(("/var/lib/containers", "the engine's image", plan.needs.engine_disk_mib))
    elif plan.engine_dir is not None and plan.engine_dir.rsplit("/", 1)[-1] not in facts.engines:
        needs.append(("/opt/bringup", "the engine", plan.needs.engine_disk_mib))
    if plan.model_dir.rsplit("/", 1)[-1] not in facts.models:
        needs.append(("/var/lib/bringup", "the model", plan.needs.model_disk_mib))
    blockers = []
    for device in sorted({disk.device for disk in facts.disks}):
        here = [(disk, what, need_mib) for path, what, need_mib in needs if (disk := facts.disk(path)) and disk.device == device]
        if here and sum(need_mib for _, _, need_mib in here) > here[0][0].free_mib:
            wanted = " and ".join(f"{what} needs {need_mib} MiB" for _, what, need_mib in here)
            blockers.append(
                f"{here[0][0].path} has {here[0][0].free_mib} MiB free, {wanted}: make room or mount a larger disk there"
            )
    return blockers
