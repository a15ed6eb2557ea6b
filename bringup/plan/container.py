"""What of a release runs in a container (`runtime: container`): the image, what it sees of the host, and the card through CDI."""

import hashlib
import re

from bringup.catalog.entries import Engine
from bringup.errors import BringupError
from bringup.hardware import Frozen, HostFacts
from bringup.plan.decision import Decision
from bringup.settings import NvidiaRepository, Settings

UNIT = "/etc/containers/systemd/vllm.container"
"""Quadlet, Podman's generator, makes vllm.service of it at boot and at each `systemctl daemon-reload`."""
TOOLKIT_PACKAGE = "nvidia-container-toolkit-base"
"""nvidia-ctk and the unit that writes the CDI specification anew with each driver, without hooks for other container engines
(NVIDIA Container Toolkit, Support for CDI)."""
LEAST_PODMAN = (4, 4)
"""The first with Quadlet (its documentation, podman-systemd.unit)."""
_TOO_OLD = {("debian", "12"): "4.3"}
"""Releases that bringup supports and whose own Podman is older (Debian's package search)."""
_CDI_KIND = "nvidia.com/gpu"
_LOCAL = "localhost/bringup/vllm"
STOP_MARGIN_S = 10
"""Podman waits this much longer than vLLM's graceful stop before it kills; systemd waits longer still."""


class ContainerPlan(Frozen):
    """The container that serves."""

    image: str
    """As the inventory or the catalog names it."""
    local_image: str
    """What the host calls it once it is there: moved by nobody but bringup, so that a restart starts what was checked."""
    device: str | None
    """The serving card's name in CDI; None on the CPU."""
    toolkit: NvidiaRepository | None
    """Where NVIDIA's container toolkit comes from; None: nothing is installed."""
    read_only: tuple[str, ...]
    """Folders of the host that it sees at the same path and cannot change, beside its release."""
    writable: tuple[str, ...]
    """Folders of the host that it may write."""
    shm_mib: int
    """Size of its /dev/shm."""
    stop_timeout_s: int


def plan_container(
    facts: HostFacts,
    settings: Settings,
    engine: Engine,
    card_index: int | None,
    read_only: tuple[str, ...],
    writable: tuple[str, ...],
    stop_after_s: int,
) -> tuple[ContainerPlan, tuple[Decision, ...]] | None:
    """Plan the container; None where the engine runs in a virtual environment.

    Args:
        facts: the host.
        settings: what the inventory says.
        engine: the build of vLLM.
        card_index: place of the serving card among those of the driver; None on the CPU.
        read_only: folders that the server reads.
        writable: folders that the server writes.
        stop_after_s: vLLM's own limit for a graceful stop.

    Raises:
        BringupError: nobody says which image.
    """
    if settings.runtime != "container":
        return None
    image = settings.container_image or (engine.image.reference if engine.image else None)
    if image is None:
        raise BringupError(f"the catalog knows no image of {engine.name}: name one in container_image, or take runtime 'venv'")
    # by Quadlet a blank ends a value, a colon divides it, and a per cent sign is systemd's
    if strange := next((path for path in read_only if re.search(r"[\s:%\"'\\]", path)), None):
        raise BringupError(f"{strange} cannot be mounted into a container: give it a name without blanks, colons, quotes or %")
    device = None if card_index is None else f"{_CDI_KIND}={card_index}"
    plan = ContainerPlan(
        image=image,
        local_image=f"{_LOCAL}:{hashlib.sha256(image.encode()).hexdigest()[:12]}",
        device=device,
        toolkit=settings.nvidia_container_repository if device is not None and not facts.containers.cdi_devices else None,
        read_only=read_only,
        writable=writable,
        shm_mib=facts.memory.total_mib // 2,
        stop_timeout_s=stop_after_s + STOP_MARGIN_S,
    )
    named = settings.container_image is not None
    decisions = (
        Decision(key="runtime", value="container", why="as set", source="inventory: runtime"),
        Decision(
            key="container-image",
            value=image,
            why="as set" if named else f"the official one of vLLM {engine.version}",
            source="inventory: container_image" if named else "catalog: the engine's image",
        ),
        Decision(
            key="container-shm-mib",
            value=plan.shm_mib,
            why="vLLM's processes hand data to each other in /dev/shm, of which Podman gives 64 MB: as much as the host has "
            "itself. What is in it counts as the service's memory",
            source="vLLM, Using Docker; tmpfs(5): half of the memory",
        ),
    )
    if device is None:
        return plan, decisions
    why = "the serving card alone is in the container, with its driver's libraries, as the host's CDI specification describes it"
    return plan, (*decisions, Decision(key="container-device", value=device, why=why, source="facts: PCI devices"))


def container_blockers(facts: HostFacts, plan: ContainerPlan) -> list[str]:
    """List what stands in the way of a container on this host, each with what to do; empty when nothing does."""
    found, blockers = facts.containers, []
    version = found.podman_version or _TOO_OLD.get((facts.os.id, facts.os.version_id or ""))
    if version is not None and _version(version) < LEAST_PODMAN:
        blockers.append(
            f"runtime 'container' needs Podman {'.'.join(map(str, LEAST_PODMAN))} or newer, and {facts.os.name} has {version}: "
            "take Debian 13 or Ubuntu 24.04, install a newer Podman yourself, or take runtime 'venv'"
        )
    if found.cgroup_v2 is False:
        blockers.append(
            "runtime 'container' needs control groups of version 2, which this host was not started with "
            "(systemd.unified_cgroup_hierarchy=0 on the kernel's command line?): remove that and reboot, or take runtime 'venv'"
        )
    return blockers + (_device_blockers(facts, plan, plan.device) if plan.device is not None else [])


def _device_blockers(facts: HostFacts, plan: ContainerPlan, device: str) -> list[str]:
    found, name = facts.containers, device.removeprefix(f"{_CDI_KIND}=")
    generate = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    if found.cdi_devices:
        if name in found.cdi_devices:
            return []
        return [f"its CDI specification has no {device} ({', '.join(found.cdi_devices)}): make it anew ({generate})"]
    if plan.toolkit is not None:
        return []
    if found.nvidia_ctk is not None:
        return [
            f"NVIDIA's container toolkit {found.nvidia_ctk} is there, and no CDI specification of the cards, which Podman needs: "
            f"make it ({generate}) once the driver runs"
        ]
    return [
        f"Podman reaches a card by its CDI specification, which is not there: set nvidia_container_repository to an apt repository "
        f"that has {TOOLKIT_PACKAGE}, install NVIDIA's Container Toolkit (1.18 or newer) yourself, or take runtime 'venv'"
    ]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
