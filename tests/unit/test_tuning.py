"""The host's settings: what an inventory may ask for; what is set from it; made, kept and put back on files like the kernel's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.errors import BringupError
from bringup.findings.kernel import kernel_findings
from bringup.hardware import HostFacts, TuningFacts
from bringup.onhost.reading import read_all, read_numa_maps, read_processes
from bringup.onhost.tuning import ORIGINAL, Tuning, apply_at_boot, cpu_mask
from bringup.plan import Plan, make_plan
from bringup.plan.preflight import plan_blockers
from bringup.plan.tuning import AppliedSetting, TuningPlan
from bringup.probe.tuning import parse_tuning
from bringup.settings import Settings, problems_with
from bringup.verify.compare import compare
from bringup.verify.reading import Reading, parse_reading
from deploys.render import render
from tests.unit.machines import WORKSTATION, bare_workstation, changed, two_socket_server

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()


def plan_of(facts: HostFacts, wishes: dict[str, Any] | None = None, **data: Any) -> Plan:
    settings = Settings.model_validate({"host_settings": wishes or {}, **data})
    return make_plan(facts, settings, CATALOG, "0123456789ab")


def made(plan: Plan) -> dict[str, str]:
    return {setting.key: setting.value for setting in plan.tuning.settings}


def tuned(facts: HostFacts, **fields: Any) -> HostFacts:
    return changed(facts, tuning=facts.tuning.model_copy(update=fields))


# --- what may be asked for


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        pytest.param({"cpu_governer": "performance"}, "unknown setting 'cpu_governer': did you mean cpu_governor?", id="name"),
        pytest.param({"cpu_governor": "fast"}, "cpu_governor is 'fast'; allowed: performance, ", id="choice"),
        pytest.param({"vm.swappiness": 201}, "vm.swappiness is '201'; must be a whole number from 0 to 200", id="range"),
        pytest.param({"vm.swappiness": "ten"}, "must be a whole number", id="no number"),
        pytest.param({"irq_affinity": "all"}, "must be CPUs such as 0,8-9", id="CPUs"),
        pytest.param({"smt": False}, "host_settings.smt: Input should be a valid string", id="no text"),
        pytest.param(
            {"kernel_command_line": "iommu=pt"},
            "kernel_command_line is not set by it: it counts from a boot on: kernel_parameters, beside host_settings",
            id="told only",
        ),
    ],
)
def test_a_wish_that_is_wrong_is_refused(wishes: dict[str, Any], said: str) -> None:
    (problem,) = problems_with({"host_settings": wishes}, CATALOG)
    assert problem.startswith("host_settings")
    assert said in problem


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["iomu=pt"], "'iomu=pt' is not one that bringup adds to a kernel's command line: did you mean iommu or "),
        (["init=/bin/sh"], "'init=/bin/sh' is not one that bringup adds"),
        (["iommu=pt quiet"], "'iommu=pt quiet' has a value that is none"),
        (['isolcpus=2";reboot'], "has a value that is none"),
        (["nosmt", "nosmt"], "'nosmt' is named twice"),
    ],
)
def test_a_word_for_the_kernel_that_is_wrong_is_refused(words: list[str], said: str) -> None:
    (problem,) = problems_with({"kernel_parameters": words}, CATALOG)
    assert problem.startswith("kernel_parameters")
    assert said in problem


def test_numbers_and_both_words_are_taken() -> None:
    wishes = {"vm.swappiness": 0, "kernel.numa_balancing": "keep", "smt": "set", "irq_affinity": "0,8-9"}
    assert problems_with({"host_settings": wishes}, CATALOG) == []
    assert Settings.model_validate({"host_settings": wishes}).host_settings["vm.swappiness"] == "0"


# --- what is set


def test_without_wishes_only_what_evidence_justifies_is_set() -> None:
    assert made(plan_of(bare_workstation())) == {"vm.swappiness": "10"}
    assert not plan_of(bare_workstation()).tuning.at_boot


def test_wishes_add_change_and_keep() -> None:
    wishes = {"cpu_governor": "set", "transparent_hugepage": "never", "vm.swappiness": "keep", "smt": "off"}
    plan = plan_of(bare_workstation(), wishes)
    assert made(plan) == {"smt": "off", "cpu_governor": "performance", "transparent_hugepage": "never"}
    assert plan.tuning.at_boot
    assert plan.sysctls == {}
    states = {setting.key: setting.state for setting in plan.host}
    assert (states["vm.swappiness"], states["cpu_idle_latency_us"]) == ("kept", "offered")
    decisions = {decision.key: decision.why for decision in plan.decisions}
    assert decisions["transparent_hugepage"].startswith("as set in the inventory; the plan's would be madvise: ")


@pytest.mark.parametrize(
    ("key", "fields", "why"),
    [
        pytest.param("kernel.numa_balancing", {}, "one NUMA node", id="one node"),
        pytest.param("irq_affinity", {}, "no interrupts can be seen", id="no interrupts"),
        pytest.param("cpu_energy_performance_preference", {"frequency_driver": "acpi-cpufreq"}, "by itself", id="no own clock"),
        pytest.param("cpu_governor", {"frequency_driver": None, "governor": None}, "no clocks here", id="virtual machine"),
        pytest.param("smt", {"smt": "notsupported"}, "no second threads", id="no SMT"),
    ],
)
def test_a_wish_that_does_nothing_here_is_told(key: str, fields: dict[str, Any], why: str) -> None:
    facts = changed(bare_workstation(), cpu=bare_workstation().cpu.model_copy(update=fields))
    plan = plan_of(facts, {key: "set"})
    assert key not in made(plan)
    (finding,) = [finding for finding in plan.findings if finding.id == "setting-not-applicable"]
    assert why in finding.text


def test_the_bias_yields_to_the_governor() -> None:
    wishes = {"cpu_governor": "performance", "cpu_energy_performance_preference": "performance"}
    assert "cpu_energy_performance_preference" not in made(plan_of(bare_workstation(), wishes))
    assert "cpu_energy_performance_preference" in made(plan_of(bare_workstation(), {**wishes, "cpu_governor": "keep"}))


def test_interrupts_go_to_the_systems_cpus_and_irqbalance_is_told() -> None:
    facts = tuned(two_socket_server(), interrupts=99, irqbalance=True, irqbalance_banned=(1,))
    plan = plan_of(facts, {"irq_affinity": "0-3"})
    assert made(plan)["irq_affinity"] == "0-3"
    assert plan.tuning.banned_cpus == "1,4-15"  # its owner's CPU 1 stays banned
    assert "IRQBALANCE_BANNED_CPULIST=1,4-15\n" in render("irqbalance.env.j2", plan)
    (finding,) = [f for f in plan_of(facts, {"irq_affinity": "0-15"}).findings if f.id == "irq-affinity"]
    assert "CPUs that serve" in finding.text


def test_where_tuned_runs_a_profile_includes_the_hosts_own() -> None:
    facts = tuned(two_socket_server(), tuned_profile="balanced mine")
    facts = changed(facts, sysctls={"kernel.numa_balancing": "1"})
    text = render("tuned.conf.j2", plan_of(facts, {"transparent_hugepage": "set"}))
    assert "include=balanced,mine\n" in text
    assert "[sysctl]\nkernel.numa_balancing=0\n" in text
    assert "[vm]\ntransparent_hugepages=madvise\n" in text


def test_the_plan_is_the_same_once_it_is_made() -> None:
    """Else the second run would change the release's files, or take back what the first one set."""
    facts = tuned(bare_workstation(), interrupts=40, latency_limits=True)
    facts = changed(facts, sysctls={**facts.sysctls, "net.core.somaxconn": "128"})
    wishes = {
        "cpu_governor": "set",
        "smt": "set",
        "transparent_hugepage": "set",
        "irq_affinity": "set",
        "cpu_idle_latency_us": "set",
        "net.core.somaxconn": "set",
    }
    before = plan_of(facts, wishes)
    assert len(made(before)) == 7
    first = {min(c for c, core in facts.cpu.core_of.items() if core == number) for number in facts.cpu.core_of.values()}
    cpu = facts.cpu.model_copy(
        update={
            "governor": "performance",
            "smt": "off",
            "usable": tuple(sorted(first)),
            "online": tuple(sorted(first)),
            "offline": tuple(c for c in facts.cpu.usable if c not in first),
            "core_of": {c: core for c, core in facts.cpu.core_of.items() if c in first},
            "node_of": {c: node for c, node in facts.cpu.node_of.items() if c in first},
            "l3_groups": tuple(
                group.model_copy(update={"cpus": tuple(c for c in group.cpus if c in first)}) for group in facts.cpu.l3_groups
            ),
        }
    )
    found = {"cpu_governor": facts.cpu.governor, "smt": "on", "transparent_hugepage": "always", "net.core.somaxconn": "128"}
    system = facts.system.model_copy(update={"transparent_hugepages": "madvise"})
    after = changed(tuned(facts, found=found), cpu=cpu, system=system, sysctls={**facts.sysctls, **before.sysctls})
    original = changed(facts, system=facts.system.model_copy(update={"transparent_hugepages": "always"}))
    assert plan_of(after, wishes).record() == plan_of(original, wishes).record()


