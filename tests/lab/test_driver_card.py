"""The card once its driver runs: its settings, CUDA's compiler, and what is read back. It starts and ends on a bare host."""

import pytest
from deployment import changed
from driver_machine import Machine
from nvidia_repository import KERNEL, NEWER_580, VERSIONS

pytestmark = pytest.mark.lab
Bare = tuple[set[str], set[str]]


def card(machine: Machine) -> dict[str, str]:
    """What the card is set to."""
    listed = machine.ssh("cd /run/card 2>/dev/null && grep -H . * || true")
    return dict(line.split(":", 1) for line in listed.splitlines())


def test_card_gets_its_settings_and_again_at_each_boot(machine: Machine) -> None:
    machine.deploy()
    assert card(machine) == {"persistence": "Enabled"}
    assert machine.ssh("stat -c %a /dev/nvidia-uvm").strip() == "666"
    asked = {"gpu_power_limit_w": "350", "gpu_clocks_mhz": [210, 2520]}
    machine.deploy(**asked)
    assert card(machine) == {"persistence": "Enabled", "power": "350", "clocks": "210,2520"}
    assert changed(machine.deploy("--json", **asked)) == []
    machine.restart()
    machine.wait_until("systemctl is-active bringup-nvidia.service")
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


def test_driver_is_read_back_from_the_running_machine(machine: Machine) -> None:
    run = machine.deploy(nvidia_driver=VERSIONS[580])  # another than runs, or nothing was to be read back
    for line in (
        f"ok      driver {machine.loaded()}: module, nvidia-smi and packages agree",
        "ok      NVIDIA GeForce RTX 4090 D at 0000:01:00.0: 24564 MiB, as a GeForce RTX 4090 D has",
        "ok      this user may use /dev/nvidiactl, /dev/nvidia-uvm, /dev/nvidia0",
        "note    no CUDA kernel was run",
    ):
        assert line in run.stderr
    assert machine.ssh("ls /run | grep bringup-gpu || true") == ""


# --- beside a driver that somebody else installed


def test_driver_of_somebody_else_comes_back(machine: Machine, bare: Bare) -> None:
    machine.deploy(nvidia_state="absent")
    theirs, old = "/etc/apt/sources.list.d/theirs.list", VERSIONS[570]
    machine.ssh(
        f"echo 'deb [trusted=yes] {machine.repository.uri} /' > {theirs} && apt-get -q update && "
        f"apt-get -q -y install nvidia-driver-cuda={old}-1 libnvidia-compute={old}-1 nvidia-kernel-open-dkms={old}-1 "
        f"linux-headers-{KERNEL} && echo 'blacklist nouveau' > /etc/modprobe.d/theirs.conf && update-initramfs -u -k {KERNEL} && "
        f"rm {theirs} && apt-get -q update && apt-mark auto libnvidia-compute && apt-mark hold nvidia-driver-cuda"
    )
    machine.restart()

    def state() -> tuple[set[str], set[str], str]:
        return machine.packages(), machine.files(), machine.ssh("apt-mark showhold; echo; apt-mark showauto")

    before = state()
    machine.deploy()
    assert machine.loaded() == NEWER_580
    machine.deploy(nvidia_state="absent")
    assert machine.loaded() == old
    assert state() == before
    assert changed(machine.deploy("--json", nvidia_state="absent")) == []


def test_driver_of_somebody_else_that_is_no_longer_to_be_had_is_told(machine: Machine) -> None:
    machine.deploy()
    boot = machine.boot_id()
    with machine.repository.lacking(f"*_{VERSIONS[570]}-1_*"):
        run = machine.deploy(nvidia_state="absent")
    assert "the driver that was here before cannot be brought back" in run.stderr
    assert f"nvidia-driver-cuda={VERSIONS[570]}-1" in run.stderr
    assert f"driver {NEWER_580} runs, which is not bringup's" in run.stderr
    assert (machine.loaded(), machine.boot_id()) == (NEWER_580, boot)
    assert machine.ssh("apt-mark showhold").split() == ["nvidia-driver-cuda"]  # theirs
    assert not [path for path in machine.files() if "bringup" in path and "driver" in path]


def test_toolkit_for_somebody_elses_driver_leaves_no_source_of_drivers(machine: Machine, bare: Bare) -> None:
    driver = {line for line in machine.packages() if "nvidia" in line}
    machine.deploy(cuda_toolkit="always")
    assert machine.ssh("/usr/local/cuda-13.0/bin/nvcc").strip() == "release 13.0"
    assert {line for line in machine.packages() if "nvidia" in line} == driver
    assert machine.ssh("ls /etc/apt/sources.list.d/ | grep -c bringup || true").strip() == "0"
    assert "590" not in machine.ssh("apt-get -q update; apt-cache policy nvidia-driver-cuda")
    assert changed(machine.deploy("--json", cuda_toolkit="always")) == []
    machine.deploy(nvidia_state="absent")
    assert {line for line in machine.packages() if "cuda" in line or "cublas" in line} == {f"nvidia-driver-cuda={NEWER_580}-1"}
    assert "/var/lib/bringup" not in machine.files()
    machine.ssh("apt-mark unhold nvidia-driver-cuda")
    machine.ssh("apt-get -q -y autoremove --purge '.*nvidia.*' '^linux-headers-.*' dkms && rm /etc/modprobe.d/theirs.conf")
    machine.ssh(f"update-initramfs -u -k {KERNEL}")
    machine.restart()
    assert machine.packages() ^ bare[0] == set()
    assert machine.files() ^ bare[1] == set()
