"""The driver's step where something goes wrong on the way, on a host that says it is Debian 13.

It starts on a bare host; the tests build on each other, in this order. A stand-in for vllm.service shows what a step does to
what is served.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from deployment import changed
from driver_machine import Machine
from nvidia_repository import NEWER_580, OTHER_KERNEL, VERSIONS, Package

pytestmark = pytest.mark.lab
EXACT = VERSIONS[580]
_UNIT = """# Written by bringup's tests
[Service]
ExecStart=/bin/sh -c 'trap "cat /proc/sys/kernel/random/boot_id >> /root/drained; exit 0" TERM; while :; do sleep 1 & wait; done'
"""


@pytest.fixture(scope="module", autouse=True)
def debian13(machine: Machine) -> Iterator[None]:
    with machine.release('ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n'):
        yield


def main_pid(machine: Machine) -> str:
    return machine.ssh("systemctl show vllm.service -P MainPID").strip()


def test_main_job_stops_where_the_driver_waits_for_its_reboot(machine: Machine) -> None:
    run = machine.deploy(check=False, job="qwen", nvidia_driver=EXACT, reboot="never")
    assert run.returncode == 1
    assert "a reboot is due: nouveau holds the card" in run.stderr
    assert f"nvidia-driver-cuda={EXACT}-1" in machine.packages()
    assert "Starting operation: Driver | " in run.stderr
    assert "Starting operation: Runtime | " not in run.stderr
    assert machine.ssh("test -e /opt/bringup || echo none").strip() == "none"


def test_host_that_does_not_come_back_in_time_is_told_of(machine: Machine) -> None:
    with machine.power_cut():
        run = machine.deploy(check=False, nvidia_driver=EXACT, boot_wait_s=30)
    assert run.returncode == 1
    assert "the host did not come back within 30 s after its restart (boot_wait_s): look at its console" in run.stderr
    assert machine.loaded() == EXACT  # it has come back since
    # the run ended before the card's own step, which is all that is left
    assert all(name.startswith("Card | ") for name in changed(machine.deploy("--json", nvidia_driver=EXACT)))
    assert changed(machine.deploy("--json", nvidia_driver=EXACT)) == []


def test_driver_runs_after_the_reboot(machine: Machine) -> None:
    machine.deploy(nvidia_driver=EXACT)
    assert machine.loaded() == EXACT
    machine.ssh(f"cat > /etc/systemd/system/vllm.service <<'END'\n{_UNIT}END\nsystemctl daemon-reload; systemctl start vllm")


def test_build_that_fails_leaves_what_is_served(machine: Machine) -> None:
    pid = main_pid(machine)
    machine.ssh("touch /etc/dkms-fails")
    run = machine.deploy(check=False, nvidia_driver="590")
    machine.ssh("rm /etc/dkms-fails")
    assert run.returncode == 1
    assert "a package's own script failed" in run.stderr
    assert machine.loaded() == EXACT
    assert main_pid(machine) == pid != "0"


def test_repeated_run_finishes_it_and_serves_again_after_the_reboot(machine: Machine) -> None:
    before = machine.boot_id()
    run = machine.deploy(nvidia_driver="590")
    assert "half installed: nvidia-" in run.stderr
    assert machine.loaded() == VERSIONS[590]
    # stopped before the reboot, its answers ended; started after it, though it does not start at boot
    assert machine.ssh("cat /root/drained").split() == [before]
    assert main_pid(machine) != "0"
    assert changed(machine.deploy("--json", nvidia_driver="590")) == []


def test_disk_that_is_full_half_way(machine: Machine) -> None:
    pid = main_pid(machine)
    machine.ssh("mount -t tmpfs -o size=100k tmpfs /usr/lib/firmware")
    run = machine.deploy(check=False, nvidia_driver=EXACT)
    machine.ssh("umount /usr/lib/firmware")
    assert run.returncode == 1
    assert "the disk is full: make room and run this again, which goes on where it stopped" in run.stderr
    assert machine.loaded() == VERSIONS[590]
    assert main_pid(machine) == pid != "0"


@contextmanager
def cut_while_it_builds(machine: Machine, version: str) -> Iterator[None]:
    """A run whose control machine is gone while the host builds the module, which lasts until the block ends."""
    machine.ssh("rm -f /run/dkms-is-building; touch /etc/dkms-waits")
    cut = machine.start(nvidia_driver=version)
    try:
        machine.wait_until("test -e /run/dkms-is-building")
        cut.kill()
        # sshd has noticed
        machine.wait_until("test $(pgrep -c sshd) -le 3")
        yield
    finally:
        cut.kill()
        cut.wait()
        machine.ssh("rm /etc/dkms-waits")


def test_installation_goes_on_when_the_connection_is_cut(machine: Machine) -> None:
    with cut_while_it_builds(machine, EXACT):
        pass
    machine.wait_until("! pgrep -x apt-get && ! pgrep -x dpkg")
    assert f"nvidia-kernel-open-dkms={EXACT}-1" in machine.packages()
    assert machine.ssh("dpkg --audit") == ""
    machine.wait_until("apt-mark showhold | grep -q nvidia-driver-cuda")
    assert machine.loaded() == VERSIONS[590]


def test_repeated_run_waits_for_one_that_was_cut_and_goes_on(machine: Machine) -> None:
    with cut_while_it_builds(machine, NEWER_580):
        repeated = machine.start(nvidia_driver=EXACT)
        try:
            machine.wait_until("pgrep -x flock")
        except AssertionError:
            repeated.kill()
            raise
    assert repeated.wait(timeout=300) == 0
    assert machine.loaded() == EXACT
    assert changed(machine.deploy("--json", nvidia_driver=EXACT)) == []


def test_lock_that_another_program_keeps_is_named(machine: Machine) -> None:
    hold = "perl -MFcntl -e '"
    hold += 'open(F,">>","/var/lib/dpkg/lock-frontend"); $l=pack("s s l! l! i x![q]",F_WRLCK,0,0,0,0); '
    hold += 'fcntl(F,F_SETLK,$l) or die; print "held\\n"; close STDOUT; sleep 600\' '
    machine.ssh(f"rm -f /tmp/held; nohup {hold} > /tmp/held 2>&1 & while ! grep -q held /tmp/held; do sleep 0.1; done")
    try:
        run = machine.deploy(check=False, nvidia_driver="590", apt_wait_s=3)
        assert run.returncode == 1
        assert "another program kept apt busy for 3 s" in run.stderr
        assert "(perl)" in run.stderr
        assert "Waiting for cache lock" in run.stderr
    finally:
        machine.ssh("pkill -x perl")
    assert machine.loaded() == EXACT


def test_half_configured_packages_of_somebody_else_are_finished_first(machine: Machine) -> None:
    settings = (("etc/theirs.conf", b"the package's", 0o644),)
    Package("theirs", "1", (), settings, (("conffiles", "/etc/theirs.conf\n"),)).build(machine.deployment.host().root / "root")
    # dpkg would ask whose settings to take
    machine.ssh("echo mine > /etc/theirs.conf && dpkg --unpack /root/theirs_*.deb && rm /root/theirs_*.deb")
    run = machine.deploy(nvidia_driver=EXACT)
    assert "half installed: theirs" in run.stderr
    assert "theirs=1" in machine.packages()
    assert machine.ssh("cat /etc/theirs.conf").strip() == "mine"
    assert changed(machine.deploy("--json", nvidia_driver=EXACT)) == []
    machine.ssh("dpkg -P theirs")


def test_other_kernel_without_headers_is_told_and_gets_its_module_with_them(machine: Machine) -> None:
    found = machine.deploy(nvidia_driver=EXACT).stderr
    assert f"kernel {OTHER_KERNEL} is installed without NVIDIA's module" in found.replace("\n", " ")
    machine.ssh(f"mkdir -p /usr/src/h && ln -s /usr/src/h /lib/modules/{OTHER_KERNEL}/build")
    assert any("Install" in name for name in changed(machine.deploy("--json", nvidia_driver=EXACT)))
    built = machine.ssh(f"modinfo -F version /lib/modules/{OTHER_KERNEL}/updates/dkms/nvidia.ko").strip()
    assert built == EXACT
    assert changed(machine.deploy("--json", nvidia_driver=EXACT)) == []
    machine.ssh(f"rm -r /usr/src/h /lib/modules/{OTHER_KERNEL}/build")


def test_nvidia_smi_that_hangs_is_not_waited_for(machine: Machine) -> None:
    # limits ten times shorter than the step's own, and a program that not even SIGKILL ends, as one in a driver that hangs: frozen
    stuck = "/run/freezer/stuck"
    scripts = {
        "timeout": '[ "$1" = -k ] && shift 2; limit=$1; shift; exec /usr/bin/timeout -k 1 "${limit}e-1" "$@"',
        "nvidia-smi": f"echo $$ > {stuck}/cgroup.procs; echo FROZEN > {stuck}/freezer.state; while :; do :; done",
    }
    machine.ssh(f"mkdir /run/freezer && mount -t cgroup -o freezer freezer /run/freezer && mkdir {stuck}")
    for name, script in scripts.items():
        path = machine.deployment.host().root / "usr/local/bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    run = machine.deploy(check=False, nvidia_driver=EXACT)
    machine.ssh("rm /usr/local/bin/timeout /usr/local/bin/nvidia-smi")
    # all of them were to be killed, and are still there
    assert (
        machine.ssh(f"for pid in $(cat {stuck}/cgroup.procs); do grep ^State /proc/$pid/status; done").count("D (disk sleep)") >= 2
    )
    machine.ssh(f"echo THAWED > {stuck}/freezer.state")
    machine.wait_until(f"! grep -q . {stuck}/cgroup.procs")
    machine.ssh(f"rmdir {stuck} && umount /run/freezer && rmdir /run/freezer")
    assert run.returncode == 1
    said = run.stderr.replace("\n", " ")
    assert re.search("problem: the driver does not answer: .* nvidia-smi did not answer within 15 s", said)
    assert f"module {EXACT} is loaded, but nvidia-smi does not answer: nvidia-smi did not answer within 30 s" in said


def test_driver_that_somebody_upgraded_beneath_the_module_is_rebooted_into(machine: Machine) -> None:
    machine.ssh("apt-mark unhold $(apt-mark showhold) && rm /etc/apt/preferences.d/bringup-nvidia")
    machine.ssh("apt-get install -y -qq nvidia-driver-cuda=590.* nvidia-kernel-open-dkms=590.* libnvidia-compute=590.* 2>&1")
    refused = machine.deploy(check=False, nvidia_driver="590", reboot="never")
    assert refused.returncode == 1
    assert f"the loaded kernel module ({EXACT}) and the driver's library differ" in refused.stderr
    assert f"a reboot is due: module {EXACT} is loaded, {VERSIONS[590]} is installed" in refused.stderr
    machine.deploy(nvidia_driver="590")
    assert machine.loaded() == VERSIONS[590]


def test_driver_is_not_taken_away_while_it_serves(machine: Machine) -> None:
    run = machine.deploy(check=False, nvidia_state="absent")
    assert run.returncode == 1
    assert "systemctl disable --now vllm.service first" in run.stderr
    machine.ssh("systemctl stop vllm; rm /etc/systemd/system/vllm.service /root/drained; systemctl daemon-reload")
    machine.deploy(nvidia_state="absent")
    assert not {line for line in machine.packages() if "nvidia" in line}
