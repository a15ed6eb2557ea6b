"""Throw-away hosts, for real: `bringup lab up`, use, crash, `down`."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from deployment import nspawn_of

from bringup.lab.container import machine_name
from bringup.lab.guest import certificates
from bringup.lab.machine import why_not
from bringup.lab.state import base_dir, lab_dir, read_state

pytestmark = pytest.mark.lab

Lab = Callable[..., "subprocess.CompletedProcess[str]"]
LIMIT_S = 300  # the first `up` builds the base, which takes about a minute


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder of the tests' own."""
    directory = tmp_path_factory.mktemp("lab")
    if reason := why_not(directory):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return directory


@pytest.fixture(scope="module")
def lab(directory: Path) -> Iterator[Lab]:
    """`bringup lab` in that folder, on the machine's cached base; in the end nothing is left."""
    environment = os.environ | {
        "BRINGUP_LAB_DIR": str(directory),
        "BRINGUP_LAB_BASE_DIR": str(base_dir(lab_dir())),
    }

    def run(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        finished = subprocess.run(
            [sys.executable, "-m", "bringup.lab", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        if check:
            assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    yield run
    run("down")


@pytest.fixture
def two_hosts(lab: Lab) -> Lab:
    """The lab with lab1 and lab2 up, however the test before left it."""
    lab("up", "--hosts", "2")
    return lab


def mounts_in(directory: Path) -> list[str]:
    return [p.mountpoint for p in psutil.disk_partitions(all=True) if Path(p.mountpoint).is_relative_to(directory)]


def processes_of(directory: Path) -> list[int]:
    """Processes that name the folder in their command line, or whose root file system lies on it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            mountinfo = Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
        except OSError:
            continue
        roots = [line for line in mountinfo if line.split()[4] == "/"]
        if any(str(directory) in text for text in [*(process.info["cmdline"] or ()), *roots]):
            found.append(process.pid)
    return found


def assert_nothing_left(directory: Path) -> None:
    assert mounts_in(directory) == []
    assert processes_of(directory) == []
    assert not (directory / "hosts").exists()
    for name in ("lab1", "lab2"):
        machine = machine_name(directory / "hosts" / name)
        assert list(Path("/sys/fs/cgroup").glob(f"**/*{machine}*")) == []
        assert list(Path("/run/systemd/nspawn").glob(f"*/{machine}")) == []


def test_hosts_run_systemd_and_answer_by_name(two_hosts: Lab) -> None:
    for name in ("lab1", "lab2"):
        answer = two_hosts("ssh", name, "hostname; systemctl is-system-running --wait", check=False).stdout.split()
        assert answer[0] == name
        assert answer[1] in ("running", "degraded")


def test_host_is_bare(two_hosts: Lab) -> None:
    assert two_hosts("ssh", "lab1", "command -v python3 pip3 sudo curl", check=False).stdout == ""


def test_host_refuses_another_key(two_hosts: Lab, directory: Path, tmp_path: Path) -> None:
    port = read_state(directory).hosts[0].ssh_port
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    options = [f"-oUserKnownHostsFile={directory / 'known_hosts'}", "-oStrictHostKeyChecking=yes", "-oBatchMode=yes"]
    command = ["ssh", "-F", "/dev/null", "-oIdentityAgent=none", "-oIdentitiesOnly=yes", *options]
    for key, status in ((directory / "key", 0), (tmp_path / "key", 255)):
        login = subprocess.run([*command, "-i", key, "-p", str(port), "root@127.0.0.1", "true"], capture_output=True)
        assert login.returncode == status, login.stderr


def test_host_installs_packages_from_the_machines_mirror(two_hosts: Lab) -> None:
    two_hosts("ssh", "lab1", "apt-get update && apt-get install -y --no-install-recommends hello")
    assert "Hello" in two_hosts("ssh", "lab1", "hello").stdout


def test_host_trusts_what_the_machine_trusts(two_hosts: Lab) -> None:
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    assert certificates(Path(bundle).read_text()) <= certificates(two_hosts("ssh", "lab1", "cat", bundle).stdout)


def test_hosts_do_not_share_control_groups(two_hosts: Lab) -> None:
    # its second process ignores TERM, so it ends only if systemd can kill what is in the service's control group
    stubborn = """systemd-run -q --unit=stubborn -p TimeoutStopSec=1 sh -c '(trap "" TERM; exec sleep 999) & exec sleep 999'"""
    for name in ("lab1", "lab2"):
        two_hosts("ssh", name, stubborn)
    # the host started last is the one that would meet the other's processes first in a shared group
    two_hosts("ssh", "lab2", "systemctl stop stubborn; systemctl reset-failed")
    assert two_hosts("ssh", "lab2", "pidof sleep", check=False).stdout == ""
    assert len(two_hosts("ssh", "lab1", "pidof sleep").stdout.split()) == 2


def test_second_up_changes_nothing(two_hosts: Lab, directory: Path) -> None:
    def watched() -> tuple[str, list[int], list[str]]:
        nspawns = [nspawn_of(directory, name).pid for name in ("lab1", "lab2")]
        return (directory / "state.json").read_text(), nspawns, mounts_in(directory)

    before = watched()
    two_hosts("up", "--hosts", "2")
    two_hosts("up")
    assert watched() == before


def test_host_that_died_is_started_again_with_its_files(two_hosts: Lab, directory: Path) -> None:
    before = read_state(directory)
    two_hosts("ssh", "lab1", "touch /root/kept")
    nspawn_of(directory, "lab1").kill()
    assert two_hosts("ssh", "lab1", "true", check=False).stderr.startswith("lab1 is not up; `bringup lab up`")
    two_hosts("up")
    assert two_hosts("ssh", "lab1", "ls /root").stdout == "kept\n"
    assert read_state(directory) == before


def test_down_of_one_leaves_the_other(two_hosts: Lab, directory: Path) -> None:
    two_hosts("down", "lab2")
    assert [host.name for host in read_state(directory).hosts] == ["lab1"]
    assert [Path(mount) for mount in mounts_in(directory)] == [directory / "hosts/lab1/root"]
    assert two_hosts("ssh", "lab1", "hostname").stdout == "lab1\n"


@pytest.mark.parametrize("state", [None, '{"hosts": [{"na'])
def test_down_after_a_crash_leaves_nothing(two_hosts: Lab, directory: Path, state: str | None) -> None:
    nspawn_of(directory, "lab1").kill()
    (directory / "state.json").unlink()
    if state is not None:
        (directory / "state.json").write_text(state)
    two_hosts("down")
    assert_nothing_left(directory)


def test_up_after_a_crash_works(two_hosts: Lab, directory: Path) -> None:
    nspawn_of(directory, "lab2").kill()
    (directory / "state.json").unlink()
    two_hosts("up")
    assert two_hosts("ssh", "lab1", "hostname").stdout == "lab1\n"
    two_hosts("down")
    assert_nothing_left(directory)
