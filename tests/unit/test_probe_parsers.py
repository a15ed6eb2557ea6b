"""The parsers, each by its source: what the kernel, the driver and the tools are known to print."""

import json
from pathlib import Path

import pytest

from bringup.hardware import Cpu, GpuState, HostFacts, KernelModule, PcieLink
from bringup.probe.cpu import parse_cpu, parse_numa
from bringup.probe.gpu import parse_nvidia_smi_list, parse_pci_displays
from bringup.probe.host import parse_host
from bringup.probe.memory import parse_memory_use
from bringup.probe.nvidia import parse_nvidia, parse_packages
from bringup.probe.nvidia_smi import parse_nvidia_smi_xml
from bringup.probe.system import parse_board, parse_operating_system, parse_system, parse_virtualization
from bringup.recording import recording_named
from tests.unit.machines import NOW_UNIX_S

H100 = Path(__file__).parents[2].parent / "shared/gpu/h100"
needs_h100 = pytest.mark.skipif(not H100.is_dir(), reason="the outputs of a real H100 (../shared/gpu/h100) are not here")


def recorded(name: str) -> HostFacts:
    return parse_host(recording_named(name).probe_text(NOW_UNIX_S))


# --- processors


def cpu(cpus: str, lists: str = "", allowed: str = "", cgroup: str = "", numa: str = "") -> Cpu:
    return parse_cpu(cpus, lists, f"Cpus_allowed_list:\t{allowed}", "model name\t: A processor", cgroup, parse_numa(numa))


TWO_SOCKETS = "\n".join(f"cpu={n} package={n // 2} die=0 core={n % 2}" for n in range(4))


def test_cores_of_two_sockets_are_different_ones_though_the_kernel_numbers_them_alike() -> None:
    found = cpu(TWO_SOCKETS, "online=0-3\npresent=0-3")
    assert (found.sockets, found.physical_cores, len(set(found.core_of.values()))) == (2, 4, 4)


def test_offline_and_forbidden_cpus_do_not_serve() -> None:
    found = cpu("cpu=0 package=0 core=0\ncpu=1 package=0 core=0\ncpu=2 package=0 core=1\ncpu=3", "online=0-2\npresent=0-3", "1-3")
    assert (found.usable, found.online, found.offline) == ((1, 2), (0, 1, 2), (3,))
    assert found.physical_cores == 2


@pytest.mark.parametrize(
    ("cgroup", "usable", "worth"),
    [
        pytest.param("", 4, 4.0, id="no-limit"),
        pytest.param("cpu.max=max 100000", 4, 4.0, id="max"),
        pytest.param("cpu.max=-1 100000", 4, 4.0, id="version-1-no-limit"),
        pytest.param("cpu.max=150000 100000", 4, 1.5, id="quota"),
        pytest.param("cpu.max=800000 100000", 4, 4.0, id="quota-beyond-the-cpus"),
        pytest.param("cpu.max=max 100000\ncpu.max=200000 100000", 4, 2.0, id="least-counts"),
        pytest.param("cpuset.cpus.effective=2-3", 2, 2.0, id="cpuset"),
        pytest.param("cpuset.effective_cpus=1", 1, 1.0, id="version-1-cpuset"),
        pytest.param("cpu.max=0 0", 4, 4.0, id="nonsense"),
    ],
)
def test_cgroup_limits(cgroup: str, usable: int, worth: float) -> None:
    found = cpu(TWO_SOCKETS, "online=0-3", cgroup=cgroup)
    assert (len(found.usable), found.worth_cpus) == (usable, worth)


def test_hybrid_processor() -> None:
    found = recorded("4090d-workstation").cpu
    assert (found.performance, found.efficiency) == (tuple(range(16)), tuple(range(16, 32)))
    assert (found.smt, found.smt_switchable, found.max_mhz) == ("on", True, 6000)
    assert (found.governor, found.frequency_driver) == ("powersave", "intel_pstate")


def test_processor_whose_cores_are_alike_has_no_kinds() -> None:
    found = cpu(TWO_SOCKETS, "online=0-3\ncore=0-3\natom=")
    assert (found.performance, found.efficiency) == ((), ())


