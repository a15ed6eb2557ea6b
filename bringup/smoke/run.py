"""One smoke run from request to record: the part that reads files, talks to the server and writes the record."""

import asyncio
import json
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from pydantic import ValidationError

from bringup import __version__
from bringup.errors import BringupError
from bringup.smoke.load import OnSample, run_load
from bringup.smoke.model import Load, RequestSample, SmokeReport, SmokeRequest, Stage, validation_sentence
from bringup.smoke.summary import summarise
from bringup.smoke.verdict import judge, overall

EXIT_PASSED, EXIT_COULD_NOT_RUN, EXIT_FAILED, EXIT_INCONCLUSIVE = 0, 1, 3, 4
"""Exit codes of a smoke run, here and in `bringup smoke`."""

_KEEP_RECORDS = 50
_RECORD_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-.+\.json")


def read_request(path: Path) -> SmokeRequest:
    """Read a request from a JSON file, or that of an earlier run from its record; BringupError when there is none."""
    try:
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and "schema_version" in document:
            document = document.get("request")
        return SmokeRequest.model_validate_json(json.dumps(document))
    except OSError as error:
        raise BringupError(f"Cannot read the request {path}: {error.strerror}.") from None
    except ValidationError as error:
        raise BringupError(f"The request {path} is not valid: {validation_sentence(error)}.") from None
    except ValueError as error:
        raise BringupError(f"The request {path} is not JSON: {error}.") from None


def read_api_key(path: Path | None) -> str | None:
    """Return the key that the file holds, None without a file; BringupError when it cannot be a key."""
    if path is None:
        return None
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BringupError(f"Cannot read the API key file {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        key = ""
    if not key or not key.isprintable() or " " in key:
        raise BringupError(f"The API key file {path} must hold one key on one line and nothing else.")
    return key


def run_smoke(request: SmokeRequest, on_sample: OnSample) -> SmokeReport:
    """Put the load on the server and judge what came back; a server that does not answer is a failed report.

    BringupError when the API key cannot be read.
    """
    api_key = read_api_key(request.api_key_file)
    started_at, began = datetime.now(UTC), perf_counter()
    server, samples = asyncio.run(run_load(request, api_key, on_sample))
    verdicts = judge(samples, request.lines, request.max_tokens, request.confidence)
    outcome, reason = overall(samples, verdicts)
    load = Load(kind="closed", concurrency=request.concurrency, prompts="given", output_tokens=request.max_tokens)
    stage = Stage(
        name="smoke",
        load=load,
        begin_s=0,
        end_s=perf_counter() - began,
        requests=samples,
        summary=summarise(samples, request.lines),
    )
    return SmokeReport(
        started_at=started_at.isoformat(timespec="microseconds"),
        tool_version=__version__,
        host=request.host,
        profile=request.profile,
        release=request.release,
        request=request,
        server=server,
        stages=(stage,),
        verdicts=verdicts,
        outcome=outcome,
        reason=reason,
    )


def exit_code(report: SmokeReport) -> int:
    """Return the exit code that tells the outcome."""
    return {"PASS": EXIT_PASSED, "FAIL": EXIT_FAILED, "INCONCLUSIVE": EXIT_INCONCLUSIVE}[report.outcome]


def progress_line(request: SmokeRequest, phase: str, ended: int, sample: RequestSample) -> str:
    """Return what people see after each request."""
    head = f"{phase} {ended}/{request.warmup_requests if phase == 'warm-up' else request.requests or 29}"
    if sample.error is not None or sample.ttft_ms is None or sample.e2e_ms is None:
        return f"{head}: failed: {sample.error}"
    tokens = "unknown" if sample.completion_tokens is None else sample.completion_tokens
    return f"{head}: TTFT {sample.ttft_ms:.0f} ms, {tokens} tokens in {sample.e2e_ms / 1000:.1f} s"


def prepare_record_dir(folder: Path) -> None:
    """Make the folder for records before the load is run; BringupError when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BringupError(f"Cannot write records to {folder}: {error.strerror}.") from None


def write_record(report: SmokeReport, folder: Path) -> Path:
    """Write the record, point `latest.json` at it, drop all but the newest 50, and return its path.

    A reader sees the old record or the new one, never half of one. BringupError when the folder cannot be written to.
    """
    stamp = datetime.fromisoformat(report.started_at).strftime("%Y%m%dT%H%M%S.%fZ")
    record = folder / f"{stamp}-{report.request.release or 'none'}.json"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:  # same file system: rename is atomic
            draft = Path(scratch) / "record"
            draft.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
            draft.chmod(0o644)
            draft.replace(record)
            link = Path(scratch) / "latest"
            link.symlink_to(record.name)
            link.replace(folder / "latest.json")
        for old in sorted(path for path in folder.iterdir() if _RECORD_NAME.fullmatch(path.name))[:-_KEEP_RECORDS]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise BringupError(f"Cannot write the record to {folder}: {error.strerror}.") from None
    return record
