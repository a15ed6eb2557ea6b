"""The probe: its script on this machine, its parsers on recordings, real output and rubbish."""

import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bringup.catalog import load_catalog
from bringup.cpu_list import format_cpu_list, parse_cpu_list
from bringup.errors import BringupError
from bringup.findings import host_findings
from bringup.hardware import HostFacts
from bringup.plan import make_plan
from bringup.plan.preflight import host_blockers, plan_blockers
from bringup.probe.host import parse_host
from bringup.probe.sections import bounded_function, probe_script, split_sections
from bringup.recording import recording_named, shipped_recordings
from bringup.settings import Settings
from tests.unit.machines import NOW_UNIX_S, bare_workstation, recording

SCRIPT = Path(__file__).parents[2] / "bringup/probe/probe.sh"
CATALOG = load_catalog()
SECOND_CARD = "address=0000:02:00.0 device=0x2684 numa_node=-1 driver=nvidia"


def run_probe(environment: dict[str, str] | None = None) -> str:
    # as pyinfra runs a fact's command: the script is an argument of sh
    return subprocess.run(["/bin/sh", "-c", probe_script()], env=environment, capture_output=True, text=True, check=True).stdout


def with_body(section: str, body: str, text: str | None = None) -> str:
    """The recording with another body of one section."""
    sections = split_sections(text or recording()) | {section: body, "end": ""}
    return "".join(f"@@bringup {name}\n{said}\n" for name, said in sections.items())


# --- the script, here


@pytest.fixture(scope="module")
def here() -> HostFacts:
    return parse_host(run_probe())


def test_script_agrees_with_python_on_the_cpus(here: HostFacts) -> None:
    assert here.cpu.usable == tuple(sorted(os.sched_getaffinity(0)))
    assert 1 <= here.cpu.physical_cores <= len(here.cpu.usable)


def test_script_agrees_with_python_on_the_memory(here: HostFacts) -> None:
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    texts = [path.read_text().strip() for path in limits if path.exists()]
    total = min([psutil.virtual_memory().total, *(int(text) for text in texts if text != "max")])
    assert here.memory.total_mib == total // 2**20
    assert 0 < here.memory.available_mib <= here.memory.total_mib


def test_script_agrees_with_python_on_the_system_and_the_user(here: HostFacts) -> None:
    release = platform.freedesktop_os_release()
    assert (here.os.id, here.os.version_id, here.os.name) == (release["ID"], release.get("VERSION_ID", ""), release["PRETTY_NAME"])
    assert (here.os.kernel, here.os.architecture) == (platform.release(), platform.machine())
    assert here.login_user == pwd.getpwuid(os.geteuid()).pw_name
    assert (here.root_access == "root") == (os.geteuid() == 0)
    assert (here.init == "systemd") == Path("/run/systemd/system").is_dir()
    assert abs(here.clock_unix_s - time.time()) < 60


def test_script_measures_the_disks_in_mib(here: HostFacts) -> None:
    for path in ("/opt/bringup", "/var/lib/bringup"):
        parent = next(folder for folder in (Path(path), *Path(path).parents) if folder.is_dir())
        # others write to this disk too; a wrong unit would be off by a factor of 1000
        disk = here.disk(path)
        assert disk is not None
        assert disk.free_mib == pytest.approx(psutil.disk_usage(str(parent)).free / 2**20, rel=0.3)


def test_script_reads_everything_here(here: HostFacts) -> None:
    # what not every machine has, or shows to a container
    assert set(here.unknown) <= {"dmidecode", "board", "firmware", "time", "packages", "kernel-log"}
    assert here.cpu.online
    assert here.sysctls["vm.swappiness"] == Path("/proc/sys/vm/swappiness").read_text().strip()