def test_two_dies_of_which_one_has_the_large_cache() -> None:
    found = recorded("amd-two-ccd-4090d").cpu
    assert [(group.cpus[:2], len(group.cpus), group.size_kib) for group in found.l3_groups] == [
        ((0, 1), 16, 98304),
        ((8, 9), 16, 32768),
    ]


def test_without_topology_each_cpu_counts_as_a_core() -> None:
    found = cpu("cpu=0 package= core=\ncpu=1 package= core=", "online=0-1")
    assert (found.physical_cores, found.sockets, found.smt, found.max_mhz) == (2, None, None, None)


def test_without_sysfs_the_allowed_cpus_are_what_is_known() -> None:
    assert cpu("", "", "0-2").usable == (0, 1, 2)
    with pytest.raises(ValueError, match="names a CPU"):
        cpu("")


def test_nodes() -> None:
    found = cpu(
        TWO_SOCKETS,
        "online=0-3",
        numa="node=0 cpus=0-1 memory_kb=2048 distances=10,21\nnode=1 cpus=2-3 memory_kb=0 distances=21,10",
    )
    assert found.node_of == {0: 0, 1: 0, 2: 1, 3: 1}
    nodes = parse_numa("node=1 cpus= memory_kb=1024 distances=21,10\nnode=0 cpus=0-1 memory_kb=2048 distances=10,21")
    assert [(node.id, node.cpus, node.memory_mib, node.distances) for node in nodes] == [
        (0, (0, 1), 2, (10, 21)),
        (1, (), 1, (21, 10)),
    ]


def test_cpus_that_no_node_lists_belong_to_the_only_one() -> None:
    assert cpu(TWO_SOCKETS, "online=0-3", numa="node=0 cpus= memory_kb=1 distances=10").node_of == dict.fromkeys(range(4), 0)


def test_least_of_the_memory_limits_counts() -> None:
    limits = f"cpu.max=max 100000\nmemory.max=max\nmemory.max={4 * 2**30}\nmemory.limit_in_bytes=9223372036854771712"
    memory = parse_memory_use("MemTotal: 8388608 kB\nMemAvailable: 7000000 kB\nSwapTotal: 2048 kB\n", limits)
    assert (memory.total_mib, memory.available_mib, memory.swap_mib) == (4096, 4096, 2)


@needs_h100
def test_memory_of_the_real_h100_machine() -> None:
    assert parse_memory_use((H100 / "meminfo.txt").read_text(), "").total_mib == 128887


# --- cards in sysfs


def pci(**words: str) -> str:
    return " ".join(f"{name}={word}" for name, word in {"address": "0000:01:00.0", "device": "0x2685", **words}.items())


@pytest.mark.parametrize(
    ("speed", "width", "link"),
    [
        ("2.5", "16", PcieLink(generation=1, lanes=16)),
        ("8.0", "4", PcieLink(generation=3, lanes=4)),
        ("16", "8", PcieLink(generation=4, lanes=8)),
        ("32.0", "16", PcieLink(generation=5, lanes=16)),
        ("Unknown", "16", PcieLink(generation=None, lanes=16)),
        ("Unknown", "0", None),
        ("", "", None),
        ("Unknown", "63", None),
    ],
)
def test_link(speed: str, width: str, link: PcieLink | None) -> None:
    (card,) = parse_pci_displays(pci(current_link_speed=speed, current_link_width=width))
    assert card.link_now == link


def test_card_with_everything_that_sysfs_tells() -> None:
    (card,) = parse_pci_displays(
        pci(
            subsystem_vendor="0x1043",
            subsystem_device="0x88e2",
            numa_node="1",
            local_cpulist="8-15",
            max_link_speed="16.0",
            max_link_width="16",
            driver="vfio-pci",
            config="de108526",
            slot_speed="32.0",
            slot_width="4",
        )
    )
    assert (card.subsystem_id, card.numa_node, card.local_cpus, card.kernel_driver) == (
        "1043:88e2",
        1,
        tuple(range(8, 16)),
        "vfio-pci",
    )
    assert (card.link_max, card.slot_max) == (PcieLink(generation=4, lanes=16), PcieLink(generation=5, lanes=4))
    assert card.responds is True


@pytest.mark.parametrize(("config", "responds"), [("ffffffff", False), ("de108526", True), ("", None)])
def test_card_that_reads_all_ones_is_gone(config: str, responds: bool | None) -> None:
    (card,) = parse_pci_displays(pci(config=config))
    assert card.responds is responds


