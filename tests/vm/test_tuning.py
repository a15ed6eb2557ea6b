"""Host settings on a kernel of their own: made, caught when somebody changes them, repaired, there after a reboot, and gone again.

The tests build on each other, in this order. What emulation has none of (clocks, idle states) is tried on files in tests/unit.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from machine import Boot, Machine, Node, Vm

from bringup.verify.cli import checks_of
from bringup.verify.reading import reading_command

pytestmark = pytest.mark.vm
ROOT = Path(__file__).parents[2]
LIMIT_S = 600

# 4 GiB at least, or nothing could be served there; CPUs 0 and 2 are the first threads of their cores
TWO_SOCKETS = Vm(
    numa=(Node(cpus=(0, 1), memory_mib=3072), Node(cpus=(2, 3), memory_mib=1536)),
    sockets=2,
    cores=1,
    threads=2,
    kernel_command_line="iommu=pt",
)
WISHES = {
    "transparent_hugepage": "madvise",
    "smt": "off",
    "irq_affinity": "set",
    "net.core.somaxconn": 8192,
    "cpu_governor": "performance",
}
AS_FOUND = {
    "vm.swappiness": "60",
    "kernel.numa_balancing": "1",
    "net.core.somaxconn": "4096",
    "transparent_hugepage": "always",
    "smt": "on",
    "default_irq": "f",
}
SET = {
    "vm.swappiness": "10",
    "kernel.numa_balancing": "0",
    "net.core.somaxconn": "8192",
    "transparent_hugepage": "madvise",
    "smt": "off",
    "default_irq": "4",
}
LOOK = r"""
sysctl -n vm.swappiness kernel.numa_balancing net.core.somaxconn
sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled
cat /sys/devices/system/cpu/smt/control /proc/irq/default_smp_affinity
"""
BY_HAND = {
    "vm.swappiness": "sysctl -q -w vm.swappiness=61",
    "kernel.numa_balancing": "sysctl -q -w kernel.numa_balancing=1",
    "net.core.somaxconn": "sysctl -q -w net.core.somaxconn=128",
    "transparent_hugepage": "echo never > /sys/kernel/mm/transparent_hugepage/enabled",
    "irqbalance": "rm /etc/bringup/irqbalance.env && systemctl restart irqbalance",
    "bringup-tuning.service": "systemctl disable --quiet bringup-tuning.service",
    "smt": "echo on > /sys/devices/system/cpu/smt/control",
}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def machine(boot: Boot) -> Machine:
    machine = boot(TWO_SOCKETS)
    machine.ssh(
        "fallocate -l 64M /swap && chmod 600 /swap && mkswap /swap && echo '/swap none swap sw 0 0' >> /etc/fstab && swapon -a && "
        "systemctl enable --now --quiet irqbalance"
    )
    return machine


@pytest.fixture(scope="module")
def inventory(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {
        "ssh_hostname": "127.0.0.1",
        "ssh_port": machine.ssh_port,
        "ssh_user": "root",
        "ssh_key": str(machine.image.key),
        "ssh_known_hosts_file": str(machine.known_hosts),
        "ssh_strict_host_key_checking": "yes",
        "profile": "cpu-demo",
        "model": "smollm2-135m",
        "model_source": {"kind": "host-folder", "path": "/srv/model"},
        "host_settings": WISHES,
    }
    path = tmp_path_factory.mktemp("inventory") / "vm.py"
    path.write_text(f"vms = [('vm', {data!r})]\n")
    return path


@pytest.fixture(scope="module")
def run(inventory: Path) -> Run:
    def command(*words: str, **data: Any) -> "subprocess.CompletedProcess[str]":
        program, *rest = words
        settings = [word for name, value in data.items() for word in ("--data", f"{name}={value}")]
        return subprocess.run(
            [str(Path(sys.executable).parent / program), *rest, *settings],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    return command


def deploy(run: Run, inventory: Path, **data: Any) -> list[str]:
    """`pyinfra -y INVENTORY deploys/tuning.py`; the operations that did something."""
    done = run("pyinfra", "-y", str(inventory), "deploys/tuning.py", "--json", **data)
    assert done.returncode == 0, done.stdout + done.stderr
    return [operation["name"] for operation in json.loads(done.stdout)["results"]["operations"] if operation["success"]]


def reboot(machine: Machine) -> None:
    """Until all units have started: SSH is up before."""
    machine.reboot()
    machine.ssh("systemctl is-system-running --wait", check=False)


def live(machine: Machine) -> dict[str, str]:
    return dict(zip(SET, machine.ssh(LOOK).stdout.split(), strict=True))


def interrupts_elsewhere(machine: Machine) -> set[str]:
    """Devices whose interrupts may come to another CPU than 2."""
    script = "cd /proc/irq && for irq in [0-9]*; do echo $irq $(cat $irq/smp_affinity_list) $(ls -d $irq/*/ 2>/dev/null); done"
    rows = [line.split() for line in machine.ssh(script).stdout.splitlines()]
    return {row[2].split("/")[1] if len(row) > 2 else row[0] for row in rows if row[1] != "2"}


def drifted(machine: Machine) -> list[str]:
    """Subjects of what `bringup verify` would find; without its start."""
    return [check.subject for check in checks_of(machine.ssh(reading_command()).stdout) if check.status != "ok"]


def test_settings_are_made_and_read_back(machine: Machine, run: Run, inventory: Path) -> None:
    assert live(machine) == AS_FOUND
    names = deploy(run, inventory)
    assert names[-1] == "Tuning | Read the settings back"
    assert live(machine) == SET
    # the kernel keeps the timer's, the cascade's and the disk's queues, one for each CPU
    assert all(name in ("0", "2") or "virtio" in name for name in interrupts_elsewhere(machine))
    done = run("bringup", "verify", str(inventory), "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all in order" in done.stdout


def test_second_run_changes_nothing(run: Run, inventory: Path) -> None:
    """Although SMT has taken half of the CPUs away meanwhile."""
    assert deploy(run, inventory) == []


def test_each_change_by_hand_is_caught_and_the_next_run_repairs_them(machine: Machine, run: Run, inventory: Path) -> None:
    caught: list[str] = []
    for subject, script in BY_HAND.items():
        machine.ssh(script)
        found = set(drifted(machine))
        # CPUs that come back bring interrupts with them
        assert found - set(caught) - {"irq_affinity"} == {subject}
        caught.append(subject)
    done = run("bringup", "verify", str(inventory), "--json")
    assert done.returncode == 2
    checks = json.loads(done.stdout)["hosts"]["vm"]["checks"]
    assert set(BY_HAND) <= {check["subject"] for check in checks if check["status"] == "drift"}
    deploy(run, inventory)
    assert drifted(machine) == []
    assert live(machine) == SET


def test_an_interrupt_that_was_moved_by_hand_is_caught(machine: Machine) -> None:
    # the network card's; irqbalance would soon move it back, and is stopped meanwhile
    number = machine.ssh("sed -n 's/^ *\\([0-9]*\\):.*virtio.-input.*/\\1/p' /proc/interrupts").stdout.split()[0]
    machine.ssh(f"systemctl stop irqbalance && echo 0 > /proc/irq/{number}/smp_affinity_list")
    assert drifted(machine) == ["irq_affinity"]
    machine.ssh(f"echo 2 > /proc/irq/{number}/smp_affinity_list && systemctl start irqbalance")
    assert drifted(machine) == []


def test_processes_are_looked_at_thread_by_thread_and_page_by_page(machine: Machine) -> None:
    """With the kernel's own numa_maps; what stands in for the server holds 64 MiB."""
    planned = {"service": {"cpus": "2", "memory_nodes": "1"}, "host": [], "tuning": None}
    program = (
        "import threading, time; held = bytearray(b'x' * 2**26); "
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); print('up', flush=True); time.sleep(600)"
    )
    machine.ssh(f"mkdir -p /opt/bringup/current && echo '{json.dumps(planned)}' > /opt/bringup/current/plan.json")

    def looked_at(*properties: str, afterwards: str = "true") -> dict[str, str]:
        """Kind of check to its status, of a server that is started so."""
        unit = ["[Service]", *properties, "StandardOutput=truncate:/run/up", f'ExecStart=/usr/bin/python3 -c "{program}"']
        machine.run_script(
            "cat > /run/systemd/system/vllm.service << 'END'\n" + "\n".join(unit) + "\nEND\n"
            "systemctl daemon-reload && systemctl start vllm.service && "
            "timeout 120 sh -c 'until grep -q up /run/up; do sleep 0.2; done' && "
            f"pid=$(systemctl show vllm.service --property=MainPID --value) && {afterwards}"
        )
        checks = checks_of(machine.ssh(reading_command()).stdout)
        machine.ssh("systemctl stop vllm.service; rm /run/up")
        return {check.subject.partition(" of process")[0]: check.status for check in checks if " of process" in check.subject}

    bound = ("CPUAffinity=2", "NUMAPolicy=bind", "NUMAMask=1")
    try:
        assert looked_at(*bound) == {"CPUs": "ok", "memory": "ok"}
        one_thread = "taskset -pc 0 $(ls /proc/$pid/task | tail -n 1)"
        assert looked_at(*bound, afterwards=one_thread) == {"CPUs": "drift", "memory": "ok"}
        assert looked_at("CPUAffinity=2") == {"CPUs": "ok", "memory": "drift"}
        assert looked_at("CPUAffinity=2", "NUMAPolicy=bind", "NUMAMask=0") == {"CPUs": "ok", "memory": "drift"}
    finally:
        machine.ssh("rm -r /opt/bringup/current /run/systemd/system/vllm.service; systemctl daemon-reload")


