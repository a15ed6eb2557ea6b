"""One smoke run from request to record: the part that reads files, talks to the server and writes the record."""

import asyncio
import gc
import json
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import ValidationError

from bringup import __version__
from bringup.errors import BringupError
from bringup.smoke.client import Client, session
from bringup.smoke.diagnosis.diagnose import diagnose
from bringup.smoke.load import OnSample
from bringup.smoke.model import (
    LineVerdict,
    Outcome,
    RequestSample,
    ServerInfo,
    SmokeReport,
    SmokeRequest,
    validation_sentence,
)
from bringup.smoke.sampler.sampler import Sampler
from bringup.smoke.stages import Bench, Found
from bringup.smoke.timeline import Timeline
from bringup.smoke.verdict import floors_of, judge, overall

EXIT_PASSED, EXIT_COULD_NOT_RUN, EXIT_FAILED, EXIT_INCONCLUSIVE = 0, 1, 3, 4
EXIT_CODES = "Exit code: 0 every line proven, 3 a line refuted, 4 neither (inconclusive), 1 could not run, 2 wrong usage."
"""Exit codes of a smoke run, here and in `bringup smoke`."""

_JUDGED = ("smoke", "soak")
"""Stages whose requests are held against the lines; the first that ran counts. The others load the server in ways that the lines
are not about."""
_SAY_EVERY_S = 1.0
OUTCOME = "latest.outcome.json"
"""Beside `latest.json`: its request and its outcome alone."""
_KEEP_RECORDS = 50
_RECORD_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-.+\.json")


def read_request(path: Path, changes: Mapping[str, Any] | None = None) -> SmokeRequest:
    """Read a request from a JSON file, or that of an earlier run from its record, with some values replaced.

    Raises:
        BringupError: there is none, or a value cannot be used.
    """
    try:
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and "schema_version" in document:
            document = document.get("request")
        if changes and isinstance(document, dict):
            document |= changes
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


def run_smoke(request: SmokeRequest, on_sample: OnSample, sample: bool = True) -> SmokeReport:
    """Put the load on the server and judge what came back; a server that does not answer is a failed report.

    Args:
        request: what to do.
        on_sample: called after each request.
        sample: whether card, CPUs, processes and the server's own figures are sampled beside the load.

    Raises:
        BringupError: the API key, the plan or the facts cannot be read.
    """
    api_key = read_api_key(request.api_key_file)
    plan, facts = _read_document(request.plan_file, "plan"), _read_document(request.facts_file, "facts")
    started_at, zero = datetime.now(UTC), perf_counter()
    server, found, timeline = asyncio.run(_run_stages(request, api_key, on_sample, zero, plan if sample else None, sample))
    judged = next((stage for stage in found.stages if stage.name in _JUDGED), None)
    samples: tuple[RequestSample, ...] = judged.requests if judged else ()
    verdicts: tuple[LineVerdict, ...] = ()
    outcome, reason = _without_load(found)
    if judged is not None:
        floors = floors_of(plan, request.prompt, request.max_tokens)
        unsent = max(0, (judged.load.requests or 0) - judged.summary.count)
        verdicts = judge(samples, request.lines, request.max_tokens, request.confidence, floors, unsent)
        outcome, reason = overall(samples, verdicts)
    if found.quality is not None and found.quality.outcome == "FAIL":
        correct = f"{found.quality.correct} of {len(found.quality.answers)} fixed questions were answered correctly"
        reason = "; ".join(filter(None, (reason, f"{correct}, fewer than {found.quality.at_least}")))
        outcome = "FAIL"
    report = SmokeReport(
        started_at=started_at.isoformat(timespec="microseconds"),
        tool_version=__version__,
        host=request.host,
        profile=request.profile,
        release=request.release,
        measured_from=socket.gethostname(),
        request=request,
        server=server,
        plan=plan,
        facts=facts,
        stages=found.stages,
        skipped=found.skipped,
        ladder=found.ladder,
        quality=found.quality,
        timeline=timeline,
        verdicts=verdicts,
        outcome=outcome,
        reason=reason,
    )
    return report.model_copy(update={"causes": diagnose(report)})