@pytest.mark.parametrize("line", ["device=0x2685", "address=0000:01:00.0 device=xyz", "address=a device=0x2685 numa_node=far"])
def test_what_is_no_card_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"PCI|invalid literal"):
        parse_pci_displays(line)


# --- the driver's reports


@needs_h100
def test_nvidia_smi_without_a_query_is_refused() -> None:
    with pytest.raises(ValueError, match="did not list the cards but said"):
        parse_nvidia_smi_list((H100 / "nvidia-smi.txt").read_text())


@needs_h100
def test_report_of_a_real_h100_agrees_with_nvml_of_the_same_moment() -> None:
    nvml = json.loads((H100 / "nvml.json").read_text())
    state = parse_nvidia_smi_xml((H100 / "nvidia-smi_q.xml").read_text())["0000:00:06.0"]
    assert state.memory_total_mib == nvml["memory"]["total"] // 2**20
    assert state.memory_reserved_mib == nvml["memory_v2"]["reserved"] // 2**20
    assert state.power.limit_w == nvml["PowerManagementLimit"] / 1000
    assert [state.power.min_limit_w, state.power.max_limit_w] == [w / 1000 for w in nvml["PowerManagementLimitConstraints"]]
    assert (state.clocks.sm_mhz, state.clocks.max_sm_mhz) == (nvml["clock_sm"], nvml["max_clock_sm"])
    temperature = state.temperature
    assert (temperature.slowdown_c, temperature.shutdown_c) == (nvml["temp_threshold_slowdown"], nvml["temp_threshold_shutdown"])
    assert temperature.max_operating_c == nvml["temp_threshold_gpu_max"]
    assert (state.link_now, state.link_max) == (PcieLink(generation=5, lanes=16), PcieLink(generation=5, lanes=16))
    assert (state.ecc_now, state.mig, state.persistence_mode, state.compute_mode) == (True, False, True, "Default")
    assert (state.uncorrectable_ecc_errors, state.recovery_action, state.throttle_reasons, state.processes) == (0, None, (), ())
    assert state.pci_id == "10de:2330"


def test_recorded_h100() -> None:
    facts = recorded("h100-datacenter")
    (card,) = facts.gpus
    assert (card.driver_name, card.driver_memory_mib, card.driver_version) == ("NVIDIA H100 80GB HBM3", 81559, "580.159.04")
    assert card.state is not None
    assert (card.state.architecture, card.state.memory_free_mib, card.state.power.default_limit_w) == ("Hopper", 81079, 700.0)
    assert (len(facts.cpu.usable), facts.cpu.physical_cores, facts.memory.total_mib) == (16, 16, 128887)
    assert (facts.nvidia.running_version, facts.nvidia.open_modules) == ("580.159.04", True)
    assert facts.system.package_holds is not None
    assert "libnccl2" in facts.system.package_holds


def report(inner: str) -> str:
    return f'<?xml version="1.0" ?>\n<nvidia_smi_log><gpu id="00000000:01:00.0">{inner}</gpu></nvidia_smi_log>\n'


def state(inner: str) -> GpuState:
    return parse_nvidia_smi_xml(report(inner))["0000:01:00.0"]


def test_tags_of_older_drivers() -> None:
    found = state(
        "<power_readings><power_draw>61.20 W</power_draw><power_limit>250.00 W</power_limit></power_readings>"
        "<temperature><gpu_temp>60 C</gpu_temp><gpu_temp_max_threshold>95 C</gpu_temp_max_threshold>"
        "<gpu_temp_slow_threshold>90 C</gpu_temp_slow_threshold></temperature>"
        "<clocks_throttle_reasons><clocks_throttle_reason_gpu_idle>Active</clocks_throttle_reason_gpu_idle>"
        "<clocks_throttle_reason_hw_thermal_slowdown>Active</clocks_throttle_reason_hw_thermal_slowdown>"
        "<clocks_throttle_reason_sw_power_cap>Not Active</clocks_throttle_reason_sw_power_cap></clocks_throttle_reasons>"
    )
    assert (found.power.draw_w, found.power.limit_w, found.power.default_limit_w) == (61.2, 250.0, None)
    assert (found.temperature.slowdown_c, found.temperature.shutdown_c) == (90, 95)
    assert found.throttle_reasons == ("hw_thermal_slowdown",)