def test_script_needs_no_more_than_coreutils_grep_and_awk(tmp_path: Path, here: HostFacts) -> None:
    for tool in (
        "sh",
        "id",
        "date",
        "cat",
        "uname",
        "grep",
        "df",
        "awk",
        "tr",
        "readlink",
        "basename",
        "dirname",
        "timeout",
        "sed",
        "od",
        "stat",
    ):
        found = shutil.which(tool)
        assert found, tool
        (tmp_path / tool).symlink_to(found)
    facts = parse_host(run_probe({"PATH": str(tmp_path)}))
    assert facts.cpu.usable == here.cpu.usable
    assert facts.memory.total_mib == here.memory.total_mib
    # what the other tools would have told has its reason
    assert {"packages", "time", "dmidecode"} <= set(facts.unknown)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param([str(Path(sys.executable).parent / "shellcheck"), "-s", "sh"], id="shellcheck"),
        pytest.param(["dash", "-n"], id="dash"),
    ],
)
def test_script_is_sound_posix_shell(check: list[str]) -> None:
    if shutil.which(check[0]) is None:
        pytest.skip(f"{check[0]} is not installed")
    done = subprocess.run([*check, str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_program_that_keeps_its_output_open_is_not_waited_for() -> None:
    # as one that cannot be killed does
    script = f"{bounded_function()}\nbounded 1 sh -c 'echo before; sleep 5 & exit 3'; echo $?"
    assert subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True).stdout.split() == ["before", "124"]


def test_program_that_ends_in_time_is_shown_whole() -> None:
    script = f"{bounded_function()}\nbounded 60 sh -c 'echo said; echo failed >&2; exit 3'; echo $?"
    assert subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True).stdout.split() == ["said", "failed", "0"]


# --- recordings and real output


def test_bare_4090d_workstation() -> None:
    facts = bare_workstation()
    (card,) = facts.gpus
    assert (card.pci_address, card.pci_id, card.numa_node, card.kernel_driver) == ("0000:01:00.0", "10de:2685", None, "nouveau")
    assert (len(facts.cpu.usable), facts.cpu.physical_cores) == (32, 24)  # 8 cores with two threads, 16 with one
    assert [(node.id, len(node.cpus), node.memory_mib) for node in facts.numa_nodes] == [(0, 32, 64049)]
    assert facts.memory.total_mib == 64049
    assert facts.clock_unix_s == NOW_UNIX_S
    assert (facts.served, facts.smoke, facts.service_state, facts.engines, facts.models) == (None, None, "absent", {}, {})
    assert facts.unknown == {}  # a missing nvidia-smi is no failure where no driver of NVIDIA's holds the card


def test_windows_line_ends_change_nothing() -> None:
    assert parse_host(recording().replace("\n", "\r\n")) == bare_workstation()


def test_driver_refines_the_card() -> None:
    text = with_body("pci-display", "address=0000:01:00.0 device=0x2685 numa_node=0 driver=nvidia\n" + SECOND_CARD)
    text = with_body("nvidia-smi", "00000000:01:00.0, NVIDIA GeForce RTX 4090 D, 24564, 580.95.05", text)
    first, second = parse_host(text).gpus
    assert (first.driver_name, first.driver_memory_mib, first.driver_version, first.numa_node) == (
        "NVIDIA GeForce RTX 4090 D",
        24564,
        "580.95.05",
        0,
    )
    assert second.driver_version is None  # not listed by the driver: stays as sysfs shows it


def test_memory_modules_of_the_recording() -> None:
    memory = parse_host(recording()).memory_modules
    assert memory is not None
    assert (memory.channels, memory.configured_mt_s, memory.bandwidth_gb_s, memory.total_gib) == (2, 6000, 96.0, 64)


def test_user_and_unit_of_somebody_else() -> None:
    text = with_body("service-user", "vllm:x:998:998::/home/vllm:/bin/bash")
    facts = parse_host(with_body("service", "LoadState=loaded\nActiveState=active\nForeign=/etc/systemd/system/vllm.service", text))
    assert (facts.service_user_home, facts.foreign_unit) == ("/home/vllm", "/etc/systemd/system/vllm.service")


@pytest.mark.parametrize("words", ["dmidecode is not installed", "dmidecode needs root's rights"])
def test_missing_dmidecode_is_a_reason(words: str) -> None:
    facts = parse_host(with_body("dmidecode", words))
    assert facts.memory_modules is None
    assert facts.unknown == {"dmidecode": words}


