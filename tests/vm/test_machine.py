"""The VM itself does what the tests rely on: state of its own, real reboots, packages, nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from image import Image, reachable_from_vm
from machine import Boot, Machine, Node, Vm, started

from bringup.errors import BringupError
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def machine(boot: Boot) -> Machine:
    return boot(Vm())


def test_reboot_is_real_and_keeps_the_disk(machine: Machine) -> None:
    machine.ssh("echo kept > /root/on-disk; echo lost > /run/in-memory; sysctl -w vm.swappiness=1")
    before = machine.boot_id()
    machine.reboot()
    assert machine.boot_id() != before
    assert machine.ssh("cat /root/on-disk; ls /run/in-memory", check=False).stdout == "kept\n"
    assert machine.ssh("sysctl -n vm.swappiness").stdout != "1\n"


def test_packages_come_from_the_machines_mirror(machine: Machine) -> None:
    machine.ssh("apt-get update && apt-get install -y --no-install-recommends hello")
    assert "Hello" in machine.ssh("hello").stdout
    # what DKMS would need fits the kernel that runs
    assert machine.ssh("apt-cache show linux-headers-$(uname -r)").stdout.startswith("Package: ")


def test_vms_share_nothing_and_power_off(machine: Machine, boot: Boot) -> None:
    machine.ssh("echo mine > /root/mark")
    other = boot(Vm(numa=(Node(cpus=(0,), memory_mib=512), Node(cpus=(), memory_mib=256)), cores=1))
    assert other.ssh("cat /root/mark", check=False).returncode
    assert other.ssh("cat /etc/machine-id").stdout != machine.ssh("cat /etc/machine-id").stdout
    facts = parse_host(other.run_script(probe_script()))
    assert [node.cpus for node in facts.numa_nodes] == [(0,), ()]
    assert facts.cpu.smt == "notsupported"
    other.power_off()
    assert "Power down" in (other.folder / "console.log").read_text()


def test_failed_boot_shows_the_console(image: Image, tmp_path: Path) -> None:
    with started(Vm(kernel_command_line="root=/dev/nothing"), image, tmp_path) as machine:
        with pytest.raises(BringupError, match=r"did not answer over SSH within 10 s .*console said last:\n    \S"):
            machine.wait_for_boot(limit_s=10)
        machine.qemu.kill()
        with pytest.raises(BringupError, match="QEMU ended with exit code -9"):
            machine.wait_for_boot()


def test_impossible_hardware_is_told_in_qemus_words(image: Image, tmp_path: Path) -> None:
    nowhere = Vm(numa=(Node(cpus=(0, 7), memory_mib=256),))
    with pytest.raises(BringupError, match=r"did not start \(exit code 1\).*\n    .*CPU"), started(nowhere, image, tmp_path):
        pass


def test_nothing_is_left_of_a_killed_test_run(image: Image, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from image import Image; from machine import Vm, started\n"
        "with started(Vm(), Image(Path(sys.argv[1])), Path(sys.argv[2])) as machine:\n"
        "    print(machine.qemu.pid, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(image.folder), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        qemu = psutil.Process(int(run.stdout.readline()))
        assert "qemu" in qemu.name()
        run.send_signal(signal.SIGKILL)
    try:
        qemu.wait(10)
    finally:
        if qemu.is_running():
            qemu.kill()


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("URIs: http://127.0.0.1:3142/debian", "URIs: http://10.0.2.2:3142/debian"),
        ('Acquire::http::Proxy "http://me:secret@localhost:3128";', 'Acquire::http::Proxy "http://me:secret@10.0.2.2:3128";'),
        ("deb http://localhost.example/debian stable main", "deb http://localhost.example/debian stable main"),
        ("no_proxy=localhost,127.0.0.1", "no_proxy=localhost,127.0.0.1"),
    ],
)
def test_loopback_servers_are_reached_from_the_vm(here: str, there: str) -> None:
    assert reachable_from_vm(here) == there
