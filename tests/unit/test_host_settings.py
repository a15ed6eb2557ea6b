"""Settings of the host: which are listed where, which are on, what their evidence is, and how they are read back."""

import subprocess
from typing import Any

import pytest

from bringup.hardware import Gpu, GpuPower, HostFacts
from bringup.plan.host import HostSetting, owner_findings, plan_host
from bringup.plan.placement import plan_placement
from bringup.probe.host import parse_host
from bringup.recording import recording_named, shipped_recordings
from tests.unit.machines import NOW_UNIX_S, bare_workstation, changed, two_socket_server


def recorded(name: str) -> HostFacts:
    return parse_host(recording_named(name).probe_text(NOW_UNIX_S))


def planned(facts: HostFacts, gpu: Gpu | None = None) -> dict[str, HostSetting]:
    """The settings by their keys, planned for the last card that the driver holds, if any."""
    driven = [card for card in facts.gpus if card.driver_version] or list(facts.gpus)
    card = gpu or (driven[-1] if driven else None)
    settings = plan_host(facts, plan_placement(facts, card), card)
    assert len({setting.key for setting in settings}) == len(settings)
    return {setting.key: setting for setting in settings}


def with_cpu(facts: HostFacts, **fields: Any) -> HostFacts:
    return changed(facts, cpu=facts.cpu.model_copy(update=fields))


ALWAYS = {"nofile": True, "memlock": False, "transparent_hugepage": False}
"""Key to whether it is on."""
UNREAD = {"net.core.somaxconn": False}
"""Where what somaxconn is was not recorded."""
OWN_CLOCK = {"cpu_governor": False, "cpu_energy_performance_preference": False, "cpu_idle_latency_us": False, "smt": False}

RECORDED: list[tuple[str, dict[str, bool]]] = [
    ("4090d-workstation", {**ALWAYS, **OWN_CLOCK, "vm.swappiness": True}),
    ("amd-two-ccd-4090d", {**ALWAYS, **OWN_CLOCK, "vm.swappiness": True, "gpu_power_limit_w": False}),  # 300 of 425 W
    ("dual-socket-four-cards", {**ALWAYS, "kernel.numa_balancing": True, "cpu_idle_latency_us": False, "smt": False}),  # no swap
    ("h100-datacenter", {**ALWAYS, **UNREAD}),
    ("lab-host", {**ALWAYS, **UNREAD}),
    ("rented-container", {**ALWAYS, "cpu_governor": False, "cpu_idle_latency_us": False, "smt": False}),
]


@pytest.mark.parametrize(("name", "on"), RECORDED)
def test_recorded_machines(name: str, on: dict[str, bool]) -> None:
    assert {key: setting.default_on for key, setting in planned(recorded(name)).items()} == on


def test_every_shipped_recording_is_looked_at() -> None:
    assert {name for name, _ in RECORDED} == set(shipped_recordings())


@pytest.mark.parametrize("name", shipped_recordings())
def test_what_is_on_has_evidence_and_what_is_listed_has_a_reason(name: str) -> None:
    for setting in planned(recorded(name)).values():
        assert setting.why
        assert setting.source
        assert setting.read_back
        assert not setting.default_on or setting.evidence in ("measured", "vendor", "documentation")


# --- sysctls


def test_swappiness_is_set_where_there_is_swap() -> None:
    swappiness = planned(bare_workstation())["vm.swappiness"]
    assert (swappiness.now, swappiness.value, swappiness.read_back) == ("60", "10", "sysctl -n vm.swappiness")
    without = changed(bare_workstation(), memory=bare_workstation().memory.model_copy(update={"swap_mib": 0}))
    assert "vm.swappiness" not in planned(without)


@pytest.mark.parametrize(
    ("now", "on"),
    [
        pytest.param("1", True, id="on"),
        pytest.param("0", True, id="off already"),
        pytest.param("2", False, id="memory tiering, which somebody chose"),
    ],
)
def test_numa_balancing_on_two_nodes(now: str, on: bool) -> None:
    balancing = planned(changed(two_socket_server(), sysctls={"kernel.numa_balancing": now}))["kernel.numa_balancing"]
    assert (balancing.now, balancing.value, balancing.default_on) == (now, "0", on)


