"""The driver's packages under Ubuntu's names, on a host that says it is Ubuntu: real apt, repositories of the tests' own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deployment import changed
from driver_machine import Machine
from nvidia_repository import NEWER_580, VERSIONS, NvidiaRepository, Package, serving
from ubuntu_packages import SIGNED, archive_packages, nvidias_packages, server_driver, signed_modules

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NvidiaRepository]:
    with serving(tmp_path_factory.mktemp("ubuntu"), archive_packages(), suite="noble-updates", origin="Ubuntu") as repository:
        yield repository


@contextmanager
def ubuntu(machine: Machine, archive: NvidiaRepository, version: str) -> Iterator[None]:
    """The host with Ubuntu's name, its kernel's package and its archive; the driver must leave it as it was."""
    source = f"Types: deb\nURIs: {archive.uri}\nSuites: {archive.suite}\nComponents: restricted\nSigned-By: /etc/apt/ubuntu.asc\n"
    with machine.release(f'ID=ubuntu\nVERSION_ID="{version}"\nPRETTY_NAME="Ubuntu {version} LTS"\n'):
        root = machine.deployment.host().root
        (root / "etc/apt/ubuntu.asc").write_bytes(archive.key_file.read_bytes())
        (root / "etc/apt/sources.list.d/ubuntu.sources").write_text(source)
        Package("linux-image-generic", "99:1").build(root / "root")
        machine.ssh("dpkg -P linux-image-amd64; dpkg -i /root/linux-image-generic_*.deb; apt-get update -qq")
        before = machine.packages(), machine.files()
        yield
        machine.deploy(nvidia_repository=None, nvidia_state="absent")
        assert (machine.packages(), machine.files()) == before
        machine.ssh("dpkg -P linux-image-generic; dpkg -i /root/linux-image-amd64_*.deb")
        machine.ssh("rm /etc/apt/ubuntu.asc /etc/apt/sources.list.d/ubuntu.sources")


def driver_of(machine: Machine) -> set[str]:
    return {line.partition("=")[0] for line in machine.packages() if "nvidia" in line}


def test_distributions_own_packages_switch_branches_by_name(machine: Machine, archive: NvidiaRepository) -> None:
    with ubuntu(machine, archive, "22.04"):
        for branch in ("580", "590", "580"):
            machine.deploy(nvidia_repository=None, nvidia_driver=branch)
            assert machine.loaded() == VERSIONS[int(branch)]
            names = {
                f"nvidia-driver-{branch}-server-open",
                f"nvidia-utils-{branch}-server",
                f"nvidia-dkms-{branch}-server-open",
                f"nvidia-kernel-common-{branch}-server",
                f"libnvidia-compute-{branch}-server",
            }
            assert driver_of(machine) == names
            assert set(machine.ssh("apt-mark showhold").split()) == names
        assert changed(machine.deploy("--json", nvidia_repository=None)) == []


def test_secure_boot_takes_signed_modules_of_the_same_version_as_the_rest(machine: Machine, archive: NvidiaRepository) -> None:
    with ubuntu(machine, archive, "26.04"), machine.secure_boot():
        before = machine.packages(), machine.files()
        archive.publish(*server_driver(NEWER_580))
        refused = machine.deploy(check=False, nvidia_repository=None)
        assert refused.returncode == 1
        assert f"are of driver {VERSIONS[580]}, the rest of it is {NEWER_580}" in refused.stderr
        assert (machine.packages(), machine.files()) == before
        archive.publish(*signed_modules(NEWER_580, 2))
        machine.deploy(nvidia_repository=None)
        assert machine.loaded() == NEWER_580
        assert SIGNED in driver_of(machine)
        assert not any("dkms" in name for name in driver_of(machine))
        # they come with the kernel's updates, which unattended-upgrades leaves alone with them
        assert machine.ssh("apt-mark showhold") == ""
        assert '"^linux-"' in machine.ssh("apt-config dump Unattended-Upgrade::Package-Blacklist")
        assert changed(machine.deploy("--json", nvidia_repository=None)) == []


def test_secure_boot_refuses_nvidias_unsigned_modules(machine: Machine, archive: NvidiaRepository) -> None:
    with ubuntu(machine, archive, "24.04"), machine.secure_boot():
        before = machine.packages(), machine.files()
        refused = machine.deploy(check=False)
        assert refused.returncode == 1
        assert "Secure Boot is on" in refused.stderr
        assert "leave nvidia_repository out" in refused.stderr.replace("\n", " ")
        assert (machine.packages(), machine.files()) == before


def test_nvidias_packages_do_not_mix_with_ubuntus(machine: Machine, archive: NvidiaRepository, tmp_path: Path) -> None:
    with ubuntu(machine, archive, "24.04"), serving(tmp_path, nvidias_packages()) as nvidias:
        setting = nvidias.setting()
        machine.deploy(nvidia_repository=setting)
        assert machine.loaded() == VERSIONS[580]
        # Ubuntu's of the same name is newer
        assert f"libnvidia-compute-580={VERSIONS[580]}-1ubuntu1" in machine.packages()
        machine.deploy(nvidia_repository=setting, nvidia_driver="590")
        assert machine.loaded() == VERSIONS[590]
        assert driver_of(machine) == {"libnvidia-compute", "nvidia-utils", "nvidia-dkms-open", "nvidia-kernel-common"}
        assert changed(machine.deploy("--json", nvidia_repository=setting, nvidia_driver="590")) == []
