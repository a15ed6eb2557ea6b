"""The NVIDIA driver on a throw-away host that looks like one with a card: installed, kept, switched, broken, repaired, taken away.

apt resolves against a repository of the test's own. The tests build on each other, in this order.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import BIN, ROOT, Deployment
from nvidia_repository import KERNEL, NEWER_580, OTHER_KERNEL, VERSIONS, NvidiaRepository, make_key, serving
from workbench import put_card_in, switched_on_again

from bringup.lab import hosts
from bringup.lab.machine import why_not
from bringup.lab.state import base_dir, lab_dir, read_state

pytestmark = pytest.mark.lab


class Machine:
    """The host, its repository, and what a user would type."""

    def __init__(self, deployment: Deployment, repository: NvidiaRepository) -> None:
        self.deployment = deployment
        self.repository = repository

    def deploy(self, *words: str, check: bool = True, dry: bool = False, **data: Any) -> "subprocess.CompletedProcess[str]":
        return self.deployment.command("pyinfra", "--dry" if dry else "-y", *self._arguments(data), *words, check=check)

    def start(self, **data: Any) -> "subprocess.Popen[bytes]":
        """The same in the background; whoever starts it ends it."""
        command = [str(BIN / "pyinfra"), "-y", *self._arguments(data)]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _arguments(self, data: dict[str, Any]) -> list[str]:
        settings = {"nvidia_repository": self.repository.setting()} | data
        values = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items())
        options = (word for value in values for word in ("--data", value))
        return ["inventories/lab.py", "deploys/driver.py", "--limit", "lab1", *options]

    def ssh(self, script: str, check: bool = True) -> str:
        return self.deployment.ssh(script, check=check)

    def boot_id(self) -> str:
        return self.ssh("cat /proc/sys/kernel/random/boot_id").strip()

    def loaded(self) -> str:
        return self.ssh("cat /sys/module/nvidia/version 2>/dev/null || true").strip()

    def packages(self) -> set[str]:
        return set(self.ssh("dpkg-query -W -f '${db:Status-Abbrev}${Package}=${Version}\\n' | sed -n 's/^[ih]i *//p'").split())

    def files(self) -> set[str]:
        """Every path, and what the files in /etc say, less what apt and a boot change by themselves."""
        pruned = ("/var/lib/apt", "/var/cache", "/var/lib/dpkg", "/var/lib/systemd", "/var/log", "/root", "/tmp", "/var/tmp")
        names = " -o ".join(f"-path {path}" for path in pruned)
        listed = self.ssh(
            rf"find / -xdev \( {names} \) -prune -o -print; find /etc -type f ! -name ld.so.cache -exec md5sum {{}} +"
        )
        return set(listed.splitlines())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("driver-lab")
    if reason := why_not(directory):
        pytest.skip(reason)
    environment = {"BRINGUP_LAB_DIR": str(directory), "BRINGUP_LAB_BASE_DIR": str(base_dir(lab_dir()))}
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path_factory.mktemp("nvidia")) as repository:
        for name, value in environment.items():
            patch.setenv(name, value)
        hosts.up(1, directory)
        put_card_in(read_state(directory).host("lab1").root)
        machine = Machine(Deployment(directory, tmp_path_factory.mktemp("reports")), repository)
        with switched_on_again(directory):
            before = machine.boot_id()
            machine.ssh("systemctl reboot", check=False)
            wait_until(machine, f"! grep -q {before} /proc/sys/kernel/random/boot_id")
            yield machine
        hosts.down(directory=directory)


def wait_until(machine: Machine, condition: str, limit_s: float = 60) -> None:
    """Wait for a shell command on the host to succeed; it may be off meanwhile."""
    limit = time.monotonic() + limit_s
    while "holds" not in machine.ssh(f"if {condition}; then echo holds; fi", check=False):
        assert time.monotonic() < limit, condition
        time.sleep(0.3)


def changed(run: "subprocess.CompletedProcess[str]") -> list[str]:
    return [operation["name"] for operation in json.loads(run.stdout)["results"]["operations"] if operation["success"]]


@pytest.fixture(scope="module")
def bare(machine: Machine) -> tuple[set[str], set[str]]:
    """Packages and files of the host before anything was done."""
    return machine.packages(), machine.files()


def test_dry_run_shows_the_plan_and_touches_nothing(machine: Machine, bare: tuple[set[str], set[str]]) -> None:
    shown = machine.deploy("--diff", dry=True).stderr
    assert "+ blacklist nouveau" in shown
    assert "Install nvidia-driver-cuda nvidia-kernel-open-dkms (nothing of it is installed)" in shown
    assert (machine.packages(), machine.files()) == bare


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        pytest.param({"uri": "http://127.0.0.1:9/none"}, "a repository cannot be reached", id="dead-mirror"),
        pytest.param({"suite": "nothing/"}, "a repository cannot be reached or has nothing there", id="empty-mirror"),
    ],
)
def test_bad_repository_is_refused_before_it_becomes_one_of_the_hosts(
    machine: Machine, bare: tuple[set[str], set[str]], setting: dict[str, str], said: str
) -> None:
    run = machine.deploy(check=False, nvidia_repository=machine.repository.setting(**setting))
    assert run.returncode == 1
    assert said in run.stderr
    assert (machine.packages(), machine.files()) == bare


def test_repository_that_another_key_signed_is_refused(machine: Machine, bare: tuple[set[str], set[str]], tmp_path: Path) -> None:
    key_file, fingerprint = make_key(tmp_path / "other")
    setting = machine.repository.setting(key_file=str(key_file), fingerprint=fingerprint)
    run = machine.deploy(check=False, nvidia_repository=setting)
    assert run.returncode == 1
    assert "not signed by the key that it should be signed by" in run.stderr
    assert (machine.packages(), machine.files()) == bare


def test_running_kernel_without_headers_is_refused_before_anything_is_installed(
    machine: Machine, bare: tuple[set[str], set[str]]
) -> None:
    (headers,) = machine.repository.folder.glob("linux-headers-*.deb")
    content = headers.read_bytes()
    headers.unlink()
    machine.repository.sign()
    try:
        run = machine.deploy(check=False)
    finally:
        headers.write_bytes(content)
        machine.repository.sign()
    assert run.returncode == 1
    assert f"no package source of the host has linux-headers-{KERNEL}" in run.stderr
    assert "apt-get dist-upgrade, reboot, run this again" in run.stderr
    assert machine.packages() == bare[0]
    assert not any(
        path in machine.files() for path in ("/etc/modprobe.d/bringup-nvidia.conf", "/etc/apt/preferences.d/bringup-nvidia")
    )


def test_mirror_that_delivers_other_files_than_it_names_installs_nothing(machine: Machine, bare: tuple[set[str], set[str]]) -> None:
    (package,) = machine.repository.folder.glob("libnvidia-compute_580.105.08-1_*.deb")
    content = package.read_bytes()
    package.write_bytes(content[:-1] + b"?")
    try:
        run = machine.deploy(check=False)
    finally:
        package.write_bytes(content)
    assert run.returncode == 1
    assert "the mirror delivers other files than its own index names" in run.stderr
    assert machine.packages() == bare[0]
    assert "/etc/modprobe.d/bringup-nvidia.conf" not in machine.files()


def test_reboot_that_is_not_allowed_is_asked_for(machine: Machine) -> None:
    before = machine.boot_id()
    run = machine.deploy(check=False, reboot="always-ask")
    assert run.returncode == 1
    assert "a reboot is due: nouveau holds the card" in run.stderr
    assert "--data reboot=if-needed" in run.stderr
    assert machine.boot_id() == before
    assert machine.loaded() == ""


def test_repeated_run_goes_on_with_the_reboot_and_verifies(machine: Machine) -> None:
    before = machine.boot_id()
    run = machine.deploy("--json")
    assert changed(run)[0] == "Driver | Load the driver, or reboot for it"
    assert "driver 580.95.05 runs" in run.stderr or "driver 580.105.08 runs" in run.stderr
    assert machine.boot_id() != before
    assert machine.loaded().startswith("580.")


def test_whole_branch_is_there_on_hold_and_fenced_off(machine: Machine) -> None:
    # the newest of the branch, though 590 is there
    driver = {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "libnvidia-compute"}
    assert {f"{name}=580.105.08-1" for name in driver} < machine.packages()
    assert set(machine.ssh("apt-mark showhold").split()) == driver
    assert '"^nvidia-"' in machine.ssh("apt-config dump Unattended-Upgrade::Package-Blacklist")
    assert "Signed-By: /etc/apt/keyrings/bringup-nvidia.gpg" in machine.ssh("cat /etc/apt/sources.list.d/bringup-nvidia.sources")
    assert "nvidia" not in machine.ssh("apt-get -s dist-upgrade | grep ^Inst || true")


def test_second_run_changes_nothing(machine: Machine) -> None:
    assert changed(machine.deploy("--json")) == []
    plan = json.loads(machine.deploy("--json", dry=True).stdout)["plan"]
    assert [operation["name"] for operation in plan if operation["hosts_with_change"]] == []


def card(machine: Machine) -> dict[str, str]:
    """What the card is set to."""
    listed = machine.ssh("cd /run/card 2>/dev/null && grep -H . * || true")
    return dict(line.split(":", 1) for line in listed.splitlines())


def test_card_gets_its_settings_and_again_at_each_boot(machine: Machine) -> None:
    assert card(machine) == {"persistence": "Enabled"}
    assert machine.ssh("stat -c %a /dev/nvidia-uvm").strip() == "666"
    asked = {"gpu_power_limit_w": "350", "gpu_clocks_mhz": [210, 2520]}
    machine.deploy(**asked)
    assert card(machine) == {"persistence": "Enabled", "power": "350", "clocks": "210,2520"}
    assert changed(machine.deploy("--json", **asked)) == []
    before = machine.boot_id()
    machine.ssh("systemctl reboot", check=False)
    wait_until(machine, f"! grep -q {before} /proc/sys/kernel/random/boot_id && systemctl is-active bringup-nvidia.service")
    assert card(machine) == {"persistence": "Enabled", "power": "350", "clocks": "210,2520"}


def test_settings_that_are_no_longer_asked_for_go_back_to_the_default(machine: Machine) -> None:
    machine.deploy()
    assert card(machine) == {"persistence": "Enabled", "power": "425"}
    assert changed(machine.deploy("--json")) == []


def test_setting_that_the_card_does_not_take_fails_with_the_cards_own_words(machine: Machine) -> None:
    run = machine.deploy(check=False, gpu_power_limit_w="600")
    assert run.returncode == 1
    assert "is not a valid power limit which should be between 150.00 W and 450.00 W" in run.stderr
    assert card(machine)["power"] == "425"
    machine.deploy()
    assert machine.ssh("systemctl is-active bringup-nvidia.service").strip() == "active"


def test_cards_that_the_inventory_does_not_expect_are_refused(machine: Machine) -> None:
    run = machine.deploy(check=False, expect={"gpu": "RTX 4090 D", "count": 2})
    assert run.returncode == 1
    assert "the inventory expects 2 × GeForce RTX 4090 D" in run.stderr
    assert changed(machine.deploy("--json", expect={"gpu": "RTX 4090 D", "count": 1})) == []


def default_cuda(machine: Machine) -> str:
    """What every program on the host would take for its CUDA: the links, the linker's libraries, the search path."""
    return machine.ssh(
        "readlink -f /usr/local/cuda /usr/local/cuda-13; ldconfig -p | grep -c . ; ls /etc/ld.so.conf.d; command -v nvcc || true"
    )