def test_numa_balancing_is_left_out_where_it_does_nothing_or_the_kernel_has_none() -> None:
    facts = two_socket_server()
    assert "kernel.numa_balancing" not in planned(bare_workstation())
    assert "kernel.numa_balancing" not in planned(changed(facts, sysctls={"vm.swappiness": "60"}))


def test_numa_balancing_is_left_on_where_the_server_is_on_both_nodes() -> None:
    facts = changed(two_socket_server(), sysctls={"kernel.numa_balancing": "1"})
    nowhere = facts.gpus[0].model_copy(update={"numa_node": None})
    assert "kernel.numa_balancing" not in planned(changed(facts, gpus=(nowhere,)))


def test_numa_balancing_is_left_out_where_a_second_node_has_memory_only() -> None:
    facts = two_socket_server()
    first = facts.numa_nodes[0].model_copy(update={"cpus": facts.cpu.usable})
    second = facts.numa_nodes[1].model_copy(update={"cpus": ()})
    facts = with_cpu(facts, node_of=dict.fromkeys(facts.cpu.usable, 0))
    facts = changed(facts, numa_nodes=(first, second), sysctls={"kernel.numa_balancing": "1"})
    assert "kernel.numa_balancing" not in planned(facts)


@pytest.mark.parametrize(
    ("now", "on"),
    [
        pytest.param("128", False, id="too few"),
        pytest.param("2047", False, id="one too few"),
        pytest.param("2048", None, id="enough"),
        pytest.param("65535", None, id="more is not lowered"),
        pytest.param(None, False, id="not known"),
    ],
)
def test_a_longer_queue_of_connections_is_offered_where_it_is_too_short(now: str | None, on: bool | None) -> None:
    sysctls = {} if now is None else {"net.core.somaxconn": now}
    setting = planned(changed(bare_workstation(), sysctls=sysctls)).get("net.core.somaxconn")
    assert (setting.default_on if setting else None) == on
    assert setting is None or setting.value == "4096"


@pytest.mark.parametrize(
    ("fields", "writable"),
    [
        pytest.param({}, True, id="root"),
        pytest.param({"root_access": "sudo"}, True, id="sudo"),
        pytest.param({"root_access": "none"}, False, id="no root"),
        pytest.param({"read_only_sysctls": ("vm.swappiness",)}, False, id="read-only"),
    ],
)
def test_a_sysctl_that_cannot_be_written_stays_in_the_list(fields: dict[str, Any], writable: bool) -> None:
    assert planned(changed(bare_workstation(), **fields))["vm.swappiness"].writable is writable


def test_the_owner_is_told_what_is_on_and_cannot_be_written() -> None:
    read_only = ("vm.swappiness", "kernel.numa_balancing")
    facts = changed(two_socket_server(), sysctls={"vm.swappiness": "10", "kernel.numa_balancing": "1"}, read_only_sysctls=read_only)
    (finding,) = owner_findings(planned(facts).values(), facts)  # swappiness is 10 already
    assert "sysctl -w kernel.numa_balancing=0" in finding.text
    assert finding.cost.startswith("documentation:")


def test_the_owner_is_not_told_of_what_is_merely_offered() -> None:
    facts = recorded("rented-container")
    assert any(setting.writable is False for setting in planned(facts).values())
    assert owner_findings(planned(facts).values(), facts) == ()


# --- limits, huge pages, clocks


def test_limits_of_the_service_are_systemds_and_unknown_without_it() -> None:
    assert planned(bare_workstation())["nofile"].writable is True
    assert planned(recorded("rented-container"))["nofile"].writable is None


@pytest.mark.parametrize("now", ["always", "madvise", "never"])
def test_huge_pages_stay_as_they_are_until_asked(now: str) -> None:
    facts = bare_workstation()
    setting = planned(changed(facts, system=facts.system.model_copy(update={"transparent_hugepages": now})))["transparent_hugepage"]
    assert (setting.now, setting.value, setting.default_on) == (now, "madvise", False)
    assert ("stays as it is" in setting.why) == (now == "madvise")


