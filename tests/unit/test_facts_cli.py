"""`bringup facts` and `bringup plan` as their users call them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bringup.cli import bringup
from bringup.probe.host import parse_host
from bringup.recording import load_recording, shipped_recordings

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> Result:
    # wide enough that no cell is folded
    return CliRunner(env={"COLUMNS": "400"}).invoke(bringup, [str(argument) for argument in arguments])


def real(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """The installed command, which drives the real pyinfra."""
    command = [str(Path(sys.executable).parent / "bringup"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def parsed(result: "Result | subprocess.CompletedProcess[str]") -> dict[str, Any]:
    hosts: dict[str, Any] = json.loads(result.stdout)["hosts"]
    return hosts


def test_findings_come_before_facts() -> None:
    result = run("facts", "--recording", "amd-two-ccd-4090d")
    assert result.exit_code == 0
    assert -1 < result.output.index("runs on 4 of its 16 lanes") < result.output.index("Ryzen 9 7950X3D")
    for words in (
        "2 channels populated, 57.6 GB/s at most",
        "PCIe now 1.0 x4, card 4.0 x16, slot 4.0 x4",
        "580.95.05 (open modules)",
    ):
        assert words in result.output


def test_machine_without_fault_says_so() -> None:
    result = run("facts", "--json")
    findings = parsed(result)["this machine"]["findings"]
    shown = run("facts").output
    assert ("Nothing wrong or wasted" in shown) == (findings == [])
    assert all(finding["text"] in shown for finding in findings)


@pytest.mark.parametrize("name", shipped_recordings())
def test_every_recording_can_be_shown_and_read(name: str) -> None:
    assert run("facts", "--recording", name).exit_code == 0
    host = parsed(run("facts", "--recording", name, "--json"))[name]
    assert {"level", "id", "text", "cost"} <= host["findings"][0].keys()
    assert host["facts"]["os"]["id"]


def test_this_machine_is_looked_at_without_ssh() -> None:
    (name,) = parsed(run("facts", "--json"))
    assert name == "this machine"


def test_recording_of_this_machine_is_read_again_as_it_was(tmp_path: Path) -> None:
    result = run("facts", "--json", "--save", tmp_path / "box")
    assert result.exit_code == 0, result.output
    facts = parsed(result)["this machine"]["facts"]
    again = parse_host(load_recording(tmp_path / "box").probe_text(facts["clock_unix_s"])).model_dump(mode="json")
    assert again["cpu"] == facts["cpu"]
    assert again["memory"]["total_mib"] == facts["memory"]["total_mib"]
    assert run("facts", "--recording", tmp_path / "box").exit_code == 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    result = run("facts", "--save", tmp_path / "box")
    assert result.exit_code != 0
    assert "exists" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("facts", "--recording", "4090d-workstatio"), "did you mean 4090d-workstation"),
        (("facts", "--recording", "4090d-workstation", "@local"), "name no other"),
        (("plan", "--recording", "nonsense"), "known:"),
        (("plan", "--recording", "4090d-workstation", "--model", "Qwen3-5B"), "Qwen/Qwen3-4B"),
        (("plan", "--recording", "4090d-workstation", "--profile", "interactif"), "did you mean interactive"),
    ],
)
def test_wrong_name_is_told_with_the_nearest(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert words in f"{result.output} {result.exception}"


def test_several_hosts_through_pyinfra(tmp_path: Path) -> None:
    done = real("facts", "@replay/4090d-workstation", "@replay/rented-container", "--json", "--save", tmp_path / "fleet")
    assert done.returncode == 0, done.stderr
    assert sorted(parsed(done)) == ["@replay/4090d-workstation", "@replay/rented-container"]
    assert sorted(path.name for path in (tmp_path / "fleet").iterdir()) == ["replay-4090d-workstation", "replay-rented-container"]


def test_host_that_does_not_answer_is_named_and_the_others_are_shown() -> None:
    done = real("facts", "127.0.0.1", "@replay/rented-container", "--json", "--port", "1")
    assert done.returncode == 1
    assert list(parsed(done)) == ["@replay/rented-container"]
    assert "127.0.0.1" in done.stderr


def test_plan_of_a_recording() -> None:
    result = run("plan", "--recording", "4090d-workstation")
    assert result.exit_code == 0
    for words in ("fits", "branch 580 of the NVIDIA driver", "max-model-len", "impossible", "nouveau"):
        assert words in result.output
    plan = json.loads(run("plan", "--recording", "4090d-workstation", "--json").stdout)
    assert plan["vllm"]["max-model-len"] == 32768


def test_plan_of_a_machine_that_can_be_deployed() -> None:
    assert "fits" in run("plan", "--recording", "dual-socket-four-cards").output