def test_toolkit_is_installed_beside_another_one_that_stays_the_default(machine: Machine) -> None:
    machine.ssh("apt-get -q -y install cuda-nvcc-12-8 cuda-nvrtc-12-8 && ldconfig")
    before = default_cuda(machine)
    assert "/usr/local/cuda-12.8" in before
    machine.deploy(cuda_toolkit="always")
    assert machine.ssh("/usr/local/cuda-13.0/bin/nvcc").strip() == "release 13.0"
    assert default_cuda(machine) == before
    assert changed(machine.deploy("--json", cuda_toolkit="always")) == []
    # nor once the other one is gone
    machine.ssh("apt-get -q -y purge '^cuda-.*12-8' '^cuda-toolkit-12-config'")
    assert machine.ssh("ls -d /usr/local/cuda /usr/local/cuda-13 2>/dev/null || true") == ""
    machine.ssh("apt-get -q -y purge '^cuda-' '^libc.*-13-0$'")


def test_lost_hold_and_lost_pin_come_back_without_a_reboot(machine: Machine) -> None:
    before = machine.boot_id()
    machine.ssh("apt-mark unhold nvidia-driver-cuda; rm /etc/apt/preferences.d/bringup-nvidia")
    machine.deploy()
    assert "nvidia-driver-cuda" in machine.ssh("apt-mark showhold")
    assert changed(machine.deploy("--json")) == []
    assert machine.boot_id() == before


