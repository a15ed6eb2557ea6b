"""The lab's state folder, its lock, and what the commands say without any host."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.lab.guest import host_files
from bringup.lab.machine import require_space, why_not
from bringup.lab.state import LabBusyError, LabHost, LabState, lab_dir, locked, read_state, write_state


def host(name: str = "lab1", ssh_port: int = 20001) -> LabHost:
    root = Path("/lab/hosts", name, "root")
    return LabHost(name=name, ssh_port=ssh_port, service_port=ssh_port + 1, root=root, host_key=f"ssh-ed25519 KEY{name}")


def lab(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bringup.lab", *arguments],
        env=os.environ | {"BRINGUP_LAB_DIR": str(directory)},
        capture_output=True,
        text=True,
    )


def test_state_comes_back_as_written(tmp_path: Path) -> None:
    state = LabState(directory=tmp_path, hosts=(host(), host("lab2", 20003)))
    write_state(state)
    assert read_state(tmp_path) == state


def test_state_follows_its_folder(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    write_state(LabState(directory=before, hosts=(host(),)))
    before.rename(after)
    assert read_state(after).key == after / "key"


def test_known_hosts_name_each_port(tmp_path: Path) -> None:
    state = LabState(directory=tmp_path, hosts=(host(), host("lab2", 20003)))
    write_state(state)
    assert state.known_hosts.read_text() == ("[127.0.0.1]:20001 ssh-ed25519 KEYlab1\n[127.0.0.1]:20003 ssh-ed25519 KEYlab2\n")


def test_no_lab_is_a_lab_without_hosts(tmp_path: Path) -> None:
    assert read_state(tmp_path / "none").hosts == ()


@pytest.mark.parametrize("text", ['{"hosts": [{"na', "[]", '{"hosts": [{"name": "lab1"}]}', ""])
def test_torn_state_says_how_to_clear_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(BringupError, match="lab down"):
        read_state(tmp_path)


def test_unknown_host_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(BringupError, match="no lab host lab9; there are: lab1, lab2"):
        LabState(directory=tmp_path, hosts=(host(), host("lab2"))).host("lab9")


def test_folder_of_the_lab_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRINGUP_LAB_DIR", f"{tmp_path}/a/../b")
    assert lab_dir() == tmp_path / "b"
    monkeypatch.delenv("BRINGUP_LAB_DIR")
    assert lab_dir() == Path("/var/lib/bringup-lab")


def test_lock_keeps_a_second_command_out_and_ends_with_the_first(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    with locked(directory):
        refused = lab(directory, "down")
        assert refused.returncode == 1
        assert "Another lab command is at work" in refused.stderr
        assert "Traceback" not in refused.stderr
        with pytest.raises(LabBusyError), locked(directory):
            pass
    assert lab(directory, "down").returncode == 0
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_commands_without_a_lab_say_what_to_do_and_make_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    assert "bringup lab up" in lab(directory, "list").stdout
    for command in (("ssh", "lab1"), ("down", "lab1")):
        refused = lab(directory, *command)
        assert refused.returncode == 1
        assert "There is no lab host lab1" in refused.stderr
    assert not directory.exists()


def test_without_root_rights_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "as root or with sudo" in (why_not(tmp_path) or "")


def test_missing_programs_are_named_by_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("bringup.lab.machine.tool_path", lambda: str(tmp_path))
    reason = why_not(tmp_path) or ""
    assert "apt-get install" in reason
    assert {"systemd-container", "debootstrap", "openssh-client"} <= set(reason.rstrip("`.").split())


def test_too_little_space_says_how_much_is_needed(tmp_path: Path) -> None:
    with pytest.raises(BringupError, match=r"needs about 1099511627776 MiB; free some space"):
        require_space(tmp_path / "not" / "there", 2**40, "a very large host")


def test_host_listens_on_loopback_and_takes_the_machines_proxies() -> None:
    files = host_files(host(), "ssh-ed25519 USER", {"https_proxy": "http://proxy.example", "HOME": "/root"})
    assert files["etc/environment"] == "https_proxy=http://proxy.example\n"
    assert {"Port 20001", "ListenAddress 127.0.0.1"} <= set(files["etc/ssh/sshd_config.d/lab.conf"].splitlines())
    assert files["root/.ssh/authorized_keys"] == "ssh-ed25519 USER\n"


def test_a_folder_that_can_hold_no_host_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    if why_not() is not None:
        pytest.skip("no host can be started on this machine in any folder")
    assert "BRINGUP_LAB_DIR" in (why_not(Path("/proc/lab")) or "")
