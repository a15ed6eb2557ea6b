"""The facts of a machine are what it was made of: NUMA nodes, CPUs, memory modules, kernel."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from machine import Boot, Machine, Node, Vm
from smbios import Module

from bringup.hardware import HostFacts
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script

pytestmark = pytest.mark.vm
ROOT = Path(__file__).parents[2]

TWO_SOCKETS = Vm(
    numa=(Node(cpus=(0, 1), memory_mib=768), Node(cpus=(2, 3), memory_mib=512)),
    sockets=2,
    cores=1,
    threads=2,
    distances=((10, 21), (21, 10)),
    modules=(
        Module("DIMM_A1", "P0_CH_A", size_mib=32768, speed_mt_s=6000, configured_mt_s=5200),
        Module("DIMM_A2", "P0_CH_A"),
        Module("DIMM_B1", "P1_CH_A", size_mib=16384, speed_mt_s=5600, configured_mt_s=5200),
        Module("DIMM_B2", "P1_CH_A"),
    ),
    kernel_command_line="isolcpus=3 transparent_hugepage=madvise",
)


@pytest.fixture(scope="module")
def machine(boot: Boot) -> Machine:
    return boot(TWO_SOCKETS)


@pytest.fixture(scope="module")
def facts(machine: Machine) -> HostFacts:
    return probed(machine)


def probed(machine: Machine) -> HostFacts:
    return parse_host(machine.run_script(probe_script()))


def test_numa_nodes(facts: HostFacts) -> None:
    assert [(node.id, node.cpus, node.distances) for node in facts.numa_nodes] == [(0, (0, 1), (10, 21)), (1, (2, 3), (21, 10))]
    for node, made in zip(facts.numa_nodes, TWO_SOCKETS.numa, strict=True):
        # the kernel keeps some for itself, most of it on node 0
        assert 0.85 * made.memory_mib < node.memory_mib <= made.memory_mib
    assert facts.memory.total_mib == pytest.approx(sum(node.memory_mib for node in facts.numa_nodes), abs=2)


def test_cpus(facts: HostFacts) -> None:
    cpu = facts.cpu
    assert cpu.sockets == 2
    assert cpu.online == (0, 1, 2, 3)
    assert (cpu.isolated, cpu.usable) == ((3,), (0, 1, 2))
    assert cpu.core_of[0] == cpu.core_of[1] != cpu.core_of[2]
    assert cpu.physical_cores == 2
    assert cpu.node_of == {0: 0, 1: 0, 2: 1}
    assert (cpu.smt, cpu.smt_switchable) == ("on", True)


def test_memory_modules(facts: HostFacts) -> None:
    memory = facts.memory_modules
    assert memory is not None
    assert [(m.locator, m.bank, m.size_mib, m.type, m.rated_mt_s, m.configured_mt_s) for m in memory.modules] == [
        ("DIMM_A1", "P0_CH_A", 32768, "DDR5", 6000, 5200),
        ("DIMM_B1", "P1_CH_A", 16384, "DDR5", 5600, 5200),
    ]
    assert memory.empty_slots == 2
    assert (memory.type, memory.rated_mt_s, memory.configured_mt_s) == ("DDR5", 5600, 5200)
    assert (memory.channels, memory.channels_inferred) == (2, False)
    assert memory.total_gib == 48
    assert memory.bandwidth_gb_s == 83.2
    assert memory.ecc is False


def test_kernel_of_its_own(facts: HostFacts, machine: Machine) -> None:
    assert facts.init == "systemd"
    assert facts.virtualization == "qemu"
    assert facts.system.container is None
    assert facts.system.kernel_command_line == TWO_SOCKETS.command_line
    assert facts.system.transparent_hugepages == "madvise"
    assert facts.os.kernel == machine.ssh("uname -r").stdout.strip()
    assert (facts.root_access, facts.login_user) == ("root", "root")


def test_sysctls_can_be_written(facts: HostFacts, machine: Machine) -> None:
    assert facts.read_only_sysctls == ()
    # the kernel of a machine with two nodes balances them unless told otherwise
    assert facts.sysctls["kernel.numa_balancing"] == "1"
    other = {"10": "20", "60": "10"}.get(facts.sysctls["vm.swappiness"], "10")
    machine.ssh(f"sysctl -w vm.swappiness={other}")
    assert probed(machine).sysctls["vm.swappiness"] == other


def test_nothing_is_unknown_that_a_machine_has(facts: HostFacts) -> None:
    assert not {"lscpu", "cpus", "numa", "dmidecode", "meminfo", "disk", "kernel-command-line"} & set(facts.unknown), facts.unknown


def test_pyinfra_reads_the_same(facts: HostFacts, machine: Machine) -> None:
    fact = "facts.host.HostProbeText"
    command = [str(Path(sys.executable).parent / "pyinfra"), "127.0.0.1", "fact", fact, "--json"]
    command += ["--user", "root", "--port", str(machine.ssh_port), "--key", str(machine.image.key)]
    command += ["--data", f"ssh_known_hosts_file={machine.known_hosts}", "--data", "ssh_strict_host_key_checking=yes"]
    finished = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    read = parse_host(json.loads(finished.stdout)[fact]["127.0.0.1"])
    for part in ("os", "cpu", "numa_nodes", "memory_modules", "system", "root_access", "virtualization"):
        assert getattr(read, part) == getattr(facts, part)