def test_absent_sets_nothing() -> None:
    plan = plan_of(two_socket_server(), {"cpu_governor": "set"}, tuning_state="absent")
    assert (made(plan), plan.sysctls) == ({}, {})
    # the unit's own limits are not the host's
    assert {setting.key for setting in plan.host if setting.state == "set"} == {"nofile"}


# --- what the probe says


def test_facts_from_the_probes_sections() -> None:
    sections = {
        "idle-states": "driver=intel_idle\nlatency_us=1\nlatency_us=133\nlimits=yes",
        "interrupts": "interrupts=57\nirqbalance=yes\nbanned=2-3",
        "tuned": "profile=bringup\nincluded=balanced,mine",
        "firmware": "boot=uefi\niommu_type=DMA-FQ\niommu_type=identity",
        "tuning": "file=/etc/bringup/tuning.json\nenabled=yes",
        "tuning-original": json.dumps({"settings": {"cpu_governor": {"/a": "powersave", "/b": "performance"}}}),
    }
    assert parse_tuning(sections) == TuningFacts(
        idle_driver="intel_idle",
        deepest_idle_us=133,
        latency_limits=True,
        interrupts=57,
        irqbalance=True,
        irqbalance_banned=(2, 3),
        tuned_profile="balanced mine",
        iommu_types=("DMA-FQ", "identity"),
        found={"cpu_governor": "performance,powersave"},
        files=("/etc/bringup/tuning.json",),
        unit_enabled=True,
    )