def test_processes_of_the_card() -> None:
    def process(pid: int, kind: str, name: str, memory: str) -> str:
        inner = f"<pid>{pid}</pid><type>{kind}</type><process_name>{name}</process_name><used_memory>{memory}</used_memory>"
        return f"<process_info>{inner}</process_info>"

    found = state(f"<processes>{process(7, 'C', 'python', '512 MiB')}{process(8, 'G', 'x', 'N/A')}</processes>").processes
    assert [tuple(one.model_dump().values()) for one in found] == [(7, "python", "C", 512), (8, "x", "G", None)]


def test_errors_and_settings() -> None:
    found = state(
        "<ecc_errors><volatile><sram_uncorrectable>1</sram_uncorrectable><dram_uncorrectable>2</dram_uncorrectable></volatile></ecc_errors>"
        "<ecc_mode><current_ecc>Enabled</current_ecc><pending_ecc>Disabled</pending_ecc></ecc_mode>"
        "<gpu_recovery_action>Reset</gpu_recovery_action><mig_mode><current_mig>Enabled</current_mig></mig_mode>"
    )
    assert (found.uncorrectable_ecc_errors, found.ecc_now, found.ecc_after_reboot) == (3, True, False)
    assert (found.recovery_action, found.mig) == ("Reset", True)


def test_values_that_a_card_does_not_have_are_none() -> None:
    found = state(
        "<fan_speed>N/A</fan_speed><ecc_mode><current_ecc>N/A</current_ecc></ecc_mode><mig_mode><current_mig>N/A</current_mig></mig_mode>"
    )
    assert (found.ecc_now, found.mig, found.memory_total_mib, found.uncorrectable_ecc_errors) == (None, None, None, None)
    lost = state(
        "<fb_memory_usage><total>GPU is lost</total></fb_memory_usage><performance_state>[Unknown Error]</performance_state>"
    )
    assert (lost.memory_total_mib, lost.performance_state) == (None, None)


def test_warnings_around_the_report_do_not_hide_it() -> None:
    text = report("<performance_state>P0</performance_state>")
    noisy = f"WARNING: something\n{text}WARNING: infoROM is corrupted at gpu 0000:01:00.0\n"
    assert parse_nvidia_smi_xml(noisy) == parse_nvidia_smi_xml(text)


@pytest.mark.parametrize("text", ["", "No devices were found", report("")[:60], report("<a>"), report("\x00")])
def test_report_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nvidia-smi -q -x gave"):
        parse_nvidia_smi_xml(text)


def test_cards_that_only_the_driver_shows() -> None:
    """As under gVisor or WSL2, where sysfs lists no PCI device."""
    text = recording_named("rented-container").probe_text(NOW_UNIX_S)
    for hidden in ("pci-display", "nvidia-module"):
        before, _, rest = text.partition(f"@@bringup {hidden}\n")
        text = before + rest[rest.index("@@bringup ") :]
    (card,) = parse_host(text).gpus
    assert (card.pci_address, card.pci_id, card.driver_version, card.driver_memory_mib) == (
        "0000:81:00.0",
        "10de:2685",
        "570.172.08",
        24564,
    )


# --- NVIDIA's software


def test_each_installed_kernel_and_its_module() -> None:
    modules = recorded("amd-two-ccd-4090d").nvidia.modules
    assert modules == (
        KernelModule(kernel="6.14.0-33-generic", running=True, nvidia_version="580.95.05", dkms="installed"),
        KernelModule(kernel="6.14.0-36-generic", running=False, nvidia_version=None, dkms=None),
    )


@pytest.mark.parametrize(
    "line",
    [
        "nvidia/580.95.05, 6.8.0-88-generic, x86_64: installed",
        "nvidia, 580.95.05, 6.8.0-88-generic, x86_64: installed",
        "nvidia/580.95.05, 6.8.0-88-generic, x86_64: installed (Differences between built and installed modules)",
        "nvidia-current/535.247.01, 6.8.0-88-generic, x86_64: installed",
    ],
)
def test_dkms_of_all_ages(line: str) -> None:
    found = parse_nvidia(
        "", {}, "kernel=6.8.0-88-generic module=/x version=580.95.05", f"{line}\nzfs/2, 6.8.0-88-generic, x86_64: added", "", "", ""
    )
    assert found.modules[0].dkms == "installed"


