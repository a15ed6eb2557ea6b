"""Findings: each defect is named where it is, and nowhere else."""

from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.findings import Finding, host_findings
from bringup.hardware import Gpu, GpuState, HostFacts, KernelModule, MemoryFacts, MemoryModule, NumaNode, NvidiaSoftware, PcieLink
from bringup.probe.host import parse_host
from bringup.recording import recording_named, shipped_recordings
from tests.unit.machines import NOW_UNIX_S, bare_workstation, changed

CATALOG = load_catalog()
REGULAR = PcieLink(generation=4, lanes=16)


def recorded(name: str) -> HostFacts:
    return parse_host(recording_named(name).probe_text(NOW_UNIX_S))


def found(facts: HostFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in host_findings(facts, CATALOG)}


def with_card(**fields: Any) -> HostFacts:
    """The slow workstation, which has a driver and a desktop, with another card."""
    facts = recorded("amd-two-ccd-4090d")
    card = facts.gpus[0]
    state = card.state
    assert state is not None
    of_state = {name: value for name, value in fields.items() if name in GpuState.model_fields and name not in Gpu.model_fields}
    of_card = {name: value for name, value in fields.items() if name not in of_state}
    return changed(facts, gpus=(changed_card(card, state=changed_card(state, **of_state), **of_card),))


def changed_card(model: Any, **fields: Any) -> Any:
    return type(model).model_validate({**dict(model), **fields})


def with_nvidia(**fields: Any) -> HostFacts:
    facts = recorded("amd-two-ccd-4090d")
    return changed(facts, nvidia=NvidiaSoftware.model_validate({**dict(facts.nvidia), **fields}))


def with_system(**fields: Any) -> HostFacts:
    facts = recorded("amd-two-ccd-4090d")
    return changed(facts, system=facts.system.model_copy(update=fields))


def with_cpu(**fields: Any) -> HostFacts:
    facts = bare_workstation()
    return changed(facts, cpu=facts.cpu.model_copy(update=fields))


# --- whole machines


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("4090d-workstation", {"gpu-no-driver"}),
        (
            "amd-two-ccd-4090d",
            {
                "reboot-pending",
                "next-boot-no-driver",
                "driver-upgrades-itself",
                "pcie-lanes",
                "gpu-in-use",
                "memory-slow",
                "clock",
                "gpu-power-limit",
                "gpu-persistence",
            },
        ),
        ("dual-socket-four-cards", {"driver-upgrades-itself", "memory-slow", "gpus-mixed"}),
        ("lab-host", {"read-only-sysctls"}),
        ("h100-datacenter", {"no-systemd"}),
        ("rented-container", {"no-systemd", "cpu-quota", "read-only-sysctls", "gpu-not-ours", "cpu-governor"}),
    ],
)
def test_recordings(name: str, expected: set[str]) -> None:
    assert set(found(recorded(name))) == expected


def test_every_finding_has_an_id_and_the_worst_come_first() -> None:
    order = ["problem", "impossible", "warning", "note"]
    for name in shipped_recordings():
        findings = host_findings(recorded(name), CATALOG)
        assert all(finding.id for finding in findings)
        levels = [order.index(finding.level) for finding in findings]
        assert levels == sorted(levels)


# --- cards


def test_slot_with_four_lanes_says_where_to_put_the_card_and_what_it_costs() -> None:
    finding = found(recorded("amd-two-ccd-4090d"))["pcie-lanes"]
    assert "4 of its 16 lanes: its slot has no more, move it to one with 16" in finding.text
    assert "of 31.5 GB/s one has 7.9" in finding.cost  # 16 and 4 lanes of 1.969 GB/s


def test_lanes_that_a_full_slot_lost_are_a_matter_of_contact() -> None:
    finding = found(with_card(slot_max=REGULAR))["pcie-lanes"]
    assert "reseat it" in finding.text


