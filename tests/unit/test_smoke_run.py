"""`python -m bringup.smoke` as the host runs it: from a zip, with a request file, exit codes and records."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.smoke.model import SmokeReport
from bringup.smoke.run import OUTCOME, read_api_key, write_record
from deploys.bundle import host_bundle
from tests.unit.fake_openai import FakeOpenAI, free_port, serving


@pytest.fixture(scope="module")
def zipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the deploy sends to the host."""
    archive = tmp_path_factory.mktemp("zip") / "bringup.zip"
    archive.write_bytes(host_bundle())
    return archive


def smoke(zipped: Path, request: Path, records: Path) -> subprocess.CompletedProcess[str]:
    # -S and a path of our own keep the editable install out: bringup comes from the zip or not at all
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    forbidden = "import sys; sys.modules.update(dict.fromkeys(['click', 'rich', 'yaml', 'jinja2', 'pyinfra']))"
    program = f"{forbidden}; import runpy; runpy.run_module('bringup.smoke', run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-S", "-c", program, str(request), "--record-dir", str(records)],
        env={**os.environ, "PYTHONPATH": f"{zipped}:{packages}"},
        cwd=request.parent,
        text=True,
        capture_output=True,
        timeout=60,
    )


def ask(folder: Path, base_url: object, **changes: object) -> Path:
    asked = {"base_url": base_url, "model": "smol", "prompt": "Hello", "max_tokens": 4, "requests": 3, "host": "lab1"}
    path = folder / "request.json"
    path.write_text(json.dumps({**asked, **changes}))
    return path


def test_a_run_from_the_zip_passes_and_leaves_a_record(zipped: Path, tmp_path: Path) -> None:
    records = tmp_path / "new" / "records"
    lines = [{"metric": "e2e_p50_ms", "at_most": 30000}]
    with serving(FakeOpenAI(ttft_s=0.01)) as url:
        ran = smoke(zipped, ask(tmp_path, url, lines=lines, release="ab12cd", requests=5), records)
    assert ran.returncode == 0, ran.stderr
    *progress, final = ran.stdout.splitlines()
    said = [text.split(":")[0] for text in progress]
    assert [text for text in said if text.endswith(("1/2", "2/2", "1/5", "5/5"))] == [
        "warm-up 1/2", "warm-up 2/2", "smoke 1/5", "smoke 5/5",
    ]  # fmt: skip
    assert "4 tokens in" in progress[-1]
    [record] = [path for path in records.iterdir() if not path.name.startswith("latest.")]
    assert record.name.endswith("Z-ab12cd.json")
    assert final == f"PASS (record: {record})"
    assert record.stat().st_mode & 0o777 == 0o644
    assert (records / "latest.json").readlink() == Path(record.name)
    report = SmokeReport.model_validate_json(record.read_bytes())
    assert report.passed
    assert report.server.vllm_version == "0.32.0"
    brief = json.loads((records / OUTCOME).read_bytes())
    assert brief == {"request": report.request.model_dump(mode="json"), "outcome": "PASS"}
    assert [(verdict.metric, verdict.outcome) for verdict in report.verdicts] == [
        ("e2e_p50_ms", "PASS"),
        ("failed_requests", "PASS"),
    ]
    assert report.stages[0].summary.count == 5


def test_a_missed_line_exits_3_and_leaves_the_record(zipped: Path, tmp_path: Path) -> None:
    lines = [{"metric": "ttft_p50_ms", "at_most": 5}]
    with serving(FakeOpenAI(ttft_s=0.02)) as url:
        ran = smoke(zipped, ask(tmp_path, url, lines=lines, requests=5), tmp_path / "records")
    assert ran.returncode == 3
    assert "FAIL: TTFT P50 was" in ran.stdout
    report = SmokeReport.model_validate_json((tmp_path / "records" / "latest.json").read_bytes())
    assert not report.passed
    assert report.reason in ran.stdout