@pytest.mark.parametrize(
    ("driver", "governor", "on"),
    [
        pytest.param("intel_pstate", "powersave", False, id="the processor chooses its clock"),
        pytest.param("amd-pstate-epp", "powersave", False, id="so does this one"),
        pytest.param("amd-pstate", "powersave", False, id="passive: the lowest clock"),
        pytest.param("acpi-cpufreq", "powersave", False, id="the lowest clock"),
        pytest.param("acpi-cpufreq", "schedutil,powersave", False, id="some at the lowest clock"),
        pytest.param("acpi-cpufreq", "schedutil", False, id="follows the load"),
        pytest.param("acpi-cpufreq", "performance", None, id="right already"),
        pytest.param(None, None, None, id="a virtual machine"),
    ],
)
def test_another_governor_is_offered_where_it_is_not_performance(driver: str | None, governor: str | None, on: bool | None) -> None:
    setting = planned(with_cpu(bare_workstation(), frequency_driver=driver, governor=governor)).get("cpu_governor")
    assert (setting.default_on if setting else None) == on


def test_the_bias_is_offered_only_where_the_processor_chooses_its_clock() -> None:
    facts = bare_workstation()
    assert "cpu_energy_performance_preference" in planned(facts)
    for other in ({"governor": "performance"}, {"frequency_driver": "acpi-cpufreq"}):
        assert "cpu_energy_performance_preference" not in planned(with_cpu(facts, **other))


def test_a_containers_machine_is_not_its_own() -> None:
    settings = planned(recorded("rented-container"))
    assert {settings[key].writable for key in ("cpu_governor", "cpu_idle_latency_us", "transparent_hugepage", "smt")} == {False}


# --- SMT and the card


@pytest.mark.parametrize(("smt", "listed"), [("on", True), ("off", False), ("notsupported", False), (None, False)])
def test_smt_is_offered_where_it_is_on(smt: str | None, listed: bool) -> None:
    setting = planned(with_cpu(bare_workstation(), smt=smt)).get("smt")
    assert (setting is not None) == listed
    assert setting is None or (setting.evidence, setting.default_on) == ("folklore", False)


@pytest.mark.parametrize(
    ("limit_w", "default_w", "value"),
    [
        pytest.param(300.0, 425.0, "425.00", id="below the default"),
        pytest.param(450.0, 425.0, "425.00", id="above it"),
        pytest.param(425.0, 425.0, None, id="the default"),
        pytest.param(None, 425.0, None, id="not known"),
        pytest.param(300.0, None, None, id="default not known"),
    ],
)
def test_the_power_limit_is_the_cards_default_or_left_alone(
    limit_w: float | None, default_w: float | None, value: str | None
) -> None:
    facts = recorded("amd-two-ccd-4090d")
    state = facts.gpus[0].state
    assert state is not None
    power = GpuPower(draw_w=None, limit_w=limit_w, default_limit_w=default_w, min_limit_w=150.0, max_limit_w=600.0)
    setting = planned(facts, facts.gpus[0].model_copy(update={"state": state.model_copy(update={"power": power})})).get(
        "gpu_power_limit_w"
    )
    assert (setting.value if setting else None) == value
    assert setting is None or not setting.default_on
    assert setting is None or "0000:0e:00.0" in setting.read_back


def test_whether_a_container_may_set_the_power_limit_is_not_known() -> None:
    facts = recorded("amd-two-ccd-4090d")
    contained = changed(facts, system=facts.system.model_copy(update={"container": "docker"}))
    assert planned(facts)["gpu_power_limit_w"].writable is True
    assert planned(contained)["gpu_power_limit_w"].writable is None


# --- reading back


def test_commands_that_read_back_are_shell() -> None:
    """Those that any Linux machine can answer print one plain value; the others are at least parsed."""
    commands = {setting.key: setting.read_back for name in shipped_recordings() for setting in planned(recorded(name)).values()}
    for command in commands.values():
        subprocess.run(["sh", "-n", "-c", command], check=True)
    shown = subprocess.run(
        ["sh", "-c", commands["transparent_hugepage"].rpartition(" ")[0]],
        input="always [madvise] never\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "madvise\n"
