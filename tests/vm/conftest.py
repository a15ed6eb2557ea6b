"""What the tests on virtual machines share."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from image import Image, ensure_image, why_no_vm
from machine import Boot, booted
from rich.console import Console


@pytest.fixture(scope="session")
def image() -> Image:
    """What VMs are started from; tests skip, or in CI fail, where there can be no VM."""
    if reason := why_no_vm():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return ensure_image(Console(stderr=True))


@pytest.fixture(scope="module")
def boot(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boot]:
    """Boot a VM, which is gone when the module's tests have ended; it takes about 20 s."""
    with ExitStack() as machines:
        yield lambda vm: machines.enter_context(booted(vm, image, tmp_path_factory.mktemp("vm")))