def test_too_few_requests_exit_4_and_say_how_many_it_takes(zipped: Path, tmp_path: Path) -> None:
    lines = [{"metric": "ttft_p90_ms", "at_most": 30000}]
    with serving(FakeOpenAI()) as url:
        ran = smoke(zipped, ask(tmp_path, url, lines=lines), tmp_path / "records")
    assert ran.returncode == 4
    assert "INCONCLUSIVE: TTFT P90 at most 30000.0 ms is neither proven nor refuted" in ran.stdout
    assert "about 29 requests would settle it" in ran.stdout


def test_a_server_that_is_down_is_a_failed_run_with_a_record(zipped: Path, tmp_path: Path) -> None:
    ran = smoke(zipped, ask(tmp_path, f"http://127.0.0.1:{free_port()}"), tmp_path / "records")
    assert ran.returncode == 3
    assert "smoke 1/3: failed: cannot connect" in ran.stdout
    assert "No request succeeded; 3 of 3 failed with: cannot connect to" in ran.stdout
    assert (tmp_path / "records" / "latest.json").exists()


def test_a_record_can_be_run_again(zipped: Path, tmp_path: Path) -> None:
    with serving(FakeOpenAI()) as url:
        smoke(zipped, ask(tmp_path, url, requests=1), tmp_path / "records")
        again = smoke(zipped, tmp_path / "records" / "latest.json", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    first, second = (
        SmokeReport.model_validate_json((tmp_path / folder / "latest.json").read_bytes()).request for folder in ("records", "again")
    )
    assert first == second


@pytest.mark.parametrize("text", [None, "{", "[]", '{"schema_version": 2}'])
def test_a_request_file_that_is_none_exits_1_and_is_named(zipped: Path, tmp_path: Path, text: str | None) -> None:
    request = tmp_path / "request.json"
    if text is not None:
        request.write_text(text)
    ran = smoke(zipped, request, tmp_path / "records")
    assert ran.returncode == 1
    assert str(request) in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"base_url": "ftp://host"}, "base_url: must be an http:// or https:// address"),
        ({"base_url": "http://user:secret@host"}, "base_url: must hold no user, password"),
        ({"lines": [{"metric": "speed", "at_most": 1}]}, "lines.0.metric: "),
        ({"release": "../../etc/passwd"}, "release: "),
        ({"api_key_file": "/nonexistent/key"}, "API key file /nonexistent/key"),
    ],
)
def test_a_request_that_cannot_be_run_exits_1_with_a_sentence(
    zipped: Path, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    request = ask(tmp_path, **{"base_url": f"http://127.0.0.1:{free_port()}", **change})
    ran = smoke(zipped, request, tmp_path / "records")
    assert ran.returncode == 1
    assert says in ran.stderr
    assert "secret" not in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not list((tmp_path / "records").glob("*.json"))


def test_a_record_folder_that_is_a_file_is_refused_before_the_load(zipped: Path, tmp_path: Path) -> None:
    fake = FakeOpenAI()
    (tmp_path / "records").touch()
    with serving(fake) as url:
        ran = smoke(zipped, ask(tmp_path, url), tmp_path / "records")
    assert ran.returncode == 1
    assert f"Cannot write records to {tmp_path / 'records'}" in ran.stderr
    assert fake.bodies == []


def test_the_newest_50_records_are_kept_and_other_files_are_left_alone(zipped: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    smoke(zipped, ask(tmp_path, f"http://127.0.0.1:{free_port()}", requests=1, warmup_requests=0), records)
    latest = records / "latest.json"
    report = SmokeReport.model_validate_json(latest.read_bytes())
    latest.resolve().unlink()
    (records / "notes.json").touch()
    start = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)
    names = [
        write_record(report.model_copy(update={"started_at": (start + timedelta(seconds=n)).isoformat()}), records).name
        for n in range(53)
    ]
    assert {path.name for path in records.iterdir()} == {*names[3:], "latest.json", OUTCOME, "notes.json"}
    assert latest.readlink() == Path(names[-1])


def test_the_api_key_is_read_without_its_newline_and_anything_else_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\n")
    assert read_api_key(key) == "sesame"
    assert read_api_key(None) is None
    for wrong in ("", "two\nlines", "Bearer sesame", "schlüssel"):
        key.write_text(wrong)
        with pytest.raises(BringupError, match="must hold one key"):
            read_api_key(key)