@pytest.mark.parametrize("pin", ["590", "580.95.05"], ids=["newer-branch", "back-to-an-exact-version"])
def test_switch_of_branch_in_one_transaction(machine: Machine, pin: str) -> None:
    before = machine.boot_id()
    run = machine.deploy(nvidia_driver=pin)
    assert "another version: " in run.stderr
    assert machine.loaded().startswith(pin)
    assert machine.boot_id() != before
    driver = {line for line in machine.packages() if "nvidia" in line}
    assert {line.partition("=")[2] for line in driver} == {f"{VERSIONS[int(pin[:3])]}-1"}
    assert len(machine.ssh("apt-mark showhold").split()) == 3
    assert changed(machine.deploy("--json", nvidia_driver=pin)) == []


def test_version_that_is_not_there_leaves_everything(machine: Machine) -> None:
    before = machine.packages(), machine.ssh("apt-mark showhold; cat /etc/apt/preferences.d/bringup-nvidia")
    run = machine.deploy(check=False, nvidia_driver="580.1.1")
    assert run.returncode == 1
    assert "not in 580.1.1*: set nvidia_driver to what there is" in run.stderr
    assert (machine.packages(), machine.ssh("apt-mark showhold; cat /etc/apt/preferences.d/bringup-nvidia")) == before
    assert machine.loaded() == "580.95.05"


