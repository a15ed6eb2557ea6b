"""What a smoke run is asked for and what it found: request, samples and report, as they stand in the JSON record."""

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION: Final = 1

MetricName = Literal["ttft_p50_ms", "ttft_p90_ms", "itl_p50_ms", "itl_p90_ms", "e2e_p50_ms", "e2e_p90_ms", "failed_requests"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def clean_base_url(value: str) -> str:
    """Return the address of a server's root without a trailing `/v1`; ValueError when it is none, or holds a secret."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address, such as http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold no user, password, query or fragment, since it is kept in the record")
    return value.rstrip("/").removesuffix("/v1")


class AcceptanceLine(_Frozen):
    """One figure that must not be exceeded; `at_most` is in milliseconds, or a count for `failed_requests`."""

    metric: MetricName
    at_most: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SmokeRequest(_Frozen):
    """What to send, to which server, and the lines that the answers are held against."""

    base_url: Annotated[str, AfterValidator(clean_base_url)]
    """Root of the server, `http://127.0.0.1:8000`; a trailing `/v1` is dropped."""
    model: Annotated[str, Field(min_length=1)]
    """The name under which the server serves the model."""
    prompt: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    """Exact length of each answer in tokens: the server is told to ignore the end-of-sequence token."""
    requests: Annotated[int, Field(ge=1)] = 10
    warmup_requests: Annotated[int, Field(ge=0)] = 2
    """Requests sent first and left out of every figure."""
    concurrency: Annotated[int, Field(ge=1)] = 1
    """Requests in flight at once; each is sent when one before it has ended (closed loop)."""
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """Longest time for one request, from sending to the end of its answer."""
    lines: tuple[AcceptanceLine, ...] = ()
    release: Annotated[str, Field(pattern=r"^[0-9A-Za-z._:-]+$")] | None = None  # it becomes part of a file name
    """Digest of the release that is served."""
    host: str
    profile: str | None = None
    api_key_file: Path | None = None
    """File that holds the server's API key; the key itself never enters the request or the record."""


class RequestSample(_Frozen):
    """One request as the client saw it; when `error` is set, the times are what was measured before it."""

    ttft_ms: float | None = None
    """From sending the request to the first chunk with content."""
    itl_ms: tuple[float, ...] = ()
    """Gaps between one chunk with content and the next."""
    e2e_ms: float | None = None
    """From sending the request to the last chunk with content."""
    prompt_tokens: int | None = None
    """As the server's usage says; None when it reported none."""
    completion_tokens: int | None = None
    """As the server's usage says; None when it reported none."""
    error: str | None = None
    """Why the request failed, in plain words; None when it succeeded."""


class ServerInfo(_Frozen):
    """What the server says about itself; None where it does not say."""

    vllm_version: str | None = None
    max_model_len: int | None = None
    """Longest context of the model in tokens."""


class SmokeSummary(_Frozen):
    """Figures over the requests that succeeded, in milliseconds; None where there was nothing to measure.

    Percentiles are nearest-rank; those of ITL are taken over all gaps of all requests.
    """

    ttft_p50_ms: float | None
    ttft_p90_ms: float | None
    itl_p50_ms: float | None
    itl_p90_ms: float | None
    e2e_p50_ms: float | None
    e2e_p90_ms: float | None
    failed_requests: int
    output_tokens_per_s: float | None
    """Output tokens over the sum of E2E times: the speed of one stream, not of the server under load."""


class LineVerdict(_Frozen):
    """One acceptance line beside what was measured; units as in AcceptanceLine."""

    metric: MetricName
    at_most: float
    measured: float | None
    passed: bool
    note: str = ""
    """What limits the claim, or why it failed although the number looks right."""


class SmokeReport(_Frozen):
    """The record of one smoke run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    started_at: str
    """UTC, ISO 8601."""
    tool_version: str
    request: SmokeRequest
    server: ServerInfo
    samples: tuple[RequestSample, ...]
    """The measured requests in the order in which they ended, without the warm-up."""
    summary: SmokeSummary
    verdicts: tuple[LineVerdict, ...]
    passed: bool
    reason: str
    """One sentence on why the run failed; empty when it passed."""


def validation_sentence(error: ValidationError) -> str:
    """Say all that pydantic found as one sentence for people, without the offending values."""
    return "; ".join(
        f"{'.'.join(map(str, found['loc'])) or 'the document'}: {found['msg'].removeprefix('Value error, ')}"
        for found in error.errors(include_url=False, include_input=False)
    )
