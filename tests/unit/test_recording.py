"""Recordings: what is taken out of them, what is kept, and how they are found."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bringup.errors import BringupError
from bringup.probe.host import parse_host
from bringup.probe.sections import split_sections
from bringup.recording import Recording, RecordingInfo, load_recording, recording_named, save_recording, shipped_recordings
from bringup.scrub import scrub
from tests.unit.machines import NOW_UNIX_S

INFO = RecordingInfo.model_validate(
    {"name": "my-box", "title": "A box", "kind": "recorded", "date": "2026-11-24", "made_from": "the box under the desk"}
)
DRIVEN = "amd-two-ccd-4090d"  # of the shipped recordings, one whose driver reports at length


def probe_text(sections: dict[str, str]) -> str:
    return Recording(info=INFO, sections=sections).probe_text(NOW_UNIX_S)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def facts_of(sections: dict[str, str]) -> dict[str, Any]:
    return dict(leaves(parse_host(probe_text(sections)).model_dump(mode="json")))


# --- what is taken out


HEX = "0123456789abcdef"
uuids = st.uuids(version=4).map(str)
macs = st.lists(st.text(HEX, min_size=2, max_size=2), min_size=6, max_size=6).map(":".join)
private_ipv4 = st.integers(2**24 * 10, 2**24 * 11 - 1).map(lambda number: ".".join(str(byte) for byte in number.to_bytes(4)))
ipv6 = st.ip_addresses(v=6, network="fd00::/8").map(str)
serials = st.from_regex(r"[A-Z]{2}[1-9][A-Z0-9]{8,12}", fullmatch=True)
hosts = st.from_regex(r"[a-z]{4,8}-[1-9]{2,3}q", fullmatch=True)
users = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_.-]{1,12}[a-z0-9]", fullmatch=True).filter(lambda name: name not in ("root", "vllm", "user")),
    # words of the trade: they must go as names, and stay as words
    st.sampled_from(["ubuntu", "nvidia", "gpu", "none", "rw", "python", "debian"]),
)


def planted(**secret: str) -> dict[str, str]:
    """A machine that says everything about itself and its owner that the probe could let out."""
    host, user, other, uuid, mac = secret["host"], secret["user"], secret["other"], secret["uuid"], secret["mac"]
    ipv4, ipv6_, serial, board = secret["ipv4"], secret["ipv6"], secret["serial"], secret["board"]
    sections = dict(recording_named(DRIVEN).sections)
    elements = {
        "serial": serial,
        "uuid": f"GPU-{uuid}",
        "board_id": board,
        "gpu_part_number": board,
        "chassis_serial_number": serial,
    }
    xml = sections["nvidia-smi-xml"]
    for tag in elements:
        xml = re.sub(rf"\s*<{tag}>[^<]*</{tag}>", "", xml)
    report = "".join(f"<{tag}>{value}</{tag}>" for tag, value in elements.items())
    processes = "".join(
        f"<process_info><pid>{number}</pid><type>C</type><process_name>{name}</process_name><used_memory>100 MiB</used_memory>"
        "</process_info>"
        for number, name in enumerate(
            (f"/home/{other}/my {host}/bin/python -m train", f"/usr/bin/python3 --to {ipv4}", "[Not Found]"), 7
        )
    )
    xml = re.sub(r"\s*<processes>.*?</processes>|\s*<processes\s*/>", "", xml, flags=re.S)
    sections["nvidia-smi-xml"] = re.sub(r"(<gpu id=[^>]*>)", rf"\1{report}<processes>{processes}</processes>", xml, count=1)
    volume = f"/dev/mapper/{host}--vg-root"
    decisions = [
        {"key": "listen", "value": f"{ipv4}:8000", "why": host, "source": f"/home/{user}/prod.py"},
        {"key": "seed", "value": 0},
    ]
    request = {"host": host, "model": "m", "base_url": f"http://{ipv4}:8000"}
    return sections | {
        "identity": f"uid=1000\nuser={user}\nroot=sudo",
        "kernel-command-line": f"BOOT_IMAGE=/vmlinuz-6.8.0-88-generic root=UUID={uuid} resume={volume} ro "
        f"rd.luks.name={uuid}={host} cryptdevice=/dev/disk/by-id/nvme-{serial}:{host} ip={ipv4}::{ipv4}:255.255.255.0:{host}:eno1 "
        f'ifname=eno1:{mac} systemd.hostname={host} iommu=pt rd.driver.blacklist=nouveau nvidia.NVreg_RegistryDwords="a=1;b=2"',
        "disk": f"/opt/bringup 1000000 {volume} ext4\n/var/lib/bringup 2000000 {host}:/export/{user} nfs",
        "swaps": f"Filename\tType\tSize\tUsed\tPriority\n{volume} partition 1 0 -2\n/home/{other}/swapfile file 1 0 -3",
        "dmidecode": f"{sections['dmidecode']}\n\tSerial Number: {serial}\n\tAsset Tag: {board}\n\tUUID: {uuid}",
        "nvidia-module": "version=580.95.05\ndescription=NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  "
        f"Release Build  ({user}@{host})",
        "kernel-log": f"[    1.0] NVRM: GPU Board Serial Number: {serial}\n[    2.0] NVRM: GPU-{uuid} from {ipv6_} at {mac}",
        "service": f"LoadState=loaded\nActiveState=active\nForeign=/home/{other}/.config/vllm.service",
        "service-user": f"vllm:x:998:998:{host},,{serial}:/home/{other}:/bin/sh",
        "release": f"/opt/bringup/releases/0123456789ab\n{'0' * 64}\n{json.dumps({'decisions': decisions, 'note': host})}",
        "smoke": json.dumps({"request": request, "outcome": "PASS", "server": host}),
    }


machines = st.fixed_dictionaries(
    {
        "host": hosts,
        "user": users,
        "other": users,
        "uuid": uuids,
        "mac": macs,
        "ipv4": private_ipv4,
        "ipv6": ipv6,
        "serial": serials,
        "board": serials,
    }
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(secrets=machines)
def test_scrub_takes_out_every_secret_and_leaves_every_other_fact(secrets: dict[str, str]) -> None:
    before = "\n".join(recording_named(DRIVEN).sections.values())
    unmistakable = {name: secret for name, secret in secrets.items() if name not in ("user", "other")}
    assume(not any(secret in before for secret in unmistakable.values()))
    sections = planted(**secrets)
    scrubbed = scrub(sections)
    text = probe_text(scrubbed)
    for secret in unmistakable.values():
        assert secret.lower() not in text.lower()
    for user in (secrets["user"], secrets["other"]):
        for place in (rf"user={re.escape(user)}$", rf"/home/{re.escape(user)}\b", rf"\b{re.escape(user)}@"):
            assert not re.search(place, text, re.M)
    assert scrub(scrubbed) == scrubbed
    # what the facts say is the same, apart from the secrets themselves
    facts, kept = facts_of(sections), facts_of(scrubbed)
    assert facts.keys() == kept.keys()
    secret_facts = {
        path: fact for path, fact in facts.items() if isinstance(fact, str) and any(s in fact for s in secrets.values())
    }
    assert {path: kept[path] for path in facts if path not in secret_facts} == {
        path: fact for path, fact in facts.items() if path not in secret_facts
    }


SECRETS = {
    "host": "minerva-17q",
    "user": "alice",
    "other": "bob",
    "uuid": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
    "mac": "3c:7c:3f:1a:2b:4d",
    "ipv4": "10.20.30.40",
    "ipv6": "fd12:3456:789a::7",
    "serial": "SN4QX81LMN0",
    "board": "BD7KJ29PQR3",
}


def test_scrub_keeps_what_a_plan_is_made_from() -> None:
    facts = parse_host(probe_text(scrub(planted(**SECRETS))))
    assert facts.login_user == "user"
    assert facts.root_access == "sudo"
    assert facts.system.kernel_command_line is not None
    for parameter in ("iommu=pt", "rd.driver.blacklist=nouveau", 'nvidia.NVreg_RegistryDwords="a=1;b=2"'):
        assert parameter in facts.system.kernel_command_line.replace("  ", " ")
    assert facts.served is not None
    assert facts.served.decisions.keys() == {"listen", "seed"}
    assert facts.smoke is not None
    assert facts.smoke.outcome == "PASS"
    # folders that were on two disks still are
    assert len({disk.device for disk in facts.disks}) == 2


@pytest.mark.parametrize(
    ("section", "body"),
    [
        pytest.param("packages", "ii |libcudnn9-cuda-13|9.10.2.21-1", id="version-like-an-address"),
        pytest.param("uname", "5.15.167.4-microsoft-standard-WSL2\nx86_64", id="kernel-of-wsl"),
        pytest.param("pci-display", "address=0000:01:00.0 device=0x2685 numa_node=-1", id="pci-address"),
        pytest.param("models", "Qwen--Qwen3-4B-Instruct-2507@cdbee75f17c0 a1b2c3d4e5f6", id="model-folder"),
        pytest.param("engines", f"vllm-0.33.0-cuda {'0a' * 32}", id="checksum"),
        pytest.param("identity", "uid=0\nuser=root\nroot=root", id="root"),
        pytest.param("service-user", "vllm:x:998:998::/var/lib/bringup/home:/usr/sbin/nologin", id="our-own-user"),
        pytest.param("service", "Foreign=/home/vllm/.config/vllm.service", id="home-of-our-own-user"),
        pytest.param("cuda", "path=/var/lib/bringup/home/cuda version=13.0", id="our-own-folder"),
        pytest.param("disk", "/opt/bringup 1000 /dev/nvme0n1p2 ext4\n/var/lib/bringup 1000 overlay overlayfs", id="plain-devices"),
        pytest.param("kernel-log", "listening on 127.0.0.1 and ::1", id="loopback"),
        pytest.param("nvidia-smi-xml", "<vbios_version>95.02.18.00.02</vbios_version><serial>N/A</serial>", id="firmware-version"),
        pytest.param("nvidia-module", "NVRM version: … (dvs-builder@U22-I3-AM02-24-3)", id="everybodys-build-host"),
    ],
)
def test_scrub_leaves_alone(section: str, body: str) -> None:
    assert scrub({section: body}) == {section: body}


@pytest.mark.parametrize(
    ("section", "body", "said"),
    [
        pytest.param("kernel-command-line", "root=UUID=ABCD-1234 quiet", "root=scrubbed quiet", id="short-uuid"),
        pytest.param("kernel-command-line", "root=/dev/nvme0n1p2 ro", "root=scrubbed ro", id="root-device"),
        pytest.param("kernel-command-line", r"initrd=\0123456789abcdef0123456789abcdef\i", "initrd=scrubbed", id="machine-id"),
        pytest.param("kernel-command-line", "init=/nix/store/0a1-nixos-system-minerva/init", "init=scrubbed", id="nixos"),
        pytest.param("swaps", "/dev/minerva-vg/swap partition", "/dev/mapper/volume1 partition", id="volume-group"),
        pytest.param("disk", "/opt/bringup 1 rpool/minerva zfs", "/opt/bringup 1 volume1 zfs", id="zfs"),
        pytest.param("cuda", "path=/data/home/alice/cuda version=13.0", "path=/home/user/scrubbed version=13.0", id="home"),
        pytest.param("kernel-log", "rw/home/alice/x", "rw/home/user/scrubbed", id="home-after-a-word"),
        pytest.param(
            "release",
            'releases/x\nnone\n{"decisions": [{"key": "api-key", "value": "0a1b2c3d4e5f", "why": "as set"}]}',
            'releases/x\nnone\n{"decisions": [{"key": "api-key", "value": "scrubbed"}]}',
            id="fingerprint-of-a-key",
        ),
        pytest.param("release", "releases/x\nnone\nnot JSON: minerva", 'releases/x\nnone\n{"decisions": []}', id="damaged-plan"),
        pytest.param("smoke", "not JSON: minerva", "", id="damaged-smoke-record"),
    ],
)
def test_scrub_replaces(section: str, body: str, said: str) -> None:
    assert scrub({section: body}) == {section: said}


def test_equal_identifiers_stay_equal_over_sections() -> None:
    sections = {"kernel-log": "GPU-6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "nvidia-smi": "GPU-6F9619FF-8B86-4D01-B42D-00CF4FC964FF"}
    assert len(set(scrub(sections).values())) == 1


@given(st.dictionaries(st.sampled_from(["identity", "release", "smoke", "disk", "service-user", "kernel-command-line"]), st.text()))
def test_scrub_survives_anything(sections: dict[str, str]) -> None:
    assert scrub(sections).keys() == sections.keys()


# --- as a folder


def test_saved_recording_holds_no_secret_and_reads_back(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "my-box"
    saved = save_recording(probe_text(planted(**SECRETS)), folder, INFO)
    assert load_recording(folder) == saved
    written = {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert "clock.txt" not in written
    for secret in SECRETS.values():
        assert not any(re.search(rf"\b{re.escape(secret)}\b", text) for text in written.values()), secret
    assert [path.name for path in folder.parent.iterdir()] == ["my-box"]  # nothing is left beside it


def test_probe_text_tells_the_time_that_it_is_given_and_what_was_recorded() -> None:
    recording = recording_named(DRIVEN)
    sections = split_sections(recording.probe_text(NOW_UNIX_S))
    assert sections.pop("clock") == str(NOW_UNIX_S)
    assert sections == {name: body for name, body in recording.sections.items() if name != "clock"}


def test_empty_sections_stay_apart_from_those_that_were_not_asked_for(tmp_path: Path) -> None:
    save_recording(probe_text({"identity": "uid=0", "reboot": ""}), tmp_path / "box", INFO)
    assert load_recording(tmp_path / "box").sections == {"identity": "uid=0", "reboot": ""}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("This account is not available.", "is its login shell a POSIX shell?", id="no-probe"),
        pytest.param("@@bringup identity\nuid=0\n", "was cut off", id="cut-off"),
        pytest.param("@@bringup ../../outside\nx\n@@bringup end\n", "no section's name", id="leaves-the-folder"),
    ],
)
def test_what_is_no_probe_output_is_not_saved(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BringupError, match=re.escape(said)):
        save_recording(text, tmp_path / "box", INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    with pytest.raises(BringupError, match="exists: name a folder that does not"):
        save_recording(probe_text({"identity": "uid=0"}), tmp_path, INFO)
    assert list(tmp_path.iterdir()) == [kept]


GOOD_INFO = "name: box\ntitle: A box\nkind: recorded\ndate: 2026-11-24\nmade_from: here\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({"identity.txt": "uid=0"}, "recording.yaml", id="no-yaml"),
        pytest.param({"recording.yaml": "{", "identity.txt": "uid=0"}, "recording.yaml is not YAML", id="not-yaml"),
        pytest.param({"recording.yaml": "just words"}, "recording.yaml is wrong: the file", id="no-mapping"),
        pytest.param({"recording.yaml": GOOD_INFO.replace("recorded", "guessed")}, "kind: Input should be", id="kind"),
        pytest.param({"recording.yaml": GOOD_INFO + "vendor: x\n"}, "vendor: Extra inputs", id="unknown-key"),
        pytest.param({"recording.yaml": GOOD_INFO}, "holds no section", id="no-sections"),
        pytest.param({"recording.yaml": GOOD_INFO, "My notes.txt": "x"}, "'My notes' is no section's name", id="section-name"),
        pytest.param({"recording.yaml": GOOD_INFO, "uname.txt": "a\n@@bringup end\n"}, "starts another section", id="mark"),
    ],
)
def test_damaged_folder_is_an_error_for_people(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BringupError, match=re.escape(said)):
        load_recording(tmp_path)


# --- finding one


def test_a_path_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = shipped_recordings()[0]
    shipped = recording_named(name)
    (tmp_path / name).mkdir()  # not a recording: the shipped one is meant
    assert recording_named(name) == shipped
    (tmp_path / name).rmdir()
    saved = save_recording(probe_text({"identity": "uid=0"}), tmp_path / name, INFO)
    assert recording_named(name) == saved
    assert recording_named(str(tmp_path / name)) == saved


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("4090d-worksttion", "unknown recording '4090d-worksttion': did you mean 4090d-workstation?", id="nearest"),
        pytest.param("/nowhere/x", "unknown recording '/nowhere/x': ", id="no-path"),
        pytest.param(".", "the folder . is no recording of a host: it has no recording.yaml", id="folder"),
    ],
)
def test_unknown_recording_names_the_nearest(name: str, said: str) -> None:
    with pytest.raises(BringupError, match=re.escape(said)):
        recording_named(name)


@pytest.mark.parametrize("name", shipped_recordings())
def test_shipped_recording_is_sound(name: str) -> None:
    recording = recording_named(name)
    assert recording.info.name == name
    assert parse_host(recording.probe_text(NOW_UNIX_S)).clock_unix_s == NOW_UNIX_S
    # nothing in it could be somebody's
    assert scrub(recording.sections) == recording.sections