@pytest.mark.parametrize("original", ["", "{", "[]", '{"settings": []}', '{"settings": {"smt": 1}}'])
def test_garbled_sections_leave_facts_unknown(original: str) -> None:
    sections = {"idle-states": "latency_us=x", "interrupts": "interrupts=\nbanned=all", "tuning-original": original}
    assert parse_tuning(sections) == TuningFacts()


def test_command_line_and_iommu_are_told() -> None:
    facts = tuned(bare_workstation(), iommu_types=("DMA-FQ",))
    facts = changed(facts, system=facts.system.model_copy(update={"kernel_command_line": "root=/dev/sda quiet isolcpus=2,3"}))
    assert [finding.id for finding in kernel_findings(facts)] == ["kernel-command-line", "iommu-translates"]
    assert "(isolcpus=2,3)" in kernel_findings(facts)[0].text
    assert kernel_findings(bare_workstation()) == []


def test_words_for_the_kernel_are_planned_where_the_host_boots_by_grub() -> None:
    facts = tuned(bare_workstation(), update_grub=True)
    plan = plan_of(facts, kernel_parameters=["iommu=pt", "nosmt"])
    assert plan.tuning.kernel_parameters == ("iommu=pt", "nosmt")
    assert render("grub.cfg.j2", plan).endswith('"$GRUB_CMDLINE_LINUX_DEFAULT iommu=pt nosmt"\n')
    assert [(d.value, d.source) for d in plan.decisions if d.key == "kernel-parameters"] == [
        ("iommu=pt nosmt", "inventory: kernel_parameters")
    ]
    assert not any("update-grub" in blocker for blocker in plan_blockers(facts, plan))
    (blocker,) = (blocker for blocker in plan_blockers(tuned(facts, update_grub=False), plan) if "update-grub" in blocker)
    assert "add iommu=pt nosmt to its boot loader's configuration yourself" in blocker
    assert plan_of(facts, kernel_parameters=["nosmt"], tuning_state="absent").tuning.kernel_parameters == ()