def test_lock_that_another_program_keeps_is_named(machine: Machine) -> None:
    hold = "python3 -c 'pass' 2>/dev/null; perl -MFcntl -e '"
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
    assert machine.loaded() == "580.95.05"


def test_build_that_fails_is_finished_by_a_repeated_run(machine: Machine) -> None:
    machine.ssh("touch /etc/dkms-fails")
    run = machine.deploy(check=False, nvidia_driver="590")
    assert run.returncode == 1
    assert "a package's own script failed" in run.stderr
    assert machine.loaded() == "580.95.05"
    machine.ssh("rm /etc/dkms-fails")
    run = machine.deploy(nvidia_driver="590")
    assert "half installed: nvidia-" in run.stderr
    assert machine.loaded() == VERSIONS[590]
    assert changed(machine.deploy("--json", nvidia_driver="590")) == []


def test_installation_goes_on_when_the_connection_is_cut(machine: Machine) -> None:
    machine.ssh("touch /etc/dkms-waits")
    cut = machine.start(nvidia_driver="580.95.05")
    try:
        wait_until(machine, "test -e /run/dkms-is-building")
    finally:
        cut.kill()
        cut.wait()
    # sshd has noticed
    wait_until(machine, "test $(pgrep -c sshd) -le 3")
    machine.ssh("rm /etc/dkms-waits")
    wait_until(machine, "! pgrep -x apt-get && ! pgrep -x dpkg")
    assert "nvidia-kernel-open-dkms=580.95.05-1" in machine.packages()
    assert machine.ssh("dpkg --audit") == ""
    wait_until(machine, "apt-mark showhold | grep -q nvidia-driver-cuda")
    machine.deploy(nvidia_driver="580.95.05")
    assert machine.loaded() == "580.95.05"


def test_half_configured_packages_of_somebody_else_are_finished_first(machine: Machine) -> None:
    machine.ssh(
        "mkdir -p /tmp/p/DEBIAN && "
        "printf 'Package: theirs\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: x\\n' "
        "> /tmp/p/DEBIAN/control && "
        " dpkg-deb -b /tmp/p /tmp/p.deb && dpkg --unpack /tmp/p.deb"
    )
    run = machine.deploy(nvidia_driver="580.95.05")
    assert "half installed: theirs" in run.stderr
    assert "theirs=1" in machine.packages()
    assert changed(machine.deploy("--json", nvidia_driver="580.95.05")) == []
    machine.ssh("dpkg -P theirs")


def test_other_kernel_without_headers_is_told_and_gets_its_module_with_them(machine: Machine) -> None:
    found = machine.deploy(nvidia_driver="580.95.05").stderr
    assert f"kernel {OTHER_KERNEL} is installed without NVIDIA's module" in found.replace("\n", " ")
    machine.ssh(f"mkdir -p /usr/src/h && ln -s /usr/src/h /lib/modules/{OTHER_KERNEL}/build")
    assert any("Install" in name for name in changed(machine.deploy("--json", nvidia_driver="580.95.05")))
    built = machine.ssh(f"modinfo -F version /lib/modules/{OTHER_KERNEL}/updates/dkms/nvidia.ko").strip()
    assert built == "580.95.05"
    assert changed(machine.deploy("--json", nvidia_driver="580.95.05")) == []
    machine.ssh(f"rm -r /usr/src/h /lib/modules/{OTHER_KERNEL}/build")