@pytest.mark.parametrize(
    ("facts", "gone"),
    [
        pytest.param(with_card(link_now=REGULAR), "pcie-lanes", id="all-lanes"),
        pytest.param(with_card(link_now=PcieLink(generation=1, lanes=16)), "pcie-lanes", id="idle-card-lowers-its-generation"),
        pytest.param(with_card(processes=(), display_active=False), "gpu-in-use", id="nobody-uses-it"),
        pytest.param(with_card(persistence_mode=None), "gpu-persistence", id="persistence-not-told"),
        pytest.param(with_system(clock_synchronized=None), "clock", id="clock-not-told"),
        pytest.param(with_system(reboot_pending=()), "reboot-pending", id="no-reboot-pending"),
        pytest.param(with_system(unattended_upgrades=False), "driver-upgrades-itself", id="no-unattended-upgrades"),
        pytest.param(
            with_system(package_holds=tuple(recorded("amd-two-ccd-4090d").nvidia.packages)), "driver-upgrades-itself", id="on-hold"
        ),
        pytest.param(with_nvidia(modules=()), "next-boot-no-driver", id="kernels-not-told"),
    ],
)
def test_what_is_in_order_is_not_a_finding(facts: HostFacts, gone: str) -> None:
    assert gone not in found(facts)


@pytest.mark.parametrize(
    ("facts", "id_", "words"),
    [
        pytest.param(with_card(slot_max=PcieLink(generation=3, lanes=16)), "pcie-generation", "its slot PCIe 3", id="old-slot"),
        pytest.param(with_card(responds=False), "gpu-lost", "fell off the bus", id="lost"),
        pytest.param(with_card(pci_id="10de:0fff", driver_name=None), "gpu-unknown", "10de:0fff", id="unknown-card"),
        pytest.param(with_card(driver_version=None), "gpu-not-listed", "does not list it", id="not-listed"),
        pytest.param(with_card(driver_version=None, kernel_driver="vfio-pci"), "gpu-held", "vfio-pci", id="held-for-a-vm"),
        pytest.param(with_card(recovery_action="Reset"), "gpu-recovery", "Reset", id="recovery"),
        pytest.param(with_card(uncorrectable_ecc_errors=3), "gpu-ecc-errors", "3 uncorrectable", id="ecc-errors"),
        pytest.param(with_card(throttle_reasons=("hw_thermal_slowdown",)), "gpu-throttled", "too hot", id="too-hot"),
        pytest.param(with_card(compute_mode="Prohibited"), "gpu-compute-mode", "nvidia-smi -c 0", id="prohibited"),
        pytest.param(with_card(mig=True), "gpu-mig", "instances", id="mig"),
        pytest.param(with_card(ecc_now=True, ecc_after_reboot=False), "gpu-ecc-pending", "off after a reboot", id="ecc-pending"),
        pytest.param(with_nvidia(xid_errors=("NVRM: Xid (PCI:0000:0e:00): 79",)), "gpu-xid", "79", id="xid"),
        pytest.param(
            with_nvidia(modules=(KernelModule(kernel="6.14.0-33-generic", running=True, nvidia_version="590.1", dkms=None),)),
            "driver-reboot",
            "590.1 is installed",
            id="other-driver-after-reboot",
        ),
        pytest.param(
            changed(
                bare_workstation(),
                nvidia=NvidiaSoftware(
                    modules=(KernelModule(kernel="6.8.0-88-generic", running=True, nvidia_version="580.1", dkms=None),)
                ),
            ),
            "driver-reboot",
            "580.1 is installed and does not run (nouveau holds the card)",
            id="driver-waits-for-its-reboot",
        ),
        pytest.param(with_cpu(governor="powersave", frequency_driver="acpi-cpufreq"), "cpu-governor", "powersave", id="powersave"),
        pytest.param(with_cpu(offline=(30, 31)), "cpu-offline", "30-31", id="offline"),
        pytest.param(with_cpu(isolated=(2, 3)), "cpu-isolated", "2-3", id="isolated"),
        pytest.param(
            changed(
                bare_workstation(), numa_nodes=(NumaNode(id=0, cpus=(0,), memory_mib=9), NumaNode(id=1, cpus=(1,), memory_mib=0))
            ),
            "numa-memoryless",
            "node 1",
            id="socket-without-memory",
        ),
        pytest.param(changed(bare_workstation(), root_access="none"), "no-root", "sudo", id="no-root"),
        pytest.param(
            changed(bare_workstation(), system=bare_workstation().system.model_copy(update={"secure_boot": True})),
            "secure-boot",
            "signed",
            id="secure-boot-without-driver",
        ),
        pytest.param(
            changed(recorded("amd-two-ccd-4090d"), unknown={"nvidia-smi": "Driver/library version mismatch"}),
            "driver-mismatch",
            "580.95.05",
            id="mismatch",
        ),
        pytest.param(
            changed(recorded("amd-two-ccd-4090d"), unknown={"nvidia-smi": "did not answer"}),
            "driver-silent",
            "did not",
            id="silent",
        ),
    ],
)
def test_defect_is_named(facts: HostFacts, id_: str, words: str) -> None:
    assert words in found(facts)[id_].text


