"""Debian's own NVIDIA driver on a machine with a kernel of its own and a card that the real modules look at and find wanting.

Everything is Debian's and NVIDIA's: packages from the machine's mirror, maintainer scripts, DKMS, initial RAM disks, modules. Only
the compilation was done before (dkms_build.py). The tests build on each other, in this order, and took 51
minutes on two cores that were busy with other tests.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from card import Card
from deployment import changed
from dkms_build import Build, ensure_build
from image import Image
from machine import Machine, Node, Vm, booted

from bringup.hardware import HostFacts
from bringup.lab.state import base_dir, lab_dir
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script

pytestmark = pytest.mark.vm
ROOT = Path(__file__).parents[2]
BRANCH = "535"  # of Debian 12; below what the catalog's engines need, so that it is asked for and warned of
LIMIT_S = 1800  # an installation took 20 minutes beside four other test runs


class Host:
    """The machine through all its boots, and what a user would type."""

    def __init__(self, image: Image, build: Build, boots: ExitStack, folder: Path) -> None:
        self.image, self.build, self._boots, self._folder = image, build, boots, folder
        self.card = Card()
        self._vm = Vm(numa=(Node(cpus=(0, 1), memory_mib=2048),), card=self.card)
        self.machine: Machine = boots.enter_context(booted(self._vm, image, self._place("first")))

    def _place(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def boot_kernel(self, kernel: str, name: str) -> None:
        """Power off, and start with a kernel and an initial RAM disk from the machine's own disk, as a boot loader would."""
        place = self._place(name)
        for theirs, ours in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")):
            (place / ours).write_bytes(self.machine.read_file(f"/boot/{theirs}-{kernel}"))
        self.machine.power_off()
        self._vm = replace(self._vm, boot_from=place, disk=self.machine.folder / "disk.qcow2")
        self.machine = self._boots.enter_context(booted(self._vm, self.image, place))

    def deploy(self, *words: str, check: bool = True, dry: bool = False, **data: Any) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).parent / "pyinfra"), "--dry" if dry else "-y", "127.0.0.1", "deploys/driver.py", *words]
        command += ["--user", "root", "--port", str(self.machine.ssh_port), "--key", str(self.image.key)]
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
            timeout=LIMIT_S,
        )
        if check:
            assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    def ssh(self, script: str, check: bool = True) -> str:
        return self.machine.ssh(script, check=check, limit_s=LIMIT_S).stdout

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
def host(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as boots:
        patch.setenv("BRINGUP_LAB_BASE_DIR", str(base_dir(lab_dir())))
        kernel = re.search(rb"[0-9]+\.[0-9]+\.[0-9]+-[0-9]+-amd64", image.kernel.read_bytes()[: 2**16])
        assert kernel is not None
        build = ensure_build(kernel[0].decode(), tmp_path_factory.mktemp("build"))
        host = Host(image, build, boots, tmp_path_factory.mktemp("vm"))
        host.machine.write_file(build.place, build.archive)
        # newer ones of the image's packages, since the image was made, would come with the driver and stay
        host.ssh("apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get upgrade -y -qq")
        yield host


@pytest.fixture(scope="module")
def bare(host: Host) -> tuple[set[str], set[str]]:
    """Packages and files of the machine before anything was done."""
    return host.packages(), host.files()


def changed_by_failed(run: "subprocess.CompletedProcess[str]") -> list[str]:
    """Names of the operations that changed something before one failed; pyinfra prints no JSON where the last host fails."""
    assert run.returncode == 1
    shown = run.stderr.split("--> Starting operation: ")[1:]
    # each ended in one of three ways
    assert len(shown) == len(re.findall(r"\] (?:Success|No changes|Error: )", run.stderr)), run.stderr
    return [operation.partition("\n")[0].strip() for operation in shown if "] Success" in operation]


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


def test_repeated_run_installs_and_says_why_the_module_does_not_load(host: Host) -> None:
    run = host.deploy(check=False)
    assert "Driver | Write /etc/modprobe.d/bringup-nvidia.conf" in changed_by_failed(run)
    said = " ".join(run.stderr.split())
    assert "its module does not load: modprobe: ERROR: could not insert 'nvidia_current': No such device" in said
    assert (
        f"(PCI ID: 10de:2685) installed in this system is not supported by the NVIDIA {host.build.version} driver release" in said
    )
    assert "this driver does not know the card, or the card does not answer" in said


def test_whole_driver_is_there_on_hold_and_nouveau_is_out(host: Host) -> None:
    (module,) = host.facts().nvidia.modules
    assert (module.nvidia_version, module.dkms) == (host.build.version, "installed")
    held = set(host.ssh("apt-mark showhold").split())
    assert {"nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "firmware-nvidia-gsp"} <= held
    assert "etc/modprobe.d/bringup-nvidia.conf" in host.ssh(f"lsinitramfs /boot/initrd.img-{module.kernel}")


def test_second_run_changes_nothing(host: Host) -> None:
    run = host.deploy(check=False)
    assert changed_by_failed(run) == []
    assert "its module does not load" in run.stderr


def test_next_boot_loads_the_module_and_a_card_that_fails_is_told(host: Host) -> None:
    host.card.tells_chip = True
    host.boot_kernel(host.build.kernels[0], "own-kernel")
    assert host.ssh("cat /sys/module/nvidia/version").strip() == host.build.version
    assert not host.loaded("nouveau")
    assert host.facts().gpus[0].kernel_driver == "nvidia"
    run = host.deploy(check=False)
    assert f"module {host.build.version} is loaded, but nvidia-smi does not answer: No devices were found" in run.stderr


def test_kernel_update_gets_its_module_and_the_next_boot_has_it(host: Host) -> None:
    other = host.build.kernels[1]
    host.machine.write_file("/root/other.tar.gz", host.build.other_archive)
    host.ssh(f"tar -C {host.build.tree} -xzf /root/other.tar.gz && rm /root/other.tar.gz")
    host.ssh(
        f"DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends linux-headers-{other} linux-image-{other}"
    )
    assert {module.kernel: module.nvidia_version for module in host.facts().nvidia.modules} == dict.fromkeys(
        host.build.kernels, host.build.version
    )
    assert changed_by_failed(host.deploy(check=False)) == []
    host.boot_kernel(other, "other-kernel")
    assert host.ssh("uname -r; cat /sys/module/nvidia/version").split() == [other, host.build.version]
    assert not host.loaded("nouveau")


def test_reboot_that_takes_too_long_is_told_and_a_repeated_run_recovers(host: Host) -> None:
    before = host.machine.boot_id()
    with ThreadPoolExecutor(1) as pool:
        deployed = pool.submit(host.deploy, check=False, nvidia_state="absent", boot_wait_s=30)
        while not deployed.done() and "reboot: Restarting system" not in host.machine.console():
            time.sleep(0.2)
        with host.machine.standing_still():
            run = deployed.result()
    assert run.returncode == 1
    said = " ".join(run.stderr.split())
    assert "the host did not come back within 30 s after its restart (boot_wait_s): look at its console" in said
    assert "the driver's packages are gone, and a repeated run goes on from there" in said
    host.machine.wait_for_boot(after=before)
    assert not host.loaded("nvidia")
    host.deploy(nvidia_state="absent")


def test_absent_leaves_no_trace(host: Host, bare: tuple[set[str], set[str]]) -> None:
    assert changed(host.deploy("--json", nvidia_state="absent")) == []
    assert host.loaded("nouveau")
    other = host.build.kernels[1]
    host.ssh(f"DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq linux-headers-{other} linux-image-{other}")
    # the compiler came with the driver and stayed for these headers; now it would stay as what others recommend or suggest
    nothing_more = "-o APT::AutoRemove::RecommendsImportant=false -o APT::AutoRemove::SuggestsImportant=false"
    host.ssh(f"DEBIAN_FRONTEND=noninteractive apt-get autoremove --purge -y -qq {nothing_more}")
    assert host.packages() == bare[0]
    assert host.files() == bare[1]
    assert host.ssh("apt-mark showhold") == ""