def test_absent_leaves_no_trace(machine: Machine, bare: tuple[set[str], set[str]]) -> None:
    before = machine.boot_id()
    machine.deploy(nvidia_state="absent")
    assert machine.boot_id() != before
    assert machine.loaded() == ""
    assert machine.ssh("apt-mark showhold") == ""
    assert machine.packages() == bare[0]
    assert machine.files() == bare[1]
    assert changed(machine.deploy("--json", nvidia_state="absent")) == []
    assert KERNEL in machine.ssh("cat /root/initramfs.log")


def test_ubuntus_packages_switch_branches_by_name(machine: Machine, bare: tuple[set[str], set[str]]) -> None:
    release = 'ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n'
    machine.ssh(f"cp -a /etc/os-release /root/os-release && rm /etc/os-release && printf '{release}' > /etc/os-release")
    machine.deploy()
    assert machine.loaded() == VERSIONS[580]
    assert changed(machine.deploy("--json")) == []
    machine.deploy(nvidia_driver="590")
    assert machine.loaded() == VERSIONS[590]
    assert changed(machine.deploy("--json", nvidia_driver="590")) == []
    names = {
        "nvidia-driver-590-server-open",
        "nvidia-utils-590-server",
        "nvidia-dkms-590-server-open",
        "libnvidia-compute-590-server",
    }
    assert {line.partition("=")[0] for line in machine.packages() if "nvidia" in line} == names
    assert set(machine.ssh("apt-mark showhold").split()) == names
    machine.deploy(nvidia_state="absent")
    machine.ssh("rm /etc/os-release && mv /root/os-release /etc/os-release")
    assert (machine.packages(), machine.files()) == bare


def test_driver_is_read_back_from_the_running_machine(machine: Machine) -> None:
    machine.ssh("apt-get -q update && apt-get -q -y --no-install-recommends install python3-minimal")
    run = machine.deploy()
    for line in (
        f"ok      driver {NEWER_580}: module, nvidia-smi and packages agree",
        "ok      NVIDIA GeForce RTX 4090 D at 0000:01:00.0: 24564 MiB, as a GeForce RTX 4090 D has",
        "ok      this user may use /dev/nvidiactl, /dev/nvidia-uvm, /dev/nvidia0",
        "note    no CUDA kernel was run",
    ):
        assert line in run.stderr
    assert machine.ssh("ls /run | grep bringup-gpu || true") == ""


def test_toolkit_for_somebody_elses_driver_leaves_no_source_of_drivers(machine: Machine, bare: tuple[set[str], set[str]]) -> None:
    machine.deploy(nvidia_state="absent")
    theirs = "/etc/apt/sources.list.d/theirs.list"
    machine.ssh(
        f"echo 'deb [trusted=yes] {machine.repository.uri} /' > {theirs} && apt-get -q update && "
        "apt-get -q -y install nvidia-driver-cuda=580.95.05-1 libnvidia-compute=580.95.05-1 nvidia-kernel-open-dkms=580.95.05-1 "
        f"linux-headers-{KERNEL} && echo 'blacklist nouveau' > /etc/modprobe.d/theirs.conf && update-initramfs -u -k {KERNEL} && "
        f"rm {theirs} && apt-get -q update"
    )
    before = machine.boot_id()
    machine.ssh("systemctl reboot", check=False)
    wait_until(machine, f"! grep -q {before} /proc/sys/kernel/random/boot_id")
    assert machine.loaded() == "580.95.05"
    driver = {line for line in machine.packages() if "nvidia" in line}
    machine.deploy(cuda_toolkit="always")
    assert machine.ssh("/usr/local/cuda-13.0/bin/nvcc").strip() == "release 13.0"
    assert {line for line in machine.packages() if "nvidia" in line} == driver
    assert machine.ssh("ls /etc/apt/sources.list.d/ | grep -c bringup || true").strip() == "0"
    assert "590" not in machine.ssh("apt-get -q update; apt-cache policy nvidia-driver-cuda")
    assert changed(machine.deploy("--json", cuda_toolkit="always")) == []
    machine.deploy(nvidia_state="absent")
    assert {line for line in machine.packages() if "cuda" in line or "cublas" in line} == {"nvidia-driver-cuda=580.95.05-1"}
    assert "/var/lib/bringup" not in machine.files()