def test_a_card_that_fell_off_the_bus_has_no_other_finding() -> None:
    about_the_card = {id_ for id_ in found(with_card(responds=False)) if id_.startswith(("gpu-", "pcie-"))}
    assert about_the_card == {"gpu-lost"}


def test_our_own_server_on_the_card_is_no_stranger() -> None:
    ours = ({"pid": 1, "name": "VLLM::EngineCore", "kind": "C", "memory_mib": 20000},)
    assert "gpu-in-use" not in found(with_card(processes=ours, display_active=False))


# --- memory


def memory(
    modules: int, channels: int | None, rated_mt_s: int | None, configured_mt_s: int | None, empty_slots: int = 0, ecc: bool = False
) -> MemoryFacts:
    module = MemoryModule(
        locator="DIMM_A1",
        bank="",
        size_mib=16384,
        type="DDR5",
        rated_mt_s=rated_mt_s,
        configured_mt_s=configured_mt_s,
        data_width_bits=64,
        total_width_bits=64,
    )
    return MemoryFacts(
        modules=(module,) * modules,
        empty_slots=empty_slots,
        type="DDR5",
        rated_mt_s=rated_mt_s,
        configured_mt_s=configured_mt_s,
        channels=channels,
        channels_inferred=False,
        channels_reason="as given",
        total_gib=16.0 * modules,
        bandwidth_gb_s=channels * 8 * configured_mt_s / 1000 if channels and configured_mt_s else None,
        ecc=ecc,
    )


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        pytest.param(
            memory(4, 2, 6000, 3600), [("6000", "3600", "two modules share a channel", "57.6 of 96.0 GB/s")], id="four-modules"
        ),
        pytest.param(memory(2, 2, 5600, 4400), [("5600", "4400", "EXPO or XMP may be off", "21%")], id="profile-off"),
        pytest.param(memory(16, 16, 4800, 4400, ecc=True), [("4800", "4400", "its processor may allow no more")], id="server"),
        pytest.param(memory(1, 1, 4800, 4800, empty_slots=3), [("one memory channel",)], id="one-channel"),
        pytest.param(memory(1, 1, 4800, 4800), [], id="one-slot-only"),
        pytest.param(memory(2, 2, 4800, 6000), [], id="faster-than-rated"),
        pytest.param(memory(2, None, None, None), [], id="unknown"),
        pytest.param(None, [], id="no-dmidecode"),
    ],
)
def test_memory(modules: MemoryFacts | None, words: list[tuple[str, ...]]) -> None:
    findings = found(changed(bare_workstation(), memory_modules=modules))
    said = [f"{finding.text} {finding.cost}" for id_, finding in findings.items() if id_.startswith("memory-")]
    assert len(said) == len(words)
    for text, expected in zip(said, words, strict=True):
        assert all(word in text for word in expected), text
