"""What a smoke run is asked for and what it found, as it stands in the JSON record (schema version 2).

Times with `_s` are seconds since the start of the run (`started_at`); durations with `_ms` are milliseconds. How each figure
is defined stands in `bringup.smoke.definitions`.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from bringup.hardware import Frozen
from bringup.smoke.diagnosis.model import Cause
from bringup.smoke.timeline import Timeline

SCHEMA_VERSION: Final = 2

MetricName = Literal[
    "ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms",
    "itl_p50_ms", "itl_p90_ms", "itl_p99_ms",
    "tpot_p50_ms", "tpot_p90_ms", "tpot_p99_ms",
    "e2e_p50_ms", "e2e_p90_ms", "e2e_p99_ms",
    "failed_requests",
]  # fmt: skip
Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
StageName = Literal["smoke", "soak", "ladder", "long", "swap", "quality"]
PromptSet = Literal["advice", "mixed", "synthetic"]
Arrivals = Literal["poisson", "constant"]


def clean_base_url(value: str) -> str:
    """Return the address of a server's root without a trailing `/v1`; ValueError when it is none, or holds a secret."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// address, such as http://127.0.0.1:8000")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold no user, password, query or fragment, since it is kept in the record")
    return value.rstrip("/").removesuffix("/v1")


class AcceptanceLine(Frozen):
    """One figure that must not be exceeded; `at_most` is in milliseconds, or a count for `failed_requests`."""

    metric: MetricName
    at_most: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SmokeRequest(Frozen):
    """What to send, to which server, and the lines that the answers are held against."""

    base_url: Annotated[str, AfterValidator(clean_base_url)]
    """Root of the server, `http://127.0.0.1:8000`; a trailing `/v1` is dropped."""
    model: Annotated[str, Field(min_length=1)]
    """The name under which the server serves the model."""
    api: Literal["chat", "completions"] = "chat"
    """`/v1/chat/completions` or `/v1/completions`."""
    prompt: Annotated[str, Field(min_length=1)] | None = None
    """A text to send each time; None takes the set that `prompts` names."""
    prompts: PromptSet = "advice"
    """Prompts that the project ships: the advice's Chinese one, a mixed set, or synthetic ones of `prompt_tokens`."""
    prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    """Length of the synthetic prompts in tokens, as the server counts them."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    """Exact length of each answer in tokens, where the server can be told to ignore the end-of-sequence token (vLLM)."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Of sampling; None leaves it to the server, as its users get it."""
    requests: Annotated[int, Field(ge=1)] | None = None
    """Measured requests of the stage `smoke`; None: as many as its lines need, as far as `budget_s` allows."""
    budget_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """About how long the stage `smoke` may take when the tool chooses the number of requests."""
    warmup_requests: Annotated[int, Field(ge=0)] = 2
    """Least number of requests sent first and left out of every figure."""
    concurrency: Annotated[int, Field(ge=1)] = 1
    """Requests in flight at once; each is sent when one before it has ended (closed loop)."""
    rate_rps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Requests a second, sent whether or not those before have ended (open loop); None: closed loop."""
    arrivals: Arrivals = "poisson"
    """How open-loop requests are spread over time."""
    seed: int = 0
    """Of the random arrivals, and of synthetic prompts."""
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """Longest time for one request, from sending to the end of its answer."""
    stages: Annotated[tuple[StageName, ...], Field(min_length=1)] = ("smoke",)
    soak_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Length of the stage `soak`."""
    ladder_to: Annotated[int, Field(ge=1)] = 32
    """Highest concurrency of the stage `ladder`."""
    long_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest context (prompt and answer) of the stage `long`; None: the server's own."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters that the stage `swap` changes between, by the names they are served under."""
    demo_model: bool = False
    """True where the model is too small to answer sensibly; the stage `quality` is then skipped."""
    lines: tuple[AcceptanceLine, ...] = ()
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of each bound; a false PASS is at most as likely as the rest."""
    release: Annotated[str, Field(pattern=r"^[0-9A-Za-z._:-]+$")] | None = None  # it becomes part of a file name
    """Digest of the release that is served."""
    host: str
    profile: str | None = None
    api_key_file: Path | None = None
    """File that holds the server's API key; the key itself never enters the request or the record."""
    tls_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the certificate that the server must show, which is then trusted as it is; None: an authority vouches for it."""
    plan_file: Path | None = None
    """The release's plan.json, which goes into the record, with floors for the lines."""
    facts_file: Path | None = None
    """The host's facts as JSON, for the record and the diagnosis."""

    @model_validator(mode="after")
    def _complete(self) -> "SmokeRequest":
        if self.prompts == "synthetic" and self.prompt is None and self.prompt_tokens is None:
            raise ValueError("synthetic prompts need prompt_tokens")
        return self


class Load(Frozen):
    """How one stage loads the server."""

    kind: Literal["closed", "open"]
    concurrency: int | None = None
    """Requests in flight at once; None in open loop."""
    rate_rps: float | None = None
    arrivals: Arrivals | None = None
    prompts: str
    """`advice`, `mixed`, `synthetic`, or `given` for a text of the user's."""
    prompt_tokens: int | None = None
    """What was asked for; samples hold what it was."""
    output_tokens: int
    requests: int | None = None
    """Measured requests that were planned before the first was sent; None where time ends the stage."""