def test_a_containers_kernel_is_its_owners() -> None:
    facts = bare_workstation()
    facts = changed(facts, system=facts.system.model_copy(update={"container": "docker"}))
    plan = plan_of(facts, kernel_parameters=["iommu=pt"])
    assert plan.tuning.kernel_parameters == ()
    assert [f.text for f in plan.findings if f.id == "owner-must-set" and "iommu=pt" in f.text] == [
        "a container has its machine's kernel; its owner can add iommu=pt to that kernel's command line"
    ]


# --- made, kept, put back


SMT = "sys/devices/system/cpu/smt/control"
GOVERNOR = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor"
HUGE = "sys/kernel/mm/transparent_hugepage/enabled"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files as the kernel has them; the governors differ."""
    files = {SMT: "on", GOVERNOR.format(0): "powersave", GOVERNOR.format(1): "schedutil", HUGE: "[always] madvise never"}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")
    return tmp_path


def setting(key: str, value: str) -> dict[str, Any]:
    path = {"smt": SMT, "cpu_governor": GOVERNOR.format("[0-9]*"), "transparent_hugepage": HUGE}[key]
    return AppliedSetting(key=key, kind="sysfs", value=value, paths=(f"/{path}",)).model_dump()


def request(**values: str) -> dict[str, Any]:
    return {"settings": [setting(key, value) for key, value in values.items()]}


def governors(tree: Path) -> list[str]:
    return [(tree / GOVERNOR.format(cpu)).read_text().strip() for cpu in (0, 1)]


def test_what_was_there_is_kept_once_and_put_back(tree: Path) -> None:
    Tuning(tree).apply(request(smt="off", cpu_governor="performance"))
    assert governors(tree) == ["performance"] * 2
    assert (tree / SMT).read_text() == "off"
    first = json.loads((tree / ORIGINAL).read_text())
    assert first["settings"]["cpu_governor"] == {f"/{GOVERNOR.format(0)}": "powersave", f"/{GOVERNOR.format(1)}": "schedutil"}

    (tree / GOVERNOR.format(0)).write_text("ondemand\n")  # by hand
    Tuning(tree).apply(request(smt="off", cpu_governor="performance"))
    assert governors(tree) == ["performance"] * 2
    assert json.loads((tree / ORIGINAL).read_text()) == first

    Tuning(tree).apply(request())
    assert governors(tree) == ["powersave", "schedutil"]
    assert (tree / SMT).read_text() == "on"
    assert not (tree / ORIGINAL).exists()


def test_what_is_no_longer_asked_for_is_put_back_alone(tree: Path) -> None:
    Tuning(tree).apply(request(smt="off", cpu_governor="performance"))
    Tuning(tree).apply(request(cpu_governor="performance"))
    assert ((tree / SMT).read_text(), governors(tree)) == ("on", ["performance"] * 2)
    assert list(json.loads((tree / ORIGINAL).read_text())["settings"]) == ["cpu_governor"]


@pytest.mark.parametrize(
    ("file", "failed", "said"),
    [
        pytest.param("/dev/null", ["transparent_hugepage is  and not madvise (/{})"], "did not take", id="forgets it"),
        pytest.param("/proc/sys/kernel/ostype", [], "cannot be written from inside this host", id="read-only"),
    ],
)
def test_a_value_that_does_not_take_is_told_and_stops_nothing(
    file: str, failed: list[str], said: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / HUGE).unlink()
    (tree / HUGE).symlink_to(file)
    tuning = Tuning(tree)
    tuning.apply(request(transparent_hugepage="madvise", cpu_governor="performance"))
    assert governors(tree) == ["performance"] * 2
    assert tuning.failed == [text.format(HUGE) for text in failed]
    assert said in capsys.readouterr().out


def test_at_boot_it_is_tried_again_until_it_takes_or_the_limit_is_over(tree: Path) -> None:
    (tree / SMT).unlink()
    (tree / SMT).symlink_to("/dev/null")  # takes nothing
    assert apply_at_boot(request(smt="off"), tree, lambda _: None, limit_s=6) == [f"smt is  and not off (/{SMT})"]
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            (tree / SMT).unlink()
            (tree / SMT).write_text("on\n")

    assert apply_at_boot(request(smt="off"), tree, pause) == []
    assert len(pauses) == 2
    assert (tree / SMT).read_text() == "off"


def test_what_was_kept_is_never_guessed_where_it_is_damaged(tree: Path) -> None:
    Tuning(tree).apply(request(smt="off"))
    (tree / ORIGINAL).write_text("{")
    with pytest.raises(BringupError, match="is damaged"):
        Tuning(tree)
    assert (tree / SMT).read_text() == "off"


@pytest.mark.parametrize(
    ("cpus", "mask"), [({0}, "1"), ({0, 1, 2, 3}, "f"), ({0, 33}, "2,00000001"), ({64}, "1,00000000,00000000")]
)
def test_masks_are_the_kernels(cpus: set[int], mask: str) -> None:
    assert cpu_mask(cpus) == mask


# --- read


def test_reading_says_what_each_file_holds(tree: Path) -> None:
    wanted = request(cpu_governor="performance", transparent_hugepage="madvise")
    read = read_all(wanted, tree, with_processes=False)
    assert read["settings"]["transparent_hugepage"] == {"files": {f"/{HUGE}": "always"}, "writable": True}
    assert set(read["settings"]["cpu_governor"]["files"].values()) == {"powersave", "schedutil"}
    assert (read["applied"], read["plan"]) == (False, None)


_MENU = """
menuentry 'Debian GNU/Linux' {
        linux   /boot/vmlinuz-6.1.0-2 root=UUID=1 ro quiet iommu=pt
}
menuentry 'older' {
        linux   /boot/vmlinuz-6.1.0-1 root=UUID=1 ro quiet%s
}
menuentry 'older (recovery mode)' {
        linux   /boot/vmlinuz-6.1.0-1 root=UUID=1 ro single
}
menuentry 'Memory test' {
        linux   /boot/memtest86+x64.bin
}
"""


@pytest.mark.parametrize(("older", "next_boot"), [(" iommu=pt", ["iommu=pt"]), ("", [])], ids=["all", "one lacks it"])
def test_reading_says_what_the_next_boot_has(tree: Path, older: str, next_boot: list[str]) -> None:
    (tree / "proc").mkdir(exist_ok=True)
    (tree / "proc/cmdline").write_text("root=UUID=1 ro nosmt\n")
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(_MENU % older)
    asked = {"settings": [], "kernel_parameters": ["iommu=pt", "nosmt"]}
    assert read_all(asked, tree)["kernel"] == {"running": ["nosmt"], "next_boot": next_boot}


def test_reading_runs_as_a_script_of_its_own() -> None:
    """As it is sent to hosts: without bringup, without anything that is installed."""
    script = (ROOT / "bringup/onhost/reading.py").read_text()
    command = [sys.executable, "-I", "-S", "-c", script, TuningPlan().model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    assert json.loads(done.stdout)["settings"] == {}


def test_processes_are_those_of_the_unit_wherever_control_groups_are_mounted(tmp_path: Path) -> None:
    groups = {
        "1": "0::/init.scope",
        "20": "0::/machine/payload/system.slice/vllm.service",
        "21": "1:name=systemd:/system.slice/vllm.service/engine\n0::/",
        "30": "0::/system.slice/vllm.service.d",
        "31": "0::/system.slice/my-vllm.service",
    }
    for pid, group in groups.items():
        thread = tmp_path / "proc" / pid / "task" / pid
        thread.mkdir(parents=True)
        (thread / "status").write_text("Name:\tpython3\nCpus_allowed_list:\t4-7\n")
        limits = "Max open files            1024                 65536      files"
        for name, text in {"cgroup": group, "comm": "python3", "limits": limits}.items():
            (tmp_path / "proc" / pid / name).write_text(f"{text}\n")
    found = read_processes("vllm.service", tmp_path)
    assert sorted(found) == ["20", "21"]
    assert found["20"] == {"name": "python3", "threads": {"4-7": 1}, "memory": None, "nofile": "65536"}


def test_own_memory_is_told_from_that_of_files() -> None:
    text = """\
