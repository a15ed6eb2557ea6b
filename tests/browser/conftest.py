"""A real browser for the tests of pages: Debian's chromium without a window, with the network switched off."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, started


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests; they skip, or in CI fail, where there is none."""
    missing = [program for program in ("chromium", "chromedriver", "pdftotext") if shutil.which(program) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found: tools/setup.sh installs chromium, chromium-driver and poppler-utils"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def project() -> Path:
    """The project's folder."""
    return Path(__file__).parents[2]