class RequestSample(Frozen):
    """One request as the client saw it; when `error` is set, the times are what was measured before it."""

    intended_s: float = 0.0
    """When it was to be sent. In closed loop the same as `sent_s`; in open loop TTFT and E2E count from here."""
    sent_s: float = 0.0
    ttft_ms: float | None = None
    """To the first chunk with content."""
    itl_ms: tuple[float, ...] = ()
    """Gaps between one chunk with content and the next."""
    e2e_ms: float | None = None
    """To the last chunk with content."""
    tpot_ms: float | None = None
    """(E2E - TTFT) / (completion tokens - 1); None where the server told no count, or one token."""
    prompt_tokens: int | None = None
    """As the server's usage says; None when it reported none."""
    completion_tokens: int | None = None
    """As the server's usage says; None when it reported none."""
    error: str | None = None
    """Why the request failed, in plain words; None when it succeeded."""
    warm_up: bool = False
    """Sent to warm the server up or to keep it loaded to the end; in no figure."""
    prompt_index: int = 0
    """Which prompt of the set it was."""
    model: str | None = None
    """The served name that it asked for, where it is not the request's (stage `swap`)."""


class ServerInfo(Frozen):
    """What the server says about itself; None where it does not say."""

    vllm_version: str | None = None
    max_model_len: int | None = None
    """Longest context of the model in tokens."""
    served_models: tuple[str, ...] = ()
    kv_cache_tokens: int | None = None
    """Tokens that its KV cache holds, as vLLM counts them."""


class Quantiles(Frozen):
    """One metric over the requests that succeeded (ITL: over all their gaps). Percentiles are nearest-rank."""

    p50: float
    p90: float
    p99: float
    mean: float


class Summary(Frozen):
    """Figures of a stage in milliseconds, without warm-up; None where there was nothing to measure."""

    count: int
    """Measured requests, failed ones included."""
    failed: int
    ttft: Quantiles | None = None
    itl: Quantiles | None = None
    tpot: Quantiles | None = None
    e2e: Quantiles | None = None
    output_tokens_per_s: float | None = None
    """Of all streams together, while measured requests ran."""
    requests_per_s: float | None = None
    goodput_rps: float | None = None
    """Requests a second that succeeded within the limits of all lines; None without lines."""


class Stage(Frozen):
    """One part of a run with one load; the stage `ladder` leaves one for each rung, `long` one for each length."""

    name: StageName
    load: Load
    begin_s: float
    end_s: float
    requests: tuple[RequestSample, ...]
    """In the order in which they were to be sent."""
    summary: Summary
    note: str = ""


class SkippedStage(Frozen):
    """A stage that was asked for and not run."""

    name: StageName
    reason: str


class Ladder(Frozen):
    """What the rungs of the ladder say together."""

    knee_concurrency: int | None
    """None where throughput still grew at the highest rung."""
    rule: str
    note: str = ""


class QualityAnswer(Frozen):
    """One fixed question with a checkable answer."""

    key: str
    question: str
    expected: str
    answer: str
    correct: bool


class Quality(Frozen):
    """Whether the model answers sensibly."""

    answers: tuple[QualityAnswer, ...]
    correct: int
    at_least: int
    """Stated before the run."""
    outcome: Outcome
    rule: str


class LineVerdict(Frozen):
    """One acceptance line beside what was measured; units as in AcceptanceLine."""

    metric: MetricName
    at_most: float
    measured: float | None
    outcome: Outcome
    lower: float | None = None
    """One-sided lower bound of the true quantile at `confidence`; None where the samples give none."""
    upper: float | None = None
    """One-sided upper bound, likewise."""
    confidence: float = 0.95
    samples: int = 0
    """Requests that it was judged on, failed ones included: those missed the line."""
    misses: int = 0
    needed: int | None = None
    """Requests that would settle it if the share of misses stayed what it was; None where it is settled or none would."""
    floor_ms: float | None = None
    """What no software can beat on this card, from the plan."""
    ratio_to_floor: float | None = None
    note: str = ""
    """What limits the claim, or why it failed although the number looks right."""


class SmokeReport(Frozen):
    """The record of one smoke run."""

    schema_version: Literal[2] = SCHEMA_VERSION
    started_at: str
    """UTC, ISO 8601."""
    tool_version: str
    host: str
    profile: str | None = None
    release: str | None = None
    measured_from: str = ""
    """Name of the machine that the load came from."""
    request: SmokeRequest
    server: ServerInfo
    plan: dict[str, Any] | None = None
    """The release's plan.json."""
    facts: dict[str, Any] | None = None
    """HostFacts as JSON."""
    stages: tuple[Stage, ...]
    skipped: tuple[SkippedStage, ...] = ()
    ladder: Ladder | None = None
    quality: Quality | None = None
    timeline: Timeline | None = None
    verdicts: tuple[LineVerdict, ...]
    """On the stage `smoke`, or on the first that ran where it did not."""
    outcome: Outcome
    reason: str
    """One sentence on why the run did not pass; empty when it did."""
    causes: tuple[Cause, ...] = ()
    """Why a line was missed, most likely first."""

    @property
    def passed(self) -> bool:
        """Whether every line is proven."""
        return self.outcome == "PASS"


def validation_sentence(error: ValidationError) -> str:
    """Say all that pydantic found as one sentence for people, without the offending values."""
    return "; ".join(
        f"{'.'.join(map(str, found['loc'])) or 'the document'}: {found['msg'].removeprefix('Value error, ')}"
        for found in error.errors(include_url=False, include_input=False)
    )
