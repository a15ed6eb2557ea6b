"""What the tests on throw-away hosts share."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deployment import Deployment
from driver_machine import Machine, machine_with_card
from engine_image import ENGINE, ensure_engine_image
from nvidia_repository import serving
from rich.console import Console

from bringup.lab import hosts
from bringup.lab.container import ssh_command
from bringup.lab.machine import why_not
from bringup.lab.model import ensure_demo_model
from bringup.lab.state import base_dir, lab_dir, read_state


@contextmanager
def bare_hosts(
    directory: Path, count: int, release: str | None = None, nested: bool = False, rented: bool = False
) -> Iterator[None]:
    """Bare hosts in a lab of the tests' own; the machine's cached bases, model and wheels are used."""
    if reason := why_not(directory):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    shared = lab_dir()
    ensure_demo_model(shared, Console(stderr=True))
    for name in ("models", "cache"):
        (shared / name).mkdir(exist_ok=True)
        (directory / name).symlink_to(shared / name)
    environment = {"BRINGUP_LAB_DIR": str(directory), "BRINGUP_LAB_BASE_DIR": str(base_dir(shared))}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        hosts.up(count, directory, release=release, nested=nested, rented=rented)
        yield
        hosts.down(directory=directory)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two hosts: lab1 is deployed to, lab2 stays bare."""
    directory = tmp_path_factory.mktemp("deploy-lab")
    with bare_hosts(directory, 2):
        yield Deployment(directory, tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="session")
def rented_deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A host like a rented container."""
    directory = tmp_path_factory.mktemp("rented-lab")
    with bare_hosts(directory, 1, rented=True):
        yield Deployment(directory, tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A host with Debian 13 that can run containers, on which somebody has loaded an image with the engine's CPU build."""
    directory = tmp_path_factory.mktemp("podman-lab")
    with bare_hosts(directory, 1, "trixie", nested=True):
        image = ensure_engine_image(lab_dir(), Console(stderr=True))
        settings = {"runtime": "container", "container_image": "localhost/vllm-cpu:test"}
        podman = Deployment(directory, tmp_path_factory.mktemp("reports"), settings)
        # the test runs it on a port of its own; the host shares this machine's network
        podman.ssh("systemctl mask -q docker-registry && apt-get update -q")
        podman.ssh("apt-get install -yq --no-install-recommends podman docker-registry")
        script = f'podman import --change "ENV PATH={ENGINE}/bin:/usr/bin:/bin" - {settings["container_image"]}'
        command = ssh_command(read_state(directory), podman.host())
        with image.open("rb") as packed:
            subprocess.run([*command, script], stdin=packed, check=True, capture_output=True)
        yield podman


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A bare host that looks like a machine with a card, and a repository that has its driver."""
    directory = tmp_path_factory.mktemp("driver-lab")
    if reason := why_not(directory):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path_factory.mktemp("nvidia")) as repository:
        patch.setenv("BRINGUP_LAB_BASE_DIR", str(base_dir(lab_dir())))
        with machine_with_card(directory, tmp_path_factory.mktemp("reports"), repository) as machine:
            yield machine


@pytest.fixture
def bare(machine: Machine) -> tuple[set[str], set[str]]:
    """Packages and files of that host before anything was done."""
    return machine.bare


@pytest.fixture
def project() -> Path:
    """The project's folder."""
    return Path(__file__).parents[2]
