"""What the tests on throw-away hosts share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment
from driver_machine import Machine, machine_with_card
from nvidia_repository import serving
from rich.console import Console

from bringup.lab import hosts
from bringup.lab.machine import why_not
from bringup.lab.model import ensure_demo_model
from bringup.lab.state import base_dir, lab_dir


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two bare hosts in a lab of the tests' own: lab1 is deployed to, lab2 stays bare. The machine's cached base, model and
    wheels are used."""
    directory = tmp_path_factory.mktemp("deploy-lab")
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
        hosts.up(2, directory)
        yield Deployment(directory, tmp_path_factory.mktemp("reports"))
        hosts.down(directory=directory)


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


@pytest.fixture(scope="session")
def bare(machine: Machine) -> tuple[set[str], set[str]]:
    """Packages and files of that host before anything was done; each module of tests leaves it so."""
    return machine.packages(), machine.files()


@pytest.fixture
def project() -> Path:
    """The project's folder."""
    return Path(__file__).parents[2]