55d0 bind:1 file=/usr/bin/python3 mapped=600 N0=600 kernelpagesize_kB=4
7f00 bind:1 anon=512 dirty=512 N0=2 N1=510 kernelpagesize_kB=4
7f80 bind:1 anon=2 dirty=2 N1=2 kernelpagesize_kB=2048
7fff default
"""
    assert read_numa_maps(text) == {"policies": {"bind:1": 3, "default": 1}, "own_kib": {"0": 8, "1": 2040 + 4096}}


# --- compared


def reading(**fields: Any) -> Reading:
    """A host in order: one setting of each kind, and a server of two processes."""
    settings = (
        AppliedSetting(key="vm.swappiness", kind="sysctl", value="10", paths=("/proc/sys/vm/swappiness",)),
        AppliedSetting(key="cpu_governor", kind="sysfs", value="performance", paths=(f"/{GOVERNOR.format('*')}",)),
        AppliedSetting(key="irq_affinity", kind="irq", value="0-1", paths=("/proc/irq/[0-9]*/smp_affinity_list",)),
    )
    refused = "/proc/irq/9/smp_affinity_list"
    request = TuningPlan(settings=settings, banned_cpus="2-7", tuned_profile="balanced")
    process = {
        "name": "VLLM::EngineCore",
        "threads": {"4-7": 20, "5": 1},
        "memory": {"policies": {"bind:1": 9}, "own_kib": {"0": 40, "1": 4000}},
        "nofile": "65536",
    }
    enabled = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    values = {
        "request": request.model_dump(),
        "applied": True,
        "settings": {
            "vm.swappiness": {"files": {"/proc/sys/vm/swappiness": "10"}, "writable": True},
            "cpu_governor": {"files": {"/cpu0": "performance", "/cpu1": "performance"}, "writable": True},
            "irq_affinity": {
                "files": {"/proc/irq/1/smp_affinity_list": "0", "/proc/irq/9/smp_affinity_list": "4"},
                "writable": True,
            },
        },
        "refused": {refused: "nvme0q4"},
        "irqbalance_banned": "2-7",
        "tuned_profile": "bringup",
        "units": {"vllm.service": enabled, "bringup-tuning.service": enabled},
        "plan": {"cpus": "4-7", "memory_nodes": "1", "limits": {"nofile": "65536"}, "tuning": request.model_dump()},
        "processes": {"7": process, "8": process},
    }
    copied = json.loads(json.dumps(values))
    for path, value in fields.items():
        where: Any = copied
        *folders, last = path.split("/", 2) if path.startswith("settings/") else path.split("/")
        for folder in folders:
            where = where[folder]
        where[last] = value
    return parse_reading(json.dumps(copied))


def drifted(found: Reading) -> list[tuple[str, str]]:
    return [(check.subject, check.status) for check in compare(found) if check.status != "ok"]


def test_a_host_in_order_has_nothing_to_tell_but_what_the_kernel_keeps() -> None:
    assert drifted(reading()) == []
    assert [check.why for check in compare(reading()) if check.why] == ["the kernel keeps 1 where they are: 9 (nvme0q4)"]
    assert len(compare(reading())) == 3 + 2 + 2 + 2 * 3  # settings, programs, units, three of each process


@pytest.mark.parametrize(
    ("path", "value", "subject", "status"),
    [
        ("settings/vm.swappiness/files", {"/proc/sys/vm/swappiness": "60"}, "vm.swappiness", "drift"),
        ("settings/vm.swappiness", {"files": {"/x": "60"}, "writable": False}, "vm.swappiness", "cannot"),
        ("settings/vm.swappiness/files", {}, "vm.swappiness", "drift"),
        ("settings/cpu_governor/files", {"/cpu0": "performance", "/cpu1": "schedutil"}, "cpu_governor", "drift"),
        ("settings/irq_affinity/files", {"/proc/irq/1/smp_affinity_list": "0-2"}, "irq_affinity", "drift"),
        ("irqbalance_banned", "3-7", "irqbalance", "drift"),
        ("tuned_profile", "balanced", "tuned", "drift"),
        ("units/vllm.service/UnitFileState", "disabled", "vllm.service", "drift"),
        ("units/vllm.service/ActiveState", "failed", "vllm.service", "drift"),
        ("units/vllm.service/NeedDaemonReload", "yes", "vllm.service", "drift"),
        ("units/bringup-tuning.service/ActiveState", "failed", "bringup-tuning.service", "drift"),
        ("processes/8/threads", {"4-7": 20, "0-7": 1}, "CPUs of process 8 (VLLM::EngineCore)", "drift"),
        ("processes/8/memory/own_kib", {"0": 400, "1": 4000}, "memory of process 8 (VLLM::EngineCore)", "drift"),
        ("processes/8/memory/policies", {"default": 9}, "memory of process 8 (VLLM::EngineCore)", "drift"),
        ("processes", {}, "processes of vllm.service", "drift"),
        ("processes/8/nofile", "1024", "open files of process 8 (VLLM::EngineCore)", "drift"),
    ],
)
def test_each_thing_that_differs_is_caught_alone(path: str, value: Any, subject: str, status: str) -> None:
    assert drifted(reading(**{path: value})) == [(subject, status)]


@pytest.mark.parametrize(
    ("running", "next_boot", "found"),
    [
        (["iommu=pt"], ["iommu=pt"], []),
        ([], ["iommu=pt"], [("kernel command line", "reboot")]),
        (["iommu=pt"], [], [("kernel command line", "drift")]),
        ([], [], [("kernel command line", "drift")]),
    ],
)
def test_the_kernels_command_line_is_compared_now_and_for_the_next_boot(
    running: list[str], next_boot: list[str], found: list[tuple[str, str]]
) -> None:
    kernel = {"running": running, "next_boot": next_boot}
    assert drifted(reading(**{"request/kernel_parameters": ["iommu=pt"], "kernel": kernel})) == found


def test_a_limit_that_the_whole_host_has_is_its_owners() -> None:
    found = reading(**{"processes/8/nofile": "20000", "most_files": "20000"})
    assert drifted(found) == [("open files of process 8 (VLLM::EngineCore)", "cannot")]


def test_settings_that_were_planned_and_never_written_down_are_caught() -> None:
    # without the record it is not known either that a unit should set them at boot
    assert drifted(reading(request=None, applied=False)) == [("/etc/bringup/tuning.json", "drift")]


def test_who_owns_the_machine_is_told_what_to_type() -> None:
    checks = compare(reading(**{"settings/vm.swappiness": {"files": {"/x": "60"}, "writable": False}}))
    assert checks[0].why == "its owner can set it on the machine: sysctl -w vm.swappiness=10"


@pytest.mark.parametrize("text", ["", "Traceback", "{}", "[]"])
def test_what_is_no_reading_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the host's reading cannot be used"):
        parse_reading(text)


# --- the deploy, dry


def dry_run(deploy: str, **data: Any) -> "subprocess.CompletedProcess[str]":
    words = [word for name, value in data.items() for word in ("--data", f"{name}={json.dumps(value)}")]
    command = [str(Path(sys.executable).parent / "pyinfra"), f"@replay/{WORKSTATION}", deploy, "--dry", "--diff", "--json", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)


def test_dry_run_shows_each_change_and_file() -> None:
    done = dry_run("deploys/tuning.py", host_settings={"cpu_governor": "performance", "transparent_hugepage": "set"})
    assert done.returncode == 0, done.stderr
    names = [operation["name"] for operation in json.loads(done.stdout)["plan"]]
    assert {name.partition(" | ")[0] for name in names} == {"Tool", "Tuning"}
    assert "Tuning | Set cpu_governor powersave → performance, vm.swappiness 60 → 10" in names
    assert "Tuning | Set them at each boot (bringup-tuning.service)" in names
    for line in ("+ vm.swappiness = 10", "+ ExecStart=/opt/bringup/bin/bringup-host tune --boot /etc/bringup/tuning.json"):
        assert line in done.stderr


def test_dry_run_shows_what_the_kernel_is_started_with() -> None:
    done = dry_run("deploys/tuning.py", kernel_parameters=["iommu=pt"])
    assert done.returncode == 0, done.stderr
    names = [operation["name"] for operation in json.loads(done.stdout)["plan"]]
    assert "Tuning | Add iommu=pt to the kernel's command line, from the next boot on" in names
    assert '+ GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT iommu=pt"' in done.stderr


def test_absent_on_a_host_that_was_never_tuned_does_nothing() -> None:
    done = dry_run("deploys/tuning.py", tuning_state="absent")
    assert done.returncode == 0, done.stderr
    assert [op["name"] for op in json.loads(done.stdout)["plan"] if op["name"].startswith("Tuning")] == []