def test_module_of_a_driver_that_sysfs_does_not_name() -> None:
    description = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024"
    found = parse_nvidia(f"version=\ndescription={description}", {}, "", "", "", "", "")
    assert (found.running_version, found.open_modules) == ("535.183.01", False)


def test_toolkits_are_named_once() -> None:
    assert [(toolkit.path, toolkit.version) for toolkit in recorded("rented-container").nvidia.toolkits] == [
        ("/usr/local/cuda-12.8", "12.8.1")
    ]


def test_xid_errors_are_picked_from_the_kernel_log() -> None:
    log = "[1.0] NVRM: loading\n[9.1] NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus."
    assert parse_nvidia("", {}, "", "", "", log, "").xid_errors == (log.splitlines()[1],)


def test_packages() -> None:
    text = "ii |nvidia-utils-580|580.1\nhi |libnvidia-compute-580|580.1\nrc |nvidia-utils-570|570.1\nhn |gone|1"
    installed, holds = parse_packages(text)
    assert installed == {"nvidia-utils-580": "580.1", "libnvidia-compute-580": "580.1"}
    assert holds == ("libnvidia-compute-580", "gone")
    assert parse_packages("dpkg-query is not installed") == ({}, None)


# --- the system


@pytest.mark.parametrize(
    ("text", "board", "kernel", "expected"),
    [
        ("detected=none\ncontainer=none", "", "6.8.0", ("none", None)),
        ("detected=kvm\ncontainer=none", "", "6.8.0", ("kvm", None)),
        ("detected=systemd-nspawn\ncontainer=systemd-nspawn", "", "6.8.0", ("systemd-nspawn", "systemd-nspawn")),
        ("detected=wsl\ncontainer=wsl", "", "5.15.167.4-microsoft-standard-WSL2", ("wsl", "wsl")),
        # without systemd-detect-virt
        ("detected=\ncontainer=\nmarker=docker\nhypervisor=yes", "sys_vendor=QEMU", "6.8.0", ("docker", "docker")),
        ("detected=\ncontainer=\nmarker=podman", "", "6.8.0", ("podman", "podman")),
        ("detected=\ncontainer=", "", "5.15.167.4-microsoft-standard-WSL2", ("wsl", "wsl")),
        ("detected=\ncontainer=\nhypervisor=yes", "sys_vendor=QEMU\nproduct_name=Standard PC", "6.8.0", ("qemu", None)),
        ("detected=\ncontainer=\nhypervisor=yes", "sys_vendor=VMware, Inc.", "6.8.0", ("vmware", None)),
        ("detected=\ncontainer=\nhypervisor=yes", "", "6.8.0", ("vm-other", None)),
        ("detected=\ncontainer=", "sys_vendor=ASUS", "6.8.0", ("none", None)),
        ("detected=\ncontainer=", "", "6.8.0", ("unknown", None)),
    ],
)
def test_virtualization(text: str, board: str, kernel: str, expected: tuple[str, str | None]) -> None:
    assert parse_virtualization(text, board, kernel) == expected


@pytest.mark.parametrize(
    ("firmware", "container", "boot", "secure_boot"),
    [
        ("boot=uefi\nsecure_boot=1", None, "uefi", True),
        ("boot=uefi\nsecure_boot=0", None, "uefi", False),
        ("boot=uefi", None, "uefi", None),
        ("boot=bios", None, "bios", False),
        ("", None, None, None),
        ("boot=bios", "docker", None, None),
    ],
)
def test_boot(firmware: str, container: str | None, boot: str | None, secure_boot: bool | None) -> None:
    system = parse_system({"firmware": firmware}, container, {}, None)
    assert (system.boot, system.secure_boot) == (boot, secure_boot)


def test_kernel_switches() -> None:
    sections = {
        "firmware": "lockdown=none [integrity] confidentiality\niommu_groups=12",
        "transparent-hugepages": "[always] madvise never",
        "swaps": "Filename\tType\tSize\tUsed\tPriority\n/swap.img file 1 0 -2",
    }
    system = parse_system(sections, None, {}, None)
    assert (system.lockdown, system.iommu_groups, system.transparent_hugepages) == ("integrity", 12, "always")
    assert system.swap_devices == ("/swap.img",)


