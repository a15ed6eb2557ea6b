"""Debian's own NVIDIA driver on a machine with a kernel of its own, a card that the kernel sees, and Debian's real packages.

The tests build on each other, in this order. They stop before the modules are compiled, for which the emulated CPU would need most
of an hour.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from card import Card
from machine import Boot, Machine, Node, Vm

from bringup.hardware import HostFacts
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script

pytestmark = pytest.mark.vm
ROOT = Path(__file__).parents[2]
BRANCH = "535"  # of Debian 12; below what the catalog's engines need, so that it is asked for and warned of
DEPLOY_LIMIT_S = 1800


class Host:
    """The machine, and what a user would type."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def deploy(self, *words: str, check: bool = True, dry: bool = False, **data: Any) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).parent / "pyinfra"), "--dry" if dry else "-y", "127.0.0.1", "deploys/driver.py", *words]
        command += ["--user", "root", "--port", str(self.machine.ssh_port), "--key", str(self.machine.image.key)]
        settings = {
            "ssh_known_hosts_file": self.machine.known_hosts,
            "ssh_strict_host_key_checking": "yes",
            "nvidia_driver": BRANCH,
        } | data
        command += [word for name, value in settings.items() for word in ("--data", f"{name}={value}")]
        finished = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEPLOY_LIMIT_S,
        )
        if check:
            assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    def ssh(self, script: str, check: bool = True) -> str:
        return self.machine.ssh(script, check=check).stdout

    def facts(self) -> HostFacts:
        return parse_host(self.machine.run_script(probe_script()))

    def loaded(self, module: str) -> bool:
        return self.ssh(f"test -d /sys/module/{module} && echo yes || true") == "yes\n"

    def packages(self) -> set[str]:
        return set(self.ssh("dpkg-query -W -f '${db:Status-Abbrev}${Package}=${Version}\\n' | sed -n 's/^[ih]i *//p'").split())

    def files(self) -> set[str]:
        """Every path but what apt, dpkg, a log-in and a boot leave, and what the files in /etc say."""
        pruned = (
            "/var/lib/apt",
            "/var/cache",
            "/var/lib/dpkg",
            "/var/lib/systemd",
            "/var/log",
            "/root",
            "/tmp",
            "/var/tmp",
            "/boot",
        )
        names = " -o ".join(f"-path {path}" for path in pruned)
        listed = self.ssh(
            rf"find / -xdev \( {names} \) -prune -o -print; find /etc -type f ! -name ld.so.cache -exec md5sum {{}} +"
        )
        return set(listed.splitlines())


@pytest.fixture(scope="module")
def host(boot: Boot) -> Host:
    return Host(boot(Vm(numa=(Node(cpus=(0, 1), memory_mib=2048),), card=Card())))


@pytest.fixture(scope="module")
def bare(host: Host) -> tuple[set[str], set[str]]:
    """Packages and files of the machine before anything was done."""
    return host.packages(), host.files()


def test_card_and_debians_sources_are_seen(host: Host) -> None:
    facts = host.facts()
    (gpu,) = facts.gpus
    assert (gpu.pci_id, gpu.kernel_driver) == ("10de:2685", None)
    assert host.loaded("nouveau")
    assert facts.system.distribution_sources
    assert all("main" in source.components and "non-free" not in source.components for source in facts.system.distribution_sources)


def test_dry_run_shows_the_plan_and_touches_nothing(host: Host, bare: tuple[set[str], set[str]]) -> None:
    shown = host.deploy("--diff", dry=True).stderr
    assert "+ Components: contrib non-free non-free-firmware" in shown
    assert "Install nvidia-kernel-dkms nvidia-smi libcuda1 linux-headers-amd64 (nothing of it is installed)" in shown
    assert "branch 580 or newer is needed for the engine" in shown
    assert (host.packages(), host.files()) == bare


def test_disk_that_fills_up_half_way_is_named(host: Host, bare: tuple[set[str], set[str]]) -> None:
    # enough for the archives, which apt makes sure of, and not for what is in them; nothing is kept back for root
    host.ssh(
        "tune2fs -m 0 /dev/vda; free=$(df -Pk / | awk 'NR == 2 {print $4}'); fallocate -l $((free - 450 * 1024))K /root/filler"
    )
    run = host.deploy(check=False)
    assert run.returncode == 1
    assert "the disk is full: make room and run this again, which goes on where it stopped" in run.stderr
    assert host.ssh("rm /root/filler; dpkg --audit") != ""
    assert not host.loaded("nvidia")
    assert "/etc/modprobe.d/bringup-nvidia.conf" not in host.files()