def test_what_an_earlier_run_left() -> None:
    text = with_body("engines", "vllm-0.33.0-cuda-f1080232 abc\nhalf-written")
    text = with_body("release", 'releases/0123456789ab\nc0ffee\n{"decisions": [{"key": "max-model-len", "value": 4096}]}', text)
    text = with_body("service", "LoadState=loaded\nActiveState=active\nUnitFileState=enabled", text)
    text = with_body("smoke", '{"request": {"release": "0123456789ab"}, "outcome": "PASS"}', text)
    facts = parse_host(text)
    assert facts.engines == {"vllm-0.33.0-cuda-f1080232": "abc"}
    assert facts.served is not None
    assert facts.served.model_dump() == {"digest": "0123456789ab", "content": "c0ffee", "decisions": {"max-model-len": 4096}}
    assert (facts.service_state, facts.service_enabled) == ("active", True)
    assert facts.smoke is not None
    assert (facts.smoke.request, facts.smoke.outcome) == ({"release": "0123456789ab"}, "PASS")


@pytest.mark.parametrize(
    ("section", "body"),
    [
        pytest.param("release", '0123456789ab\n{"decisions": [{"key"', id="plan-cut-off"),
        pytest.param("release", '0123456789ab\n{"decisions": null}', id="plan-without-decisions"),
        pytest.param("release", '0123456789ab\n{"decisions": [{"key": 1, "value": 2}]}', id="plan-with-a-strange-key"),
        pytest.param("smoke", '{"request": {"rel', id="smoke-record-cut-off"),
        pytest.param("smoke", "[]", id="smoke-record-of-another-shape"),
        pytest.param("smoke", "[" * 200_000, id="smoke-record-without-end"),
        pytest.param("release", "0123456789ab\nx\n" + "[" * 200_000, id="plan-without-end"),
    ],
)
def test_damaged_record_counts_as_none(section: str, body: str) -> None:
    facts = parse_host(with_body(section, body))
    assert facts.smoke is None
    assert facts.served is None or (facts.served.digest, facts.served.decisions) == ("0123456789ab", {})


# --- rubbish