@pytest.mark.parametrize(
    ("text", "packages", "expected"),
    [
        ('APT::Periodic::Unattended-Upgrade "1";\ntimer=enabled', {"unattended-upgrades": "2"}, True),
        ('APT::Periodic::Unattended-Upgrade "0";\ntimer=enabled', {"unattended-upgrades": "2"}, False),
        ('APT::Periodic::Unattended-Upgrade "1";\ntimer=masked', {"unattended-upgrades": "2"}, False),
        ('APT::Periodic::Unattended-Upgrade "1";\ntimer=enabled', {}, False),
        ("", {}, None),
    ],
)
def test_unattended_upgrades(text: str, packages: dict[str, str], expected: bool | None) -> None:
    assert parse_system({"unattended-upgrades": text}, None, packages, ()).unattended_upgrades is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pending=no", ()),
        ("pending=yes", ("a package",)),
        ("pending=yes\nlibc6\nlibc6\nlinux-base", ("libc6", "linux-base")),
        ("", None),
    ],
)
def test_pending_reboot(text: str, expected: tuple[str, ...] | None) -> None:
    assert parse_system({"reboot": text}, None, {}, None).reboot_pending == expected


@pytest.mark.parametrize(
    ("text", "zone", "synchronized"),
    [
        ("Timezone=Asia/Shanghai\nNTPSynchronized=yes\nlocaltime=x\netc_timezone=y", "Asia/Shanghai", True),
        ("NTPSynchronized=no\nlocaltime=\netc_timezone=Etc/UTC", "Etc/UTC", False),
        ("localtime=../usr/share/zoneinfo/Europe/Berlin\netc_timezone=", "Europe/Berlin", None),
        ("localtime=\netc_timezone=", None, None),
    ],
)
def test_time(text: str, zone: str | None, synchronized: bool | None) -> None:
    system = parse_system({"time": text}, None, {}, None)
    assert (system.time_zone, system.clock_synchronized) == (zone, synchronized)


def test_operating_system_without_version() -> None:
    found = parse_operating_system('ID=arch\nPRETTY_NAME="Arch Linux"', "6.12.1-arch1-1\nx86_64")
    assert (found.id, found.version_id, found.name, found.architecture) == ("arch", "", "Arch Linux", "x86_64")


def test_board_that_names_nothing() -> None:
    assert parse_board("sys_vendor=\nproduct_name=") is None


# --- whole recordings, against what their authors put in by hand


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("4090d-workstation", ("none", 1, 24, 32, 1, 2, 6000, 96.0, 64.0, ["10de:2685"])),
        ("amd-two-ccd-4090d", ("none", 1, 16, 32, 1, 2, 3600, 57.6, 128.0, ["10de:2685"])),
        ("dual-socket-four-cards", ("none", 2, 64, 128, 2, 16, 4400, 563.2, 512.0, ["10de:2685"] * 3 + ["10de:2684"])),
        ("rented-container", ("docker", 1, 64, 128, 1, None, None, None, None, ["10de:2685"] * 4)),
        ("lab-host", ("systemd-nspawn", 1, 2, 2, 1, None, None, None, None, [])),
        ("h100-datacenter", ("docker", 1, 16, 16, 1, None, None, None, None, ["10de:2330"])),
    ],
)
def test_recording(name: str, expected: tuple[object, ...]) -> None:
    facts = recorded(name)
    memory = facts.memory_modules
    assert (
        facts.virtualization,
        facts.cpu.sockets,
        facts.cpu.physical_cores,
        len(facts.cpu.usable),
        len(facts.numa_nodes),
        memory and memory.channels,
        memory and memory.configured_mt_s,
        memory and memory.bandwidth_gb_s,
        memory and memory.total_gib,
        [gpu.pci_id for gpu in facts.gpus],
    ) == expected


def test_rented_container_is_worth_the_cpus_that_it_gets() -> None:
    facts = recorded("rented-container")
    assert (facts.cpu.quota_cpus, facts.cpu.worth_cpus) == (16.0, 16.0)
    assert (facts.memory.total_mib, facts.init, facts.system.container) == (65536, "bash", "docker")
    assert facts.read_only_sysctls == ("vm.swappiness", "kernel.numa_balancing", "net.core.somaxconn")
    assert [gpu.pci_address for gpu in facts.gpus if gpu.driver_version] == ["0000:81:00.0"]
