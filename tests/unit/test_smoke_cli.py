"""`bringup smoke` where it measures hosts, without one: what it asks pyinfra for, and what it makes of the records."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bringup.errors import BringupError
from bringup.smoke.model import SmokeReport, SmokeRequest
from bringup.smoke.run import read_request, run_smoke
from bringup.smoke_cli import smoke
from tests.unit.fake_openai import FakeOpenAI, serving


def report(url: str, **changes: Any) -> SmokeReport:
    asked = {"base_url": url, "model": "smol", "prompt": "Hello", "max_tokens": 4, "requests": 5, "host": "ws1"} | changes
    return run_smoke(SmokeRequest.model_validate(asked), lambda *_: None, sample=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command hands on; `reports` is what the hosts answer."""
    seen: dict[str, Any] = {"reports": {}}

    def measure(inventory: str, arguments: list[str], changes: dict[str, Any], reports_dir: Path) -> dict[str, Any]:
        seen.update(inventory=inventory, arguments=arguments, changes=changes, reports_dir=reports_dir)
        return dict(seen["reports"])

    monkeypatch.setattr("bringup.smoke_cli.measure_hosts", measure)
    return seen


def test_options_become_changes_of_the_releases_request(asked: dict[str, Any]) -> None:
    with serving(FakeOpenAI()) as url:
        asked["reports"] = {"ws1": report(url)}
    words = [
        "inventories/prod.py",
        "--limit",
        "ws1",
        "--user",
        "admin",
        "--stage",
        "ladder",
        "--ladder-to",
        "4",
        "--prompts",
        "mixed",
    ]
    result = CliRunner().invoke(smoke, words)
    assert result.exit_code == 0, result.output
    assert asked["inventory"] == "inventories/prod.py"
    assert asked["arguments"] == ["--user", "admin", "--limit", "ws1"]
    assert asked["changes"] == {"api": "chat", "stages": ("ladder",), "ladder_to": 4, "prompts": "mixed", "prompt": None}
    assert result.stdout.startswith("PASS  smol on ws1")


def test_the_worst_outcome_of_all_hosts_decides(asked: dict[str, Any]) -> None:
    with serving(FakeOpenAI()) as url:
        good = report(url)
        failed = report(url, lines=[{"metric": "e2e_p50_ms", "at_most": 0.001}])
        asked["reports"] = {"ws1": good, "ws2": failed}
        result = CliRunner().invoke(smoke, ["ws1,ws2", "--json"])
    assert result.exit_code == 3
    assert {name: found["outcome"] for name, found in json.loads(result.stdout)["hosts"].items()} == {"ws1": "PASS", "ws2": "FAIL"}
    asked["reports"] = {"ws1": good, "gone": None}
    result = CliRunner().invoke(smoke, ["ws1,gone"])
    assert result.exit_code == 1
    assert "gone: no record" in result.stdout


def test_from_here_sends_the_same_load_and_refuses_what_it_cannot_reach(asked: dict[str, Any]) -> None:
    fake = FakeOpenAI()
    with serving(fake) as url:
        asked["reports"] = {"@local": report(url, host="@local")}
        sent = len(fake.bodies)
        result = CliRunner().invoke(smoke, ["@local", "--from-here", "--json"])
        assert result.exit_code == 0, result.output
        assert len(fake.bodies) == 2 * sent
        assert list(json.loads(result.stdout)["hosts"]) == ["@local", "@local from here"]
        asked["reports"] = {"ws1": report(url)}
        refused = CliRunner().invoke(smoke, ["ws1", "--from-here"])
    assert isinstance(refused.exception, BringupError)
    assert "loopback address alone" in refused.exception.message


def test_a_host_has_a_plan_and_a_model_of_its_own(asked: dict[str, Any]) -> None:
    assert CliRunner().invoke(smoke, ["ws1", "--model", "other"]).exit_code == 2
    assert "inventory" not in asked


def test_values_of_a_request_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"base_url": "http://127.0.0.1:1", "model": "smol", "prompt": "Hello", "host": "ws1"}))
    request = read_request(path, {"stages": ["ladder"], "prompt": None, "prompts": "mixed"})
    assert (request.stages, request.prompt, request.prompts) == (("ladder",), None, "mixed")
    with pytest.raises(BringupError, match=r"stages\.0"):
        read_request(path, {"stages": ["sprint"]})
