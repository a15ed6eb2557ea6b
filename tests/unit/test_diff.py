"""`bringup diff`: what counts as drift, and the exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bringup.diff import exit_code
from bringup.drive import Drift, DryRun, read_plan

ROOT = Path(__file__).parents[2]
RECORDINGS = Path(__file__).parent / "recordings"


def recorded() -> list[dict[str, Any]]:
    """Two hosts: an operation in step, a conditional one (`_if`), one that changes the second host."""
    return json.loads((RECORDINGS / "pyinfra-3.10-plan.json").read_text())["plan"]  # type: ignore[no-any-return]


def operation(name: str, hosts: list[str], conditional: list[str] | None = None) -> dict[str, Any]:
    one = recorded()[0]
    return one | {"name": name, "names": [name], "hosts_with_change": hosts, "hosts_with_conditional_change": conditional or []}


REFUSED = operation("Preflight | refused: no NVIDIA driver runs", ["gpu1"])
CHANGED = operation("Service | Write vllm.yaml of release 0123456789ab", ["gpu1", "gpu2"])
CONDITIONAL = operation("Reload", [], ["gpu1"])


def test_only_what_surely_changes_is_drift() -> None:
    result = read_plan(recorded(), all_hosts_looked_at=True)
    assert result.drifts == (Drift(operation="Set vm.swappiness 60 -> 10", hosts=("@fake/gpu2",)),)
    assert result.refused == ()


def test_refusal_is_told_from_drift() -> None:
    result = read_plan([CHANGED, REFUSED], all_hosts_looked_at=True)
    assert [drift.operation for drift in result.refused] == ["Preflight | refused: no NVIDIA driver runs"]
    assert result.drifts == (Drift(operation="Service | Write vllm.yaml of release 0123456789ab", hosts=("gpu1", "gpu2")),)


def test_names_that_differ_between_hosts_are_all_told() -> None:
    one = CHANGED | {"names": ["Switch to release b", "Switch to release a"]}
    assert read_plan([one], all_hosts_looked_at=True).drifts[0].operation == "Switch to release a, Switch to release b"


@pytest.mark.parametrize(
    ("operations", "all_hosts_looked_at", "code"),
    [
        pytest.param([], True, 0, id="nothing"),
        pytest.param(recorded()[:2], True, 0, id="in-step-and-conditional"),
        pytest.param(recorded(), True, 2, id="drift"),
        pytest.param([CHANGED, CONDITIONAL], True, 2, id="drift-and-conditional"),
        pytest.param([REFUSED], True, 1, id="refused"),
        pytest.param([CHANGED, REFUSED], True, 1, id="refused-and-drift"),
        pytest.param([], False, 1, id="host-not-reached"),
        pytest.param([CHANGED], False, 1, id="host-not-reached-and-drift"),
    ],
)
def test_exit_code(operations: list[dict[str, Any]], all_hosts_looked_at: bool, code: int) -> None:
    result = read_plan(operations, all_hosts_looked_at)
    assert isinstance(result, DryRun)
    assert exit_code(result) == code


def bringup_diff(cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "bringup"), "diff", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_command_says_that_a_host_would_be_refused() -> None:
    done = bringup_diff(ROOT, "@replay/4090d-workstation", "--data", "nvidia_driver=570")
    assert done.returncode == 1
    assert "branch 570" in " ".join(done.stdout.split())
    assert "a host would be refused" in done.stdout


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """pyinfra's own behaviour matters here, not our deploy's: two @fake hosts and three operations."""
    shutil.copy(RECORDINGS / "two_fake_hosts.py", tmp_path / "two_fake_hosts.py")
    (tmp_path / "deploys").mkdir()
    shutil.copy(RECORDINGS / "three_operations.py", tmp_path / "deploys/qwen.py")
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "code", "said"),
    [
        pytest.param([], 2, "Drift: 1 operations would change @fake/gpu2.", id="drift"),
        pytest.param(["--limit", "@fake/gpu1"], 0, "In step: nothing would change.", id="in-step"),
    ],
)
def test_command_on_what_pyinfra_really_prints(small_project: Path, limit: list[str], code: int, said: str) -> None:
    done = bringup_diff(small_project, "two_fake_hosts.py", *limit)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, said), done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ("@replay/4090d-workstation", "--data", "profil=x"), "did not get through; pyinfra's message stands above", id="data"
        ),
        pytest.param(("inventories/no-such.py",), "did not get through", id="inventory"),
    ],
)
def test_command_that_cannot_make_the_dry_run(arguments: tuple[str, ...], said: str) -> None:
    done = bringup_diff(ROOT, *arguments)
    assert done.returncode == 1
    assert said in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr


def test_command_outside_of_the_project(tmp_path: Path) -> None:
    done = bringup_diff(tmp_path, "@replay/4090d-workstation")
    assert done.returncode == 1
    assert "is not bringup's project folder" in " ".join((done.stdout + done.stderr).split())