async def _run_stages(
    request: SmokeRequest, api_key: str | None, on_sample: OnSample, zero: float, plan: dict[str, Any] | None, sample: bool
) -> tuple[ServerInfo, Found, Timeline | None]:
    gpu = plan.get("gpu") if plan else None
    expected_s = request.soak_s if "soak" in request.stages else request.budget_s
    sampler = Sampler(request.base_url, zero, gpu if isinstance(gpu, str) else None, expected_s) if sample else None
    async with session(api_key, request.timeout_s, request.tls_sha256) as opened, sampler or nullcontext():
        client = Client(opened, request, api_key, zero)
        server = await client.look_at_server()
        # what lives now lives to the end: the collector need not look at it while requests are timed
        gc.collect()
        gc.freeze()
        try:
            found = await Bench(client, request, server, on_sample).run()
        finally:
            gc.unfreeze()
    return server, found, sampler.timeline if sampler else None


def _without_load(found: Found) -> tuple[Outcome, str]:
    """Return the outcome where no stage was held against lines."""
    if found.quality is not None:
        return found.quality.outcome, ""
    if found.stages and any(not stage.summary.failed and stage.summary.count for stage in found.stages):
        return "PASS", ""
    if found.stages:
        errors = [sample.error for stage in found.stages for sample in stage.requests if sample.error]
        return "FAIL", f"No stage went without failed requests; the first failed with: {errors[0] if errors else 'none was sent'}"
    return "INCONCLUSIVE", "; ".join(f"{stage.name} was skipped: {stage.reason}" for stage in found.skipped)


def _read_document(path: Path | None, what: str) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise BringupError(f"Cannot read the {what} {path}: {error.strerror}.") from None
    except ValueError as error:
        raise BringupError(f"The {what} {path} is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise BringupError(f"The {what} {path} is no JSON object.")
    return document


def exit_code(report: SmokeReport) -> int:
    """Return the exit code that tells the outcome."""
    return {"PASS": EXIT_PASSED, "FAIL": EXIT_FAILED, "INCONCLUSIVE": EXIT_INCONCLUSIVE}[report.outcome]


class Progress:
    """Tells people how far a run is: the first, the last and each failed request of a phase, and one a second in between.

    A line costs the client some time, which the requests in flight would be charged with.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Take what a line is given to."""
        self._say = say
        self._phase = ""
        self._said_at = 0.0

    def __call__(self, phase: str, ended: int, count: int | None, sample: RequestSample) -> None:
        """Take note of a request that has ended."""
        now = perf_counter()
        if phase == self._phase and ended != count and sample.error is None and now - self._said_at < _SAY_EVERY_S:
            return
        self._phase, self._said_at = phase, now
        self._say(progress_line(phase, ended, count, sample))


def progress_line(phase: str, ended: int, count: int | None, sample: RequestSample) -> str:
    """Return what people see after a request."""
    head = f"{phase} {ended}" if count is None else f"{phase} {ended}/{count}"
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
    """Write the record, point `latest.json` at it, put its outcome beside it, drop all but the newest 50, and return its path.

    A reader sees the old record or the new one, never half of one. BringupError when the folder cannot be written to.
    """
    stamp = datetime.fromisoformat(report.started_at).strftime("%Y%m%dT%H%M%S.%fZ")
    record = folder / f"{stamp}-{report.request.release or 'none'}.json"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:  # same file system: rename is atomic
            draft = Path(scratch) / "record"
            draft.write_text(report.model_dump_json() + "\n", encoding="utf-8")
            draft.chmod(0o644)
            draft.replace(record)
            # what a deploy reads of it at each run; the whole has hundreds of kilobytes
            outcome = {"request": report.request.model_dump(mode="json"), "outcome": report.outcome}
            brief = Path(scratch) / "brief"
            brief.write_text(json.dumps(outcome, ensure_ascii=False) + "\n", encoding="utf-8")
            brief.chmod(0o644)
            brief.replace(folder / OUTCOME)
            link = Path(scratch) / "latest"
            link.symlink_to(record.name)
            link.replace(folder / "latest.json")
        for old in sorted(path for path in folder.iterdir() if _RECORD_NAME.fullmatch(path.name))[:-_KEEP_RECORDS]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise BringupError(f"Cannot write the record to {folder}: {error.strerror}.") from None
    return record
