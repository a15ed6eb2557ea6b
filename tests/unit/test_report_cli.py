"""`bringup smoke` and `bringup report`, and the report on screen."""

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bringup.errors import BringupError
from bringup.report.cli import report
from bringup.report.load import read_record
from bringup.report.text import render
from bringup.smoke_cli import smoke
from tests.unit.fake_openai import FakeOpenAI, free_port, serving


def run_smoke(*arguments: str) -> Result:
    return CliRunner().invoke(smoke, list(arguments))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The record of a run that missed one line of two."""
    lines = ["--line", "ttft_p50_ms=1", "--line", "e2e_p50_ms=30000"]
    with serving(FakeOpenAI(ttft_s=0.02)) as url:
        assert run_smoke(url, *lines, "--requests", "5", "--record-dir", str(tmp_path)).exit_code == 3
    return tmp_path / "latest.json"


def test_smoke_measures_the_first_model_and_shows_progress_and_a_verdict(tmp_path: Path) -> None:
    prompt, key = tmp_path / "prompt.txt", tmp_path / "key"
    prompt.write_text("一个问题")
    key.write_text("sesame\n")
    fake = FakeOpenAI()
    with serving(fake) as url:
        result = run_smoke(
            f"{url}/v1/", "--prompt-file", str(prompt), "--max-tokens", "5", "--requests", "2",
            "--api-key-file", str(key),
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS  smol on 127.0.0.1")
    assert "smoke 2/2: TTFT" in result.stderr
    assert {body["messages"][0]["content"] for body in fake.bodies} == {"一个问题"}
    assert {(body["model"], body["max_completion_tokens"]) for body in fake.bodies} == {("smol", 5)}
    assert {headers["Authorization"] for headers in fake.headers} == {"Bearer sesame"}
    assert "sesame" not in result.output


def test_smoke_json_is_the_record_alone_without_the_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame")
    with serving(FakeOpenAI()) as url:
        result = run_smoke(url, "--model", "other", "--json", "--requests", "2", "--api-key-file", str(key))
    document = json.loads(result.stdout)
    assert document["request"]["model"] == "other"
    assert document["outcome"] == "PASS"
    assert "sesame" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--line", "ttft_p50=3"], "did you mean ttft_p50_ms"),
        (["--line", "ttft_p50_ms=fast"], "ttft_p50_ms needs a number"),
        (["--line", "ttft_p50_ms=-1"], "ttft_p50_ms needs a number"),
        (["--requests", "0"], "--requests"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(arguments: list[str], says: str) -> None:
    result = run_smoke("http://127.0.0.1:1", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["localhost:8000"], "localhost:8000: the address must be an http:// or https:// address"),
        ([f"http://127.0.0.1:{free_port()}"], "names no model"),
        (["http://127.0.0.1:1", "--model", "m", "--prompt-file", "/nonexistent"], "prompt file /nonexistent"),
        (["http://127.0.0.1:1", "--model", "m", "--record-dir", "/dev/null/x"], "Cannot write records to /dev/null/x"),
    ],
)
def test_what_cannot_be_run_is_an_error_for_people(arguments: list[str], says: str) -> None:
    result = run_smoke(*arguments)
    assert isinstance(result.exception, BringupError)
    assert says in result.exception.message


def test_report_repeats_the_verdict_with_the_exit_code_of_the_run(record: Path) -> None:
    shown = CliRunner().invoke(report, [str(record)])
    assert shown.exit_code == 3
    assert shown.stdout.startswith("FAIL  smol on 127.0.0.1\nTTFT P50 was ")
    assert f"python -m bringup.smoke {record.resolve()}" in shown.stdout.replace("\n", "")
    as_json = CliRunner().invoke(report, [str(record), "--json"])
    assert json.loads(as_json.stdout) == json.loads(record.read_bytes())


def test_the_report_fits_80_columns_without_colour_and_takes_nothing_as_markup(record: Path) -> None:
    found = read_record(record)
    request = found.request.model_copy(update={"model": "[red]smol[/red]"})
    screen = io.StringIO()
    console = Console(file=screen, width=80, no_color=True)
    console.print(render(found.model_copy(update={"request": request, "reason": "[bold]why[/bold]"}), record))
    text = screen.getvalue()
    assert "\x1b" not in text
    assert max(len(row.rstrip()) for row in text.splitlines()) <= 80
    assert text.startswith("FAIL  [red]smol[/red] on 127.0.0.1\n[bold]why[/bold]\n")
    rows = {" ".join(row.split()[:2]): row.split() for row in text.splitlines()}
    assert rows["TTFT P50"][:5] == ["TTFT", "P50", "FAIL", rows["TTFT P50"][3], "1"]
    assert rows["Failed requests"] == ["Failed", "requests", "PASS", "0", "0", "–", "–"]
    words = " ".join(text.split())
    assert "answer 64 tokens," in words
    assert "P50, P90, P99: nearest rank" in words


def test_a_report_of_nothing_but_failures_can_be_shown(tmp_path: Path) -> None:
    shown = run_smoke(f"http://127.0.0.1:{free_port()}", "--model", "m", "--requests", "1", "--line", "itl_p50_ms=9")
    assert shown.exit_code == 3
    assert "No request succeeded" in shown.stdout
    assert "not measured" in shown.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[]", "is no smoke record"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 2}', "is damaged: started_at: Field required"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_with_the_cause(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BringupError) as caught:
        read_record(path)
    assert str(path) in caught.value.message
    assert says in caught.value.message
