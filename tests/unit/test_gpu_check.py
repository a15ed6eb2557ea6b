"""The look at the cards as they run: what is read of them, and what is made of it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.onhost.__main__ import main
from bringup.onhost.gpu import collect as collecting
from bringup.onhost.gpu.bounded import Outcome, run_bounded
from bringup.onhost.gpu.check import gpu_check, read_request, result_of
from bringup.onhost.gpu.judgement import Check, Wanted
from bringup.onhost.gpu.model import Copied, DrivenCard, Exercise, Link, Node, PciCard, Readings
from bringup.onhost.gpu.parse import parse_exercise, parse_link, parse_smi, upstream
from bringup.onhost.gpu.rules import judge
from bringup.onhost.gpu.xid import meaning_of, parse_xids
from bringup.onhost.systemd import Systemd

CARD, OTHER = "0000:01:00.0", "0000:02:00.0"
KNOWN = {
    "serving": CARD,
    "known": {"10de:2685": {"name": "GeForce RTX 4090 D", "memory_mib": [24564], "pcie_generation": 4, "pcie_lanes": 16}},
    "least_branch": 580,
}
EXPECT = {"gpu": "GeForce RTX 4090 D", "pci_ids": ["10de:2685"], "count": 1}
DRIVEN = DrivenCard(CARD, "NVIDIA GeForce RTX 4090 D", 24564, 24000, "580.95.05", True)
PCI = PciCard(CARD, "10de:2685", "nvidia", now=Link(1, 16), best=Link(4, 16), slot=Link(5, 16))
WORKED = Exercise(
    stage="done",
    error=None,
    timed_out=False,
    torch="2.14.0+cu130",
    cuda="13.0",
    computed=(0,),
    addresses={0: CARD},
    copied={0: Copied(25.1, 26.3, (Link(4, 16),))},
)
HEALTHY = Readings(
    smi=(DRIVEN,),
    smi_error=None,
    smi_hangs=False,
    cards=(PCI,),
    module_version="580.95.05",
    library_version="580.95.05",
    packages={"libnvidia-compute": "580.95.05"},
    nodes=(Node("/dev/nvidiactl", True, "666 root:root"), Node("/dev/nvidia-uvm", True, "666 root:root")),
    missing_nodes=(),
    log_before="",
    log_after="",
    log_error=None,
    serving=False,
    user="vllm",
    exercise=WORKED,
    exercise_skipped=None,
)


def checks(readings: Readings, **wanted: object) -> tuple[Check, ...]:
    return judge(readings, Wanted.from_json(KNOWN | wanted))


def only(found: tuple[Check, ...], id_: str) -> Check:
    (check,) = [check for check in found if check.id == id_]
    return check


def bad(found: tuple[Check, ...]) -> list[tuple[str, str]]:
    return [(check.level, check.id) for check in found if check.level in ("problem", "warning")]


def test_healthy_machine_has_nothing_to_mend() -> None:
    found = checks(HEALTHY, expect=EXPECT)
    assert {check.level for check in found} == {"ok"}
    texts = "\n".join(check.text for check in found)
    assert "driver 580.95.05: module, nvidia-smi, libcuda and packages agree" in texts
    assert "PCIe 4 x16 under load, 25.1 GB/s to the card, 26.3 GB/s from it" in texts
    assert "PyTorch 2.14.0+cu130 (CUDA 13.0) allocated and computed as vllm on 0000:01:00.0" in texts
    assert "24564 MiB, as a GeForce RTX 4090 D has" in texts
    assert "1 × GeForce RTX 4090 D, as the inventory expects" in texts


@pytest.mark.parametrize(
    ("readings", "level", "id_", "words"),
    [
        pytest.param(replace(HEALTHY, library_version="580.105.08"), "problem", "driver-mismatch", "reboot", id="library-differs"),
        pytest.param(
            replace(HEALTHY, packages={"libnvidia-compute": "590.44.01"}),
            "warning",
            "driver-packages",
            "reboot",
            id="packages-differ",
        ),
        pytest.param(
            replace(
                HEALTHY,
                module_version="570.195.03",
                library_version=None,
                packages={},
                smi=(replace(DRIVEN, driver_version="570.195.03"),),
            ),
            "problem",
            "driver-old",
            "branch 580 or newer",
            id="driver-too-old",
        ),
        pytest.param(
            replace(HEALTHY, smi=(), smi_error="Failed to initialize NVML: Driver/library version mismatch", exercise=None),
            "problem",
            "driver-silent",
            "upgraded while it ran: reboot",
            id="mismatch-as-nvidia-smi-says-it",
        ),
        pytest.param(
            replace(HEALTHY, smi=(), smi_error="nvidia-smi did not answer within 30 s", smi_hangs=True, exercise=None),
            "problem",
            "driver-silent",
            "look into the kernel log",
            id="nvidia-smi-hangs",
        ),
        pytest.param(
            replace(HEALTHY, smi=(), smi_error="nvidia-smi is not installed", module_version=None, exercise=None),
            "problem",
            "driver-silent",
            "modprobe nvidia",
            id="no-driver",
        ),
        pytest.param(replace(HEALTHY, smi=()), "problem", "gpu-not-listed", "power cables", id="card-is-not-listed"),
        pytest.param(
            replace(HEALTHY, cards=(PCI, replace(PCI, address=OTHER, holder="nouveau"))),
            "warning",
            "gpu-not-listed",
            "nouveau holds it",
            id="another-card-is-not-listed",
        ),
        pytest.param(replace(HEALTHY, smi=(), cards=()), "problem", "gpu-gone", "fell off the bus", id="card-is-gone"),
        pytest.param(
            replace(HEALTHY, smi=(replace(DRIVEN, memory_mib=23028),)),
            "warning",
            "gpu-memory",
            "ECC takes a sixteenth",
            id="less-memory",
        ),
        pytest.param(
            replace(HEALTHY, nodes=(Node("/dev/nvidia-uvm", False, "660 root:video"),)),
            "problem",
            "device-access",
            "vllm may not use /dev/nvidia-uvm (660 root:video)",
            id="node-is-closed",
        ),
        pytest.param(
            replace(
                HEALTHY,
                missing_nodes=("/dev/nvidia-uvm",),
                exercise=replace(WORKED, stage="torch", error="RuntimeError: CUDA unknown error"),
            ),
            "problem",
            "device-nodes",
            "nvidia-modprobe",
            id="node-is-missing",
        ),
        pytest.param(
            replace(HEALTHY, exercise=replace(WORKED, stage="torch", timed_out=True)),
            "problem",
            "cuda-hangs",
            "hung after stage 'torch'",
            id="cuda-hangs",
        ),
        pytest.param(
            replace(HEALTHY, exercise=replace(WORKED, stage="torch", error="RuntimeError: Error 802: system not yet initialized")),
            "problem",
            "cuda-fails",
            "nvidia-fabricmanager",
            id="fabric-manager-missing",
        ),
        pytest.param(
            replace(HEALTHY, exercise=replace(WORKED, error="torch.OutOfMemoryError: CUDA out of memory", stage="card")),
            "problem",
            "cuda-fails",
            "other programs have the card's memory",
            id="memory-is-taken",
        ),
        pytest.param(
            replace(HEALTHY, exercise=replace(WORKED, copied={0: Copied(12.0, 12.5, (Link(3, 16),))})),
            "warning",
            "pcie-speed",
            "reaches PCIe 3 under load, where card and slot can do 4",
            id="link-stays-slow-under-load",
        ),
        pytest.param(
            replace(
                HEALTHY,
                exercise=replace(WORKED, copied={0: Copied(6.0, 6.3, (Link(4, 4),))}),
                cards=(replace(PCI, slot=Link(4, 4)),),
            ),
            "warning",
            "pcie-lanes",
            "its slot has no more, move it to one with 16",
            id="slot-of-four-lanes",
        ),
        pytest.param(
            replace(HEALTHY, exercise=replace(WORKED, copied={0: Copied(9.0, 26.0, (Link(4, 16),))})),
            "warning",
            "pcie-rate",
            "it could be 31.5",
            id="copies-slower-than-the-link",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(readings: Readings, level: str, id_: str, words: str) -> None:
    found = checks(readings)
    check = only(tuple(check for check in found if check.level == level), id_)
    assert words in check.text


@pytest.mark.parametrize(
    ("readings", "id_"),
    [
        pytest.param(
            replace(
                HEALTHY,
                cards=(replace(PCI, slot=Link(3, 16)),),
                exercise=replace(WORKED, copied={0: Copied(12.1, 13.0, (Link(3, 16),))}),
            ),
            "pcie-speed",
            id="slot-can-do-no-more",
        ),
        pytest.param(replace(HEALTHY, cards=(replace(PCI, now=Link(1, 16)),)), "pcie-speed", id="slow-only-while-idle"),
        pytest.param(
            replace(HEALTHY, cards=(PCI, replace(PCI, address=OTHER, holder="vfio-pci"))),
            "gpu-not-listed",
            id="given-to-a-virtual-machine",
        ),
    ],
)
def test_what_cannot_be_better_is_no_fault(readings: Readings, id_: str) -> None:
    assert [check for check in checks(readings) if check.id == id_] == []


@pytest.mark.parametrize(
    ("expect", "words"),
    [
        pytest.param(EXPECT | {"count": 2}, "expects 2 × GeForce RTX 4090 D, and there are 1", id="one-card-too-few"),
        pytest.param({"gpu": "H100", "pci_ids": ["10de:2330"]}, "expects H100, found: NVIDIA GeForce RTX 4090 D", id="other-model"),
        pytest.param({"count": 2}, "expects 2 × cards, and there are 1", id="count-alone"),
    ],
)
def test_expectation_of_the_inventory(expect: dict[str, object], words: str) -> None:
    check = only(checks(HEALTHY, expect=expect), "expect")
    assert check.level == "problem"
    assert words in check.text


def test_serving_card_is_not_put_under_load() -> None:
    quiet = replace(HEALTHY, serving=True, exercise=replace(WORKED, copied={}))
    assert bad(checks(quiet)) == []
    assert "vllm.service is at work" in only(checks(quiet), "pcie-not-loaded").text


# --- Xid


@pytest.mark.parametrize(
    ("line", "number", "card"),
    [
        pytest.param(
            "[ 1843.30] NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            79,
            "0000:01:00",
            id="pid",
        ),
        pytest.param(
            "Nov 24 09:14:02 host kernel: NVRM: Xid (PCI:0000:01:00): 31, pid=2231, name=python3, Ch 00000008",
            31,
            "0000:01:00",
            id="syslog",
        ),
        pytest.param("NVRM: Xid (PCI:0000:c1:00 GPU-I:01): 94, pid=7, Contained memory error", 94, "0000:c1:00", id="instance"),
        pytest.param("[  269.5] NVRM: Xid (0000:01:00): 3, C 00000005 SC 00000007", 3, "0000:01:00", id="old-driver"),
        pytest.param("NVRM: Xid (PCI:0000:00:1e): 62", 62, "0000:00:1e", id="nothing-behind-the-number"),
    ],
)
def test_xid_lines(line: str, number: int, card: str) -> None:
    (event,) = parse_xids(f"x\n{line}\ny")
    assert (event.number, event.card, event.line) == (number, card, line)
    assert event.is_of(f"{card}.0")
    assert not event.is_of(OTHER)


def test_card_that_was_lost_before_the_driver_had_it_counts_as_79() -> None:
    log = (
        "[ 1843.308145] NVRM: The NVIDIA GPU 0000:b3:00.0\n"
        "               NVRM: (PCI ID: 10de:26b5) installed in this system has\n"
        "               NVRM: fallen off the bus and is not responding to commands.\n"
        "[ 1843.439662] NVRM: The NVIDIA probe routine failed for 1 device(s).\n"
    )
    (event,) = parse_xids(log)
    assert event.number == 79
    assert event.is_of("0000:b3:00.0")


FALLEN = "[ 100.0] NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."


@pytest.mark.parametrize(
    ("before", "after", "exercise", "level"),
    [
        pytest.param("", FALLEN, WORKED, "problem", id="came-during-the-work"),
        pytest.param(FALLEN, FALLEN, WORKED, "warning", id="is-over-since-the-card-works"),
        pytest.param(FALLEN, FALLEN, None, "problem", id="nothing-shows-that-it-is-over"),
        pytest.param("", FALLEN.replace("01:00", "02:00"), WORKED, "warning", id="another-card"),
        pytest.param(FALLEN.replace("79,", "43,"), FALLEN.replace("79,", "43,"), WORKED, "note", id="a-programs-own-error"),
        pytest.param(FALLEN.replace("79,", "13,"), FALLEN.replace("79,", "13,"), None, "warning", id="an-exception-in-a-kernel"),
        pytest.param(FALLEN.replace("79,", "999,"), FALLEN.replace("79,", "999,"), WORKED, "warning", id="unknown-number"),
    ],
)
def test_how_grave_an_xid_is(before: str, after: str, exercise: Exercise | None, level: str) -> None:
    check = only(checks(replace(HEALTHY, log_before=before, log_after=after, exercise=exercise)), "xid")
    assert check.level == level


def test_equal_xids_are_told_once_with_their_number() -> None:
    log = "\n".join(FALLEN.replace("100.0", f"{second}.0").replace("79,", "13,") for second in range(3))
    assert "(3 times since boot)" in only(checks(replace(HEALTHY, log_before=log, log_after=log)), "xid").text


def test_log_that_cannot_be_read_is_told() -> None:
    check = only(checks(replace(HEALTHY, log_error="dmesg: read kernel buffer failed: Operation not permitted")), "xid-unknown")
    assert "Operation not permitted" in check.text


def test_unknown_number_says_where_to_look() -> None:
    assert "docs.nvidia.com" in meaning_of(4711).fix


# --- parsers


def test_smi_list_of_an_h100() -> None:
    (card,) = parse_smi("00000000:00:06.0, NVIDIA H100 80GB HBM3, 81559, 81079, 580.159.04, Enabled\n")
    assert card == DrivenCard("0000:00:06.0", "NVIDIA H100 80GB HBM3", 81559, 81079, "580.159.04", True)


def test_smi_list_of_a_card_that_does_not_tell() -> None:
    (card,) = parse_smi("00000000:01:00.0, NVIDIA GeForce RTX 4090 D, [N/A], [N/A], [Unknown Error], [N/A]\n")
    assert (card.memory_mib, card.driver_version, card.persistent) == (None, None, None)


def test_words_instead_of_a_list_are_quoted() -> None:
    with pytest.raises(ValueError, match="No devices were found"):
        parse_smi("No devices were found\n")


@pytest.mark.parametrize(
    ("speed", "width", "link"),
    [
        ("32.0 GT/s PCIe", "16", Link(5, 16)),
        ("2.5 GT/s PCIe", "4", Link(1, 4)),
        ("Unknown", "63", Link(None, None)),
        ("", "", Link(None, None)),
    ],
)
def test_link_as_sysfs_writes_it(speed: str, width: str, link: Link) -> None:
    assert parse_link(speed, width) == link


@pytest.mark.parametrize(
    ("version", "plain"), [("580.95.05-0ubuntu0.24.04.1", "580.95.05"), ("1:580.105.08-1", "580.105.08"), ("535.183", "535.183")]
)
def test_upstream_version(version: str, plain: str) -> None:
    assert upstream(version) == plain


STAGES = [
    {"stage": "start"},
    {"stage": "torch", "version": "2.14.0+cu130", "cuda": "13.0"},
    {"stage": "cuda", "cards": 1},
    {"stage": "card", "index": 0, "address": CARD, "name": "x", "total_mib": 24000},
    {"stage": "computed", "index": 0, "free_mib": 1, "total_mib": 2},
    {
        "stage": "copied",
        "index": 0,
        "before": None,
        "to_card": {"gb_s": 25.1, "links": [{"speed": "16.0 GT/s PCIe", "width": "16"}]},
        "from_card": {"gb_s": 26.0, "links": []},
    },
    {"stage": "done"},
]


def lines(count: int, *more: str) -> str:
    return "\n".join([*map(json.dumps, STAGES[:count]), *more])


def test_exercise_that_went_through() -> None:
    exercise = parse_exercise(Outcome(0, "/x.py:1: UserWarning: something\n" + lines(7)))
    assert exercise == replace(WORKED, copied={0: Copied(25.1, 26.0, (Link(4, 16),))})


@pytest.mark.parametrize(
    ("outcome", "stage", "error"),
    [
        pytest.param(Outcome(None, lines(2), timed_out=True), "torch", None, id="hangs"),
        pytest.param(
            Outcome(1, lines(2, '{"stage": "failed", "error": "RuntimeError: no"}')), "torch", "RuntimeError: no", id="fails"
        ),
        pytest.param(Outcome(-11, lines(3, "Segmentation fault")), "cuda", "Segmentation fault", id="crashes"),
        pytest.param(Outcome(-9, lines(3, '{"stage": "ca')), "cuda", "it ended with status -9 and without a word", id="killed"),
        pytest.param(
            Outcome(None, "[Errno 2] No such file: 'python'", missing=True),
            "begin",
            "[Errno 2] No such file: 'python'",
            id="no-python",
        ),
    ],
)
def test_exercise_that_did_not(outcome: Outcome, stage: str, error: str | None) -> None:
    exercise = parse_exercise(outcome)
    assert (exercise.stage, exercise.error) == (stage, error)
    assert bad(checks(replace(HEALTHY, exercise=exercise)))[0][0] == "problem"


# --- programs with a limit


def test_program_that_hangs_is_ended_with_what_it_said_until_then() -> None:
    outcome = run_bounded([sys.executable, "-c", "import time; print('before', flush=True); time.sleep(600)"], 1.0)
    assert (outcome.timed_out, outcome.text, outcome.ok) == (True, "before", False)


def test_program_that_leaves_a_child_with_its_output_is_not_waited_for() -> None:
    outcome = run_bounded(["sh", "-c", "sleep 600 & echo done"], 60.0)
    assert outcome == Outcome(0, "done")


def test_program_that_is_not_there() -> None:
    assert run_bounded(["/nowhere/nvidia-smi"], 1.0).missing


# --- reading a machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel shows of an H100, as recorded (2026-11-24), and tools that answer as there."""
    files = {
        "sys/devices/pci0000:00/0000:00:06.0/vendor": "0x10de",
        "sys/devices/pci0000:00/0000:00:06.0/class": "0x030200",
        "sys/devices/pci0000:00/0000:00:06.0/device": "0x2330",
        "sys/devices/pci0000:00/0000:00:06.0/current_link_speed": "32.0 GT/s PCIe",
        "sys/devices/pci0000:00/0000:00:06.0/current_link_width": "16",
        "sys/devices/pci0000:00/0000:00:06.0/max_link_speed": "32.0 GT/s PCIe",
        "sys/devices/pci0000:00/0000:00:06.0/max_link_width": "16",
        "sys/devices/pci0000:00/0000:00:01.0/vendor": "0x8086",
        "sys/bus/pci/drivers/nvidia/module": "",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build",
        "dev/nvidiactl": "",
        "dev/nvidia0": "",
        "bin/nvidia-smi": "#!/bin/sh\necho '00000000:00:06.0, NVIDIA H100 80GB HBM3, 81559, 81079, 580.159.04, Enabled'\n",
        "bin/systemctl": "#!/bin/sh\nexit 3\n",
        "bin/journalctl": "#!/bin/sh\nexit 1\n",
        "bin/dmesg": f"#!/bin/sh\necho '{FALLEN}'\n",
        "bin/ldconfig": "#!/bin/sh\necho '\tlibcuda.so.1 (libc6,x86-64) => /nowhere/libcuda.so.580.159.04'\n",
        "bin/dpkg-query": "#!/bin/sh\nprintf 'ii |libnvidia-compute-580|580.159.04-1\\nii |nvidia-kernel-common|20220217+3\\n'\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name.startswith("bin/") else 0o666)
    devices = tmp_path / "sys/bus/pci/devices"
    devices.mkdir()
    for name in ("0000:00:06.0", "0000:00:01.0"):
        (devices / name).symlink_to(tmp_path / "sys/devices/pci0000:00" / name)
    (devices / "0000:00:06.0/driver").symlink_to(tmp_path / "sys/bus/pci/drivers/nvidia")
    for name in ("sys", "proc", "dev"):
        monkeypatch.setattr(collecting, {"sys": "SYSFS"}.get(name, name.upper()), tmp_path / name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(collecting, "service_manager", Systemd)
    return tmp_path


def test_machine_is_read(machine: Path) -> None:
    readings = collecting.collect(None, None, {})
    assert readings.cards == (PciCard("0000:00:06.0", "10de:2330", "nvidia", Link(5, 16), Link(5, 16), None),)
    assert readings.smi[0].name == "NVIDIA H100 80GB HBM3"
    assert (readings.module_version, readings.library_version) == ("580.159.04", "580.159.04")
    assert readings.packages == {"libnvidia-compute-580": "580.159.04"}
    assert readings.missing_nodes == (str(machine / "dev/nvidia-uvm"),)
    assert [(node.usable, node.mode[:3]) for node in readings.nodes] == [(True, "666"), (True, "666")]
    # there is no journal, so the ring buffer is read
    assert (readings.log_after, readings.log_error) == (FALLEN, None)
    assert readings.exercise_skipped == "no Python of an engine was named"


def test_nvidia_smi_that_hangs_hangs_nothing_else(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "bin/nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(collecting, "SMI_LIMIT_S", 0.5)
    readings = collecting.collect(sys.executable, None, {})
    assert readings.smi_hangs
    assert readings.exercise is None
    assert only(judge(readings, Wanted()), "driver-silent").level == "problem"


def test_card_is_put_to_work_in_the_python_that_is_named(machine: Path) -> None:
    readings = collecting.collect(sys.executable, None, {})
    assert readings.exercise is not None
    assert readings.exercise.stage == "start"
    assert "No module named 'torch'" in str(readings.exercise.error)
    assert "build it again" in only(judge(readings, Wanted()), "cuda-fails").text


def test_busy_card_is_left_alone(machine: Path) -> None:
    (machine / "bin/systemctl").write_text("#!/bin/sh\necho active\n")
    (machine / "bin/nvidia-smi").write_text("#!/bin/sh\necho '00000000:00:06.0, H100, 81559, 900, 580.159.04, Enabled'\n")
    readings = collecting.collect(sys.executable, None, {})
    assert (readings.serving, readings.exercise) == (True, None)
    assert readings.exercise_skipped == "vllm.service has the card's memory"


def test_log_that_nobody_shows_is_told(machine: Path) -> None:
    (machine / "bin/dmesg").write_text("#!/bin/sh\necho 'dmesg: read kernel buffer failed: Operation not permitted' >&2; exit 1\n")
    readings = collecting.collect(None, None, {})
    assert "Operation not permitted" in str(readings.log_error)


# --- the command


def test_record_is_kept_and_holds_what_was_asked(tmp_path: Path) -> None:
    record = tmp_path / "state/gpu-check.json"
    with pytest.raises(BringupError, match="cannot serve yet"):
        # the machine of the tests has no card, or else not this one
        gpu_check({"serving": "ffff:ff:1f.0", "expect": {"gpu": "none", "pci_ids": ["10de:0000"], "count": 9}}, record)
    kept = json.loads(record.read_text())
    assert kept["passed"] is False
    assert kept["request"]["serving"] == "ffff:ff:1f.0"
    assert [check for check in kept["checks"] if check["level"] == "problem"]


def test_result_passes_with_warnings() -> None:
    assert result_of({}, (Check("warning", "x", "y"),), "580.95.05")["passed"]


def test_request_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "request.json"
    broken.write_text("[1]")
    with pytest.raises(BringupError, match="JSON object"):
        read_request(broken)
    assert main(["gpu-check", str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().out