def test_settings_are_there_after_a_reboot(machine: Machine, run: Run, inventory: Path) -> None:
    reboot(machine)
    said = machine.ssh("systemctl is-active bringup-tuning.service || journalctl -b -u bringup-tuning.service --no-pager -o cat")
    assert said.stdout == "active\n"
    assert live(machine) == SET
    assert drifted(machine) == []


def test_absent_puts_back_what_was_there_now_and_after_a_reboot(machine: Machine, run: Run, inventory: Path) -> None:
    deploy(run, inventory, tuning_state="absent")
    assert live(machine) == AS_FOUND
    ours = "find /etc /var/lib/bringup/tuning -name '*bringup*' -o -name original.json -o -name tuning.json -o -name irqbalance.env"
    assert machine.ssh(ours).stdout.split() == ["/etc/bringup"]
    assert deploy(run, inventory, tuning_state="absent") == []
    reboot(machine)
    assert live(machine) == AS_FOUND
    done = run("bringup", "verify", str(inventory))
    assert done.returncode == 1
    assert "nothing was deployed to it" in done.stdout


def test_words_for_the_kernel_go_into_grubs_menu_and_out_again(machine: Machine, run: Run, inventory: Path) -> None:
    """QEMU starts the kernel, with ``iommu=pt``: for that word it is as after a reboot, for another one as before."""
    machine.ssh(
        "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && "
        "apt-get install -y -qq --no-install-recommends grub2-common && mkdir -p /boot/grub && update-grub",
        limit_s=LIMIT_S,
    )
    found = machine.ssh("cat /boot/grub/grub.cfg").stdout
    assert "iommu=pt" not in found
    refused = run("pyinfra", "-y", str(inventory), "deploys/tuning.py", kernel_parameters='["root=/dev/vdb"]')
    assert refused.returncode == 1
    assert "'root=/dev/vdb' is not one that bringup adds to a kernel's command line" in refused.stderr

    wanted = {"kernel_parameters": '["iommu=pt"]', "host_settings": "{}"}
    names = deploy(run, inventory, **wanted)
    added = "Tuning | Add iommu=pt to the kernel's command line, from the next boot on"
    assert added in names
    assert drifted(machine) == []
    assert deploy(run, inventory, **wanted) == []
    machine.ssh("sed -i 's/ iommu=pt//' /boot/grub/grub.cfg")
    assert drifted(machine) == ["kernel command line"]
    assert deploy(run, inventory, **wanted) == [added]
    assert drifted(machine) == []

    deploy(run, inventory, **(wanted | {"kernel_parameters": '["iommu=pt", "pcie_aspm=off"]'}))
    done = run("bringup", "verify", str(inventory), "--json")
    assert done.returncode == 2
    (differs,) = (check for check in json.loads(done.stdout)["hosts"]["vm"]["checks"] if check["status"] != "ok")
    assert (differs["status"], differs["found"]) == ("reboot", "iommu=pt")
    deploy(run, inventory, tuning_state="absent")
    assert machine.ssh("cat /boot/grub/grub.cfg").stdout == found
    assert "bringup" not in machine.ssh("ls /etc/default/grub.d").stdout
