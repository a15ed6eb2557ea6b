"""When a host gets CUDA's compiler, which one, and what the service is told of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.plan import Plan, make_plan
from bringup.settings import Settings, problems_with
from deploys.render import render
from tests.unit.machines import WORKSTATION, bare_workstation, demo_host, workstation

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()
REPOSITORY = {"uri": "http://mirror.example/nvidia", "key_file": "/keys/nvidia.asc", "fingerprint": "AB" * 20}


def plan(**data: Any) -> Plan:
    return make_plan(workstation(), Settings.model_validate(data), CATALOG, "cdbee75f")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, None),
        ({"cuda_toolkit": "never"}, None),
        ({"cuda_toolkit": "always"}, "cuda_toolkit is always"),
        ({"cuda_toolkit": "always", "nvidia_state": "absent"}, None),
        ({"engine_settings": {"attention-backend": "FLASHINFER"}}, "attention-backend is FLASHINFER"),
        ({"engine_settings": {"attention-backend": "FLASHINFER"}, "cuda_toolkit": "never"}, None),
        ({"engine_settings": {"attention-backend": "TRITON_ATTN"}}, None),
    ],
)
def test_compiler_only_where_something_needs_it(data: dict[str, Any], why: str | None) -> None:
    found = plan(**data)
    if why is None:
        assert found.cuda is None
        assert "CUDA_HOME" not in found.environment
        return
    assert found.cuda is not None
    assert found.cuda.why.startswith(why)
    assert [decision.value for decision in found.decisions if decision.key == "cuda-toolkit"] == ["13.0"]


def test_toolkit_is_of_the_engines_cuda_and_stays_beside_others() -> None:
    found = plan(cuda_toolkit="always")
    assert found.cuda is not None
    assert found.cuda.packages[0] == "cuda-nvcc-13-0"
    assert all(package.endswith("-13-0") for package in found.cuda.packages)
    assert found.environment["CUDA_HOME"] == "/usr/local/cuda-13.0"
    # behind the engine's own programs and the system's
    assert found.environment["PATH"].split(":")[-1] == "/usr/local/cuda-13.0/bin"
    assert found.digest != plan().digest


def test_host_without_a_card_gets_none() -> None:
    source = {"kind": "control-folder", "path": "/models/smollm2"}
    settings = Settings.model_validate(
        {"profile": "cpu-demo", "model": "smollm2-135m", "model_source": source, "cuda_toolkit": "always"}
    )
    assert make_plan(demo_host(), settings, CATALOG, "0123456789ab").cuda is None


def test_repository_is_written_for_one_transaction() -> None:
    planned = plan(cuda_toolkit="always", nvidia_repository=REPOSITORY)
    assert planned.cuda is not None
    text = render("passing.sources.j2", planned, repository=planned.cuda.repository)
    assert "URIs: http://mirror.example/nvidia\n" in text
    assert text.startswith("Types: deb\n")


def test_bad_setting_is_named() -> None:
    (problem,) = problems_with({"cuda_toolkit": "yes"}, CATALOG)
    assert "'auto', 'never' or 'always'" in problem


@pytest.mark.parametrize(("setting", "installs"), [("always", True), ("auto", False)])
def test_dry_run_shows_the_compiler_before_the_service(setting: str, installs: bool) -> None:
    pyinfra = Path(sys.executable).parent / "pyinfra"
    command = [str(pyinfra), f"@replay/{WORKSTATION}", "deploys/qwen.py", "--dry", "--json", "--data", f"cuda_toolkit={setting}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=60, check=True
    )
    names = [operation["name"] for operation in json.loads(done.stdout)["plan"]]
    found = [name for name in names if name.startswith("CUDA | Install the compiler of CUDA 13.0")]
    assert bool(found) is installs
    assert bare_workstation().nvidia.cuda_managed is False
    if installs:
        assert names.index(found[0]) < next(index for index, name in enumerate(names) if name.startswith("Service"))
