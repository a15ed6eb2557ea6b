"""Machines that the tests plan for: the composed workstation that bringup ships, and hosts made from it by changing a few facts."""

from typing import Any

from bringup.hardware import Cpu, Gpu, HostFacts, NumaNode
from bringup.probe.host import parse_host
from bringup.recording import recording_named

NOW_UNIX_S = 1_795_000_000
WORKSTATION = "4090d-workstation"
"""The recording's name."""


def recording() -> str:
    """The probe's output on a bare RTX 4090 D workstation, at `NOW_UNIX_S`."""
    return recording_named(WORKSTATION).probe_text(NOW_UNIX_S)


def changed(facts: HostFacts, **fields: Any) -> HostFacts:
    """The same host with other facts, validated."""
    return HostFacts.model_validate({**dict(facts), **fields})


def bare_workstation() -> HostFacts:
    """As it comes from the shop: nouveau holds the card."""
    return parse_host(recording())


def workstation(driver_version: str | None = "580.95.05") -> HostFacts:
    """The workstation once NVIDIA's driver runs."""
    facts = bare_workstation()
    card = facts.gpus[0].model_copy(
        update={
            "kernel_driver": "nvidia",
            "driver_version": driver_version,
            "driver_name": "NVIDIA GeForce RTX 4090 D",
            "driver_memory_mib": 24564,
        }
    )
    return changed(facts, gpus=(card,))


def demo_host() -> HostFacts:
    """Like a throw-away host of the lab: Debian 12 in a container, two cores, no card, a kernel that it may not tune."""
    facts = bare_workstation()
    return changed(
        facts,
        os=facts.os.model_copy(update={"id": "debian", "version_id": "12", "name": "Debian GNU/Linux 12 (bookworm)"}),
        virtualization="systemd-nspawn",
        cpu=Cpu(model="AMD EPYC", usable=(0, 1), core_of={0: 0, 1: 1}, node_of={0: 0, 1: 0}),
        memory={"total_mib": 24105, "available_mib": 20000},
        numa_nodes=(NumaNode(id=0, cpus=(0, 1), memory_mib=24105),),
        gpus=(),
        read_only_sysctls=("vm.swappiness", "kernel.numa_balancing"),
    )


def two_socket_server() -> HostFacts:
    """Two nodes of four cores with two threads each; a 4090 D hangs on the second."""
    usable = tuple(range(16))
    return changed(
        workstation(),
        cpu=Cpu(model="two sockets", usable=usable, core_of={c: c % 8 for c in usable}, node_of={c: c % 8 // 4 for c in usable}),
        numa_nodes=(
            NumaNode(id=0, cpus=(0, 1, 2, 3, 8, 9, 10, 11), memory_mib=65536),
            NumaNode(id=1, cpus=(4, 5, 6, 7, 12, 13, 14, 15), memory_mib=65536),
        ),
        gpus=(Gpu(pci_address="0000:81:00.0", pci_id="10de:2685", numa_node=1, kernel_driver="nvidia", driver_version="580.1"),),
    )
