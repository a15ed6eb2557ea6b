"""The NVIDIA driver on a throw-away host that looks like one with a card: refused, installed, kept, switched, taken away.

apt resolves against a repository of the test's own. The tests build on each other, in this order.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest
from deployment import changed
from driver_machine import Machine
from nvidia_repository import KERNEL, NEXT_KERNEL, VERSIONS, Package, driver_packages, kernel_update, make_key

pytestmark = pytest.mark.lab
Bare = tuple[set[str], set[str]]
EVEN_NEWER_580 = "580.126.09"


@pytest.fixture(scope="module", autouse=True)
def updates_end_here(machine: Machine) -> Iterator[None]:
    yield
    for pattern in (f"linux-*-{NEXT_KERNEL}_*", "linux-*-amd64_99%3a2_*", f"*_{EVEN_NEWER_580}-1_*"):
        machine.repository.withdraw(pattern)


def test_dry_run_shows_the_plan_and_touches_nothing(machine: Machine, bare: Bare) -> None:
    shown = machine.deploy("--diff", dry=True).stderr
    assert "+ blacklist nouveau" in shown
    assert "Install nvidia-driver-cuda nvidia-kernel-open-dkms linux-headers-amd64 (nothing of it is installed)" in shown
    assert (machine.packages(), machine.files()) == bare


def test_dry_run_of_the_main_job_shows_the_driver_first(machine: Machine) -> None:
    plan = json.loads(machine.deploy("--json", dry=True, job="qwen").stdout)["plan"]
    due = [operation["name"].partition(" | ")[0] for operation in plan if operation["hosts_with_change"]]
    assert list(dict.fromkeys(due))[:3] == ["Driver", "Runtime", "Model"]


# --- a first installation that fails leaves nothing behind


def without_headers(machine: Machine) -> AbstractContextManager[None]:
    return machine.repository.lacking(f"linux-headers-{KERNEL}_*.deb")


@contextmanager
def lying_mirror(machine: Machine) -> Iterator[None]:
    (package,) = machine.repository.folder.glob("libnvidia-compute_580.105.08-1_*.deb")
    content = package.read_bytes()
    package.write_bytes(content[:-1] + b"?")
    try:
        yield
    finally:
        package.write_bytes(content)


@contextmanager
def no_room_for_archives(machine: Machine) -> Iterator[None]:
    machine.ssh("mount -t tmpfs -o size=100k tmpfs /var/cache/apt/archives && mkdir /var/cache/apt/archives/partial")
    try:
        yield
    finally:
        machine.ssh("umount /var/cache/apt/archives")


@contextmanager
def no_room_to_remember(machine: Machine) -> Iterator[None]:
    machine.ssh("mkdir /var/lib/bringup && mount -t tmpfs -o size=4k tmpfs /var/lib/bringup")
    try:
        yield
    finally:
        machine.ssh("umount /var/lib/bringup && rmdir /var/lib/bringup")


def nothing(machine: Machine) -> AbstractContextManager[None]:
    return nullcontext()


FAULTS = {
    "dead-mirror": (nothing, {"uri": "http://127.0.0.1:9/none"}, "a repository cannot be reached"),
    "empty-mirror": (nothing, {"suite": "nothing/"}, "a repository cannot be reached or has nothing there"),
    "no-headers": (without_headers, {}, f"no package source of the host has linux-headers-{KERNEL}"),
    "lying-mirror": (lying_mirror, {}, "the mirror delivers other files than its own index names"),
    "disk-full": (no_room_for_archives, {}, "the disk is full: make room and run this again"),
    "disk-full-for-ours": (no_room_to_remember, {}, "cannot be written: is the disk full?"),
}


@pytest.mark.parametrize(("fault", "setting", "said"), FAULTS.values(), ids=FAULTS)
def test_first_installation_that_fails_leaves_nothing(
    machine: Machine, bare: Bare, fault: Callable[[Machine], AbstractContextManager[None]], setting: dict[str, str], said: str
) -> None:
    with fault(machine):
        run = machine.deploy(check=False, nvidia_repository=machine.repository.setting(**setting))
    assert run.returncode == 1
    assert said in run.stderr
    assert (machine.packages(), machine.files()) == bare


def test_repository_that_another_key_signed_is_refused(machine: Machine, bare: Bare, tmp_path: Path) -> None:
    key_file, fingerprint = make_key(tmp_path / "other")
    setting = machine.repository.setting(key_file=str(key_file), fingerprint=fingerprint)
    run = machine.deploy(check=False, nvidia_repository=setting)
    assert run.returncode == 1
    assert "not signed by the key that it should be signed by" in run.stderr
    assert (machine.packages(), machine.files()) == bare


# --- installed, and kept


@pytest.mark.parametrize(
    ("reboot", "said"),
    [
        ("always-ask", "run this again with --data reboot=if-needed"),
        ("never", "reboot is 'never': reboot the host, then run this again"),
    ],
)
def test_reboot_that_is_not_allowed_is_asked_for(machine: Machine, reboot: str, said: str) -> None:
    before = machine.boot_id()
    run = machine.deploy(check=False, reboot=reboot)
    assert run.returncode == 1
    assert "a reboot is due: nouveau holds the card" in run.stderr
    assert said in run.stderr
    assert machine.boot_id() == before
    assert machine.loaded() == ""


def test_control_machine_itself_is_never_restarted(machine: Machine) -> None:
    if machine.ssh("python3 -V").split()[1].rsplit(".", 1)[0] != f"{sys.version_info[0]}.{sys.version_info[1]}":
        pytest.skip("the host's Python is of another version than the virtual environment's, so that it cannot use its packages")
    before = machine.boot_id()
    said = machine.deploy_itself(reboot="if-needed")
    assert "This is the machine that bringup runs on, which it never restarts: reboot it" in said.replace("\n", " ")
    assert said.rstrip().endswith("exit code 1")
    assert machine.boot_id() == before


def test_repeated_run_goes_on_with_the_reboot_and_verifies(machine: Machine) -> None:
    before = machine.boot_id()
    run = machine.deploy("--json")
    # said before the step, too: a reboot is due
    assert "driver 580.105.08 is installed and does not run (nouveau holds the card)" in run.stderr.replace("\n", " ")
    assert changed(run)[0] == "Driver | Load the driver, or reboot for it"
    assert "driver 580.105.08 runs" in run.stderr
    assert machine.boot_id() != before
    assert machine.loaded() == "580.105.08"


def test_whole_branch_is_there_on_hold_and_fenced_off(machine: Machine) -> None:
    # the newest of the branch, though 590 is there
    driver = {"nvidia-driver-cuda", "nvidia-kernel-open-dkms", "libnvidia-compute"}
    assert {f"{name}=580.105.08-1" for name in driver} < machine.packages()
    assert set(machine.ssh("apt-mark showhold").split()) == driver
    assert "Signed-By: /etc/apt/keyrings/bringup-nvidia.gpg" in machine.ssh("cat /etc/apt/sources.list.d/bringup-nvidia.sources")


def test_second_run_changes_nothing(machine: Machine) -> None:
    assert changed(machine.deploy("--json")) == []
    plan = json.loads(machine.deploy("--json", dry=True).stdout)["plan"]
    assert [operation["name"] for operation in plan if operation["hosts_with_change"]] == []


def test_next_kernel_has_the_module_and_the_driver_stays(machine: Machine) -> None:
    machine.repository.publish(*kernel_update(), *driver_packages(EVEN_NEWER_580))
    only_ours = "-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/bringup-nvidia.sources -o Dir::Etc::sourceparts=/dev/null"
    machine.ssh(f"apt-get {only_ours} update -qq && DEBIAN_FRONTEND=noninteractive apt-get -y -qq dist-upgrade")
    assert "linux-image-amd64=99:2" in machine.packages()
    assert "nvidia-driver-cuda=580.105.08-1" in machine.packages()
    machine.restart(NEXT_KERNEL)
    assert machine.loaded() == "580.105.08"
    assert changed(machine.deploy("--json")) == []


def test_unattended_upgrades_leaves_the_driver_without_its_holds(machine: Machine) -> None:
    held = machine.ssh("apt-mark showhold").split()
    machine.ssh(f"apt-mark unhold {' '.join(held)}")
    machine.ssh("""printf 'Unattended-Upgrade::Origins-Pattern { "origin=test"; };' > /etc/apt/apt.conf.d/99test""")
    said = machine.ssh("unattended-upgrade -v 2>&1; rm /etc/apt/apt.conf.d/99test")
    machine.ssh("rm -rf /var/lib/unattended-upgrades/kept-back /etc/apt/sources.list")  # its own
    assert "nvidia-driver-cuda" in said  # it saw the newer one
    assert "nvidia-driver-cuda=580.105.08-1" in machine.packages()


def test_lost_holds_and_lost_pin_come_back_without_a_reboot(machine: Machine) -> None:
    before = machine.boot_id()
    machine.ssh("rm /etc/apt/preferences.d/bringup-nvidia")
    machine.deploy()
    assert len(machine.ssh("apt-mark showhold").split()) == 3
    assert "nvidia-driver-cuda=580.105.08-1" in machine.packages()  # not the newer one that is out
    assert changed(machine.deploy("--json")) == []
    assert machine.boot_id() == before


@pytest.mark.parametrize(
    ("pin", "user"), [("590", "admin"), ("580.95.05", "root")], ids=["newer-branch-with-sudo", "back-to-an-exact-version"]
)
def test_switch_of_branch_in_one_transaction(machine: Machine, pin: str, user: str) -> None:
    before = machine.boot_id()
    run = machine.deploy(nvidia_driver=pin, ssh_user=user)
    assert "another version: " in run.stderr
    assert machine.loaded().startswith(pin)
    assert machine.boot_id() != before
    driver = {line for line in machine.packages() if "nvidia" in line}
    assert {line.partition("=")[2] for line in driver} == {f"{VERSIONS[int(pin[:3])]}-1"}
    assert len(machine.ssh("apt-mark showhold").split()) == 3
    assert changed(machine.deploy("--json", nvidia_driver=pin, ssh_user=user)) == []


def test_version_that_is_not_there_leaves_everything(machine: Machine) -> None:
    def state() -> tuple[set[str], set[str], str]:
        return machine.packages(), machine.files(), machine.ssh("apt-mark showhold")

    before = state()
    run = machine.deploy(check=False, nvidia_driver="580.1.1")
    assert run.returncode == 1
    assert "not in 580.1.1*: set nvidia_driver to what there is" in run.stderr
    assert state() == before
    assert machine.loaded() == "580.95.05"


# --- and taken away


def test_driver_that_others_need_stays_as_it_is(machine: Machine) -> None:
    Package("theirs", "1", ("Depends: nvidia-driver-cuda",)).build(machine.deployment.host().root / "root")
    machine.ssh("dpkg -i /root/theirs_*.deb && rm /root/theirs_*.deb")

    def driver() -> tuple[set[str], str]:
        return machine.packages(), machine.ssh("apt-mark showhold; cat /etc/apt/preferences.d/bringup-nvidia")

    before = driver()
    run = machine.deploy(check=False, nvidia_state="absent")
    assert run.returncode == 1
    assert "other packages need the driver (theirs): remove them first" in run.stderr
    assert driver() == before
    machine.ssh("dpkg -P theirs")


def test_absent_leaves_no_trace(machine: Machine, bare: Bare) -> None:
    machine.ssh("rm -f /root/booted-kernel")
    before = machine.boot_id()
    machine.deploy(nvidia_state="absent")
    assert machine.boot_id() != before
    assert machine.loaded() == ""
    assert machine.ssh("apt-mark showhold") == ""
    assert KERNEL in machine.ssh("cat /root/initramfs.log")
    assert changed(machine.deploy("--json", nvidia_state="absent")) == []
    # what came with the new kernel is not the driver's
    machine.ssh(f"dpkg -i /root/linux-image-amd64_*.deb; dpkg -P linux-image-{NEXT_KERNEL} linux-headers-{NEXT_KERNEL}")
    machine.ssh(f"rmdir /lib/modules/{NEXT_KERNEL}")
    assert (machine.packages(), machine.files()) == bare