@pytest.mark.parametrize(
    ("section", "body", "reason"),
    [
        pytest.param("clock", "yesterday", "yesterday", id="clock"),
        pytest.param("clock", "", "''", id="clock-missing"),
        pytest.param("cpus", "nonsense", "not a line about a CPU", id="cpus"),
        pytest.param("cpus", "cpu=x", "not a list of CPUs", id="cpus-without-a-number"),
        pytest.param("cpu-allowed", "Cpus_allowed_list: 0-9999999999", "not a list of CPUs", id="cpu-allowed"),
        pytest.param("meminfo", "", "no MemTotal", id="meminfo-missing"),
        pytest.param("meminfo", "MemTotal: 5 kB", "no MemAvailable", id="meminfo-half"),
        pytest.param("numa", "node=0 cpus=0-x memory_kb=12", "0-x", id="numa"),
        pytest.param("numa", "node=0", "not a line about a NUMA node", id="numa-cut-off"),
        pytest.param("numa", "", "shows no NUMA node", id="numa-missing"),
        pytest.param("packages", "dpkg-query is not installed", "dpkg-query is not installed", id="packages"),
        pytest.param("kernel-log", "dmesg needs root's rights", "root's rights", id="kernel-log"),
        pytest.param("board", "", "names no machine", id="board"),
        pytest.param("time", "localtime=", "timedatectl does not answer", id="time"),
        pytest.param("pci-display", "0000:01:00.0", "not a PCI display controller", id="pci-display"),
        pytest.param("disk", "/opt/bringup many /dev/sda1", "many", id="disk"),
    ],
)
def test_garbled_section_is_unknown_with_a_reason(section: str, body: str, reason: str) -> None:
    facts = parse_host(with_body(section, body))
    (said,) = facts.unknown.values()
    assert reason in said


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", id="no-driver"),
        pytest.param("0000:01:00.0, NVIDIA GeForce RTX 4090 D, [N/A], 580.95.05", id="no-memory"),
        pytest.param("0000:01:00.0, NVIDIA GeForce RTX 4090 D, 24564, [N/A]", id="no-version"),
    ],
)
def test_driver_that_does_not_answer_is_quoted(answer: str) -> None:
    text = with_body("pci-display", "address=0000:01:00.0 device=0x2685 numa_node=-1 driver=nvidia")
    facts = parse_host(with_body("nvidia-smi", answer, text))
    assert answer in facts.unknown["nvidia-smi"]
    assert facts.gpus[0].pci_id == "10de:2685"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "printed nothing that the probe script prints", id="empty"),
        pytest.param("This account is currently not available.\n", "POSIX shell", id="no-shell"),
        pytest.param(recording().partition("@@bringup end")[0], "was cut off", id="cut-off"),
    ],
)
def test_output_that_is_not_the_probes_raises(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_host(text)


def test_run_at_work_is_told_with_its_owner_and_age() -> None:
    held = json.dumps({"pid": 7, "since_unix_s": NOW_UNIX_S - 61, "work": "building vllm", "by": "ann@laptop (pid 9)"})
    told = parse_host(with_body("run-lock", held)).run_at_work
    assert told is not None
    assert "building vllm, since " in told
    assert "(1 min 1 s), for ann@laptop (pid 9), process 7 there" in told
    assert parse_host(with_body("run-lock", "")).run_at_work is None


def plan_or_refuse(text: str) -> None:
    """All that a run does with the probe's output: whatever the host said, only these errors reach one host alone."""
    try:
        facts = parse_host(text)
    except ValueError:
        return
    host_blockers(facts, NOW_UNIX_S)
    host_findings(facts, CATALOG)
    try:
        plan = make_plan(facts, Settings(), CATALOG, "main")
    except BringupError:
        return
    plan_blockers(facts, plan)


@given(st.text())
def test_arbitrary_text_never_raises_anything_else(text: str) -> None:
    plan_or_refuse(text)
    plan_or_refuse(f"@@bringup pci-display\n{text}\n@@bringup end\n")


RUBBISH = st.one_of(
    st.text(max_size=20), st.sampled_from(["", "-1", "0", "99999999999999999999", "@@bringup disk", "[N/A]", "nan"])
)


@settings(deadline=None, max_examples=60)  # this machine is noisy
@given(
    st.sampled_from(shipped_recordings()),
    st.lists(
        st.tuples(
            st.integers(0, 10_000),
            st.sampled_from(["drop", "replace", "cut", "last-field", "double", "huge"]),
            st.integers(0, 40),
            RUBBISH,
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_mutated_recording_never_raises_anything_else(name: str, mutations: list[tuple[int, str, int, str]]) -> None:
    lines = recording_named(name).probe_text(NOW_UNIX_S).splitlines()
    for number, kind, at, rubbish in mutations:
        index = number % len(lines)
        line = lines[index]
        lines[index] = {
            "drop": "",
            "replace": rubbish,
            "cut": line[:at],
            "last-field": line[: len(line.rstrip()) - len(line.split()[-1])] + rubbish if line.split() else rubbish,
            "double": f"{line}\n{line}",
            # cut, because a line that is drawn several times would grow to gigabytes
            "huge": line[:1000] * 500,
        }[kind]
    plan_or_refuse("\n".join(lines) + "\n")


@given(
    st.sampled_from(sorted(split_sections(recording()))), st.binary(max_size=200), st.sampled_from(["utf-8", "latin-1", "utf-16"])
)
def test_binary_rubbish_in_a_section_never_raises_anything_else(section: str, rubbish: bytes, encoding: str) -> None:
    plan_or_refuse(with_body(section, rubbish.decode(encoding, "replace")))
    plan_or_refuse(with_body(section, rubbish.decode("utf-8", "surrogateescape")))


@given(st.sets(st.integers(0, 8191)))
def test_cpu_list_round_trip(cpus: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(tuple(cpus))) == tuple(sorted(cpus))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8,10-11\n", (0, 1, 2, 3, 8, 10, 11)), ("", ()), ("5", (5,)), ("3,1-2,2", (1, 2, 3))],
)
def test_cpu_list_as_the_kernel_writes_it(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus
    assert "-" not in format_cpu_list((1, 3, 5))


@pytest.mark.parametrize("text", ["3-1", "0-8192", "0-99999999999999", "-1", "a", "1;2", "0-", "1-2-3"])
def test_cpu_list_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a list of CPUs"):
        parse_cpu_list(text)
