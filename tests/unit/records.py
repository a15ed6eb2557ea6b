"""Smoke records for the tests of reports: composed, with the times of a simulated server, judged by the real verdict code.

Nothing here was measured. Each record is that of one case: healthy, a missed line, too few requests, a busy core, a hot card, a
server that answers nothing, a machine without a card.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from bringup.catalog import load_catalog
from bringup.plan import make_plan
from bringup.settings import Settings
from bringup.smoke.diagnosis.model import Cause
from bringup.smoke.model import (
    AcceptanceLine,
    Ladder,
    Load,
    Quality,
    QualityAnswer,
    RequestSample,
    ServerInfo,
    SkippedStage,
    SmokeReport,
    SmokeRequest,
    Stage,
    StageName,
)
from bringup.smoke.summary import summarise
from bringup.smoke.timeline import SampledCard, SampledProcess, Series, SeriesName, Timeline
from bringup.smoke.verdict import floors_of, judge, overall
from tests.unit.machines import demo_host, workstation

CARD = "0000:01:00.0"
MODEL = "Qwen/Qwen3-4B-Instruct-2507"
REVISION = "cdbee75f17c01a7cc42f958dc650907174af0554"
STARTED = datetime(2026, 11, 25, 3, 0, 0, tzinfo=UTC)
ANSWER_TOKENS = 256
Fault = Literal["none", "busy-core", "hot-card"]


class Server(NamedTuple):
    """A simulated server's times."""

    ttft_ms: float = 38.0
    token_ms: float = 8.9
    spread: float = 0.03
    stall_every: int = 0
    """Each so many requests, one gap is a second long; 0: none."""


def gpu_plan(**data: Any) -> dict[str, Any]:
    """The plan of the composed workstation, as its release keeps it."""
    settings = Settings.model_validate({"acceptance": {"ttft_p50_ms": 240, "e2e_p90_ms": 2600}, **data})
    return dict(json.loads(make_plan(workstation(), settings, load_catalog(), REVISION).record()))


def answered(
    server: Server, at_s: float, rng: random.Random, load: int = 1, tokens: int = ANSWER_TOKENS, index: int = 0
) -> RequestSample:
    """One request that the server answered while `load` requests were in flight."""
    crowd = max(1.0, load / 16)
    ttft = server.ttft_ms * crowd * rng.lognormvariate(0, 0.12) + 2 * (load - 1)
    gaps = [server.token_ms * (1 + load / 40) * crowd * rng.lognormvariate(0, server.spread) for _ in range(tokens - 1)]
    if server.stall_every and index % server.stall_every == server.stall_every - 1:
        gaps[tokens // 2] += 1000
    gaps = [round(gap, 3) for gap in gaps]
    e2e = ttft + sum(gaps)
    return RequestSample(
        intended_s=round(at_s, 6),
        sent_s=round(at_s, 6),
        ttft_ms=round(ttft, 3),
        itl_ms=tuple(gaps),
        e2e_ms=round(e2e, 3),
        tpot_ms=round((e2e - ttft) / (tokens - 1), 3),
        prompt_tokens=132,
        completion_tokens=tokens,
    )


def closed_stage(
    name: StageName,
    server: Server,
    rng: random.Random,
    begin_s: float,
    requests: int,
    concurrency: int = 1,
    lines: Sequence[AcceptanceLine] = (),
    error: str | None = None,
) -> Stage:
    """Requests, each sent when one before it ended, after two to warm up."""
    free = [begin_s] * concurrency
    samples = []
    for index in range(requests + 2):
        at_s = min(free)
        slot = free.index(at_s)
        sample = answered(server, at_s, rng, concurrency, index=index)
        if error is not None:
            sample = RequestSample(intended_s=at_s, sent_s=at_s, error=error)
        free[slot] = at_s + (sample.e2e_ms or 5.0) / 1000 + 0.001
        samples.append(sample.model_copy(update={"warm_up": index < 2}))
    load = Load(kind="closed", concurrency=concurrency, prompts="advice", output_tokens=ANSWER_TOKENS, requests=requests)
    return Stage(
        name=name, load=load, begin_s=begin_s, end_s=round(max(free), 3), requests=tuple(samples), summary=summarise(samples, lines)
    )


def timeline(end_s: float, fault: Fault, rng: random.Random, stages: Sequence[Stage], card: bool = True) -> Timeline:
    """Samples at 5 Hz; the server's own figures at 1 Hz, so with gaps."""
    at_s = tuple(round(index / 5, 3) for index in range(int(end_s * 5)))

    def busy(at: float) -> float:
        return float(any(stage.begin_s <= at <= stage.end_s for stage in stages))

    def in_flight(at: float) -> float:
        return float(next((stage.load.concurrency or 0 for stage in stages if stage.begin_s <= at <= stage.end_s), 0))

    def column(name: SeriesName, unit: str, of: str, text: str, value: Callable[[float], float | None]) -> Series:
        found = (value(at) for at in at_s)
        return Series(
            name=name, unit=unit, of=of, label=text, values=tuple(None if one is None else round(one, 2) for one in found)
        )

    def slow(value: Callable[[float], float]) -> Callable[[float], float | None]:
        return lambda at: value(at) if round(at * 5) % 5 == 0 else None

    swing = 45.0 if fault == "busy-core" else 3.0
    heat: Callable[[float], float] = lambda at: min(88.0, 55 + at * 1.5) if fault == "hot-card" else 62 + 3 * math.sin(at / 9)  # noqa: E731
    hot: Callable[[float], bool] = lambda at: fault == "hot-card" and heat(at) >= 83  # noqa: E731
    series = []
    if card:
        series += [
            column("gpu_util_percent", "%", CARD, "", lambda at: busy(at) * max(0.0, 96 - swing * rng.random())),
            column("gpu_memory_mib", "MiB", CARD, "", lambda at: 20950 + 4 * busy(at)),
            column("sm_clock_mhz", "MHz", CARD, "", lambda at: 1455.0 if hot(at) else 2520 - 30 * rng.random()),
            column("power_w", "W", CARD, "", lambda at: 40 + busy(at) * (260 + 20 * rng.random())),
            column("temperature_c", "°C", CARD, "", heat),
            column("throttle_reasons", "", CARD, "", lambda at: 0x20 if hot(at) else 0x0 if busy(at) else 0x1),
        ]
    for core in range(8):
        high = 99.5 if fault == "busy-core" and core == 3 else 22.0 if core else 55.0
        series.append(
            column(
                "core_busy_percent",
                "%",
                str(core),
                f"CPU {core}",
                lambda at, high=high: busy(at) * high * (0.97 + 0.03 * rng.random()),
            )  # type: ignore[misc]
        )
    series += [
        column("process_cpu_percent", "%", "4711", "VLLM::EngineCore (4711)", lambda at: busy(at) * (70 + 8 * rng.random())),
        column("process_cpu_percent", "%", "4710", "vllm (4710)", lambda at: busy(at) * (25 + 8 * rng.random())),
        column(
            "run_queue_delay_ms_per_s", "ms/s", "4711", "VLLM::EngineCore (4711)", lambda at: 400.0 if fault == "busy-core" else 2.0
        ),
        column("requests_running", "", "", "", slow(in_flight)),
        column("requests_waiting", "", "", "", slow(lambda at: max(0.0, in_flight(at) - 16))),
        column("kv_use_percent", "%", "", "", slow(lambda at: in_flight(at) * 0.5)),
    ]
    cards = (
        (SampledCard(pci_address=CARD, name="NVIDIA GeForce RTX 4090 D", max_sm_clock_mhz=3105, power_limit_w=425.0),)
        if card
        else ()
    )
    processes = (SampledProcess(pid=4711, name="VLLM::EngineCore", role="engine", cpus=tuple(range(8)), threads=30),)
    return Timeline(interval_s=0.2, at_s=at_s, series=tuple(series), cards=cards, processes=processes, sampler_cpu_percent=0.6)


BUSY_CORE = Cause(
    key="cpu-saturated",
    title="The card waits for one busy core",
    evidence=("CPU 3 was 99 % busy, the others 22 % and 55 %", "GPU utilisation swung between 51 and 96 %"),
    confidence="high",
    fix="Give the server cores of its own: service.cpus in the plan names them; something else runs on CPU 3.",
)
HOT_CARD = Cause(
    key="throttled-thermal",
    title="The card slowed itself down because it was too hot",
    evidence=("sw_thermal_slowdown in 62 % of the samples", "SM clock fell from 2,505 to 1,455 MHz at 83 °C"),
    confidence="high",
    fix="Mend the cooling: fans, dust, the airflow of the case.",
)


def composed(
    host: str = "gpu-1",
    server: Server | None = None,
    requests: int = 40,
    lines: dict[str, float] | None = None,
    ladder: bool = False,
    fault: Fault = "none",
    causes: tuple[Cause, ...] = (),
    error: str | None = None,
    seed: int = 1,
    card: bool = True,
    with_plan: bool = True,
    soak_requests: int = 0,
    started: datetime = STARTED,
    concurrency: int = 1,
    release: str | None = "0a1b2c3d4e5f",
) -> SmokeReport:
    """One record."""
    rng, server = random.Random(seed), server or Server()  # noqa: S311 (no secret)
    plan = None if not with_plan else gpu_plan() if card else cpu_plan()
    accepted = tuple(
        AcceptanceLine.model_validate({"metric": metric, "at_most": at_most})
        for metric, at_most in (lines or {"ttft_p50_ms": 240, "e2e_p90_ms": 2600}).items()
    )
    request = SmokeRequest(
        base_url="http://127.0.0.1:8000",
        model=MODEL,
        prompt=plan["smoke"]["prompt"] if plan else None,
        max_tokens=ANSWER_TOKENS,
        concurrency=concurrency,
        lines=accepted,
        release=release,
        host=host,
        profile="interactive",
    )
    stages = [closed_stage("smoke", server, rng, 0.4, requests, concurrency, lines=accepted, error=error)]
    if soak_requests:
        stages.append(closed_stage("soak", server, rng, stages[-1].end_s + 0.5, soak_requests, concurrency, lines=accepted))
    if ladder:
        for rung in (1, 2, 4, 8, 16, 32):
            stages.append(closed_stage("ladder", server, rng, stages[-1].end_s + 0.5, 2 * rung + 4, rung))
    samples = stages[0].requests
    verdicts = judge(samples, accepted, ANSWER_TOKENS, floors=floors_of(plan, request.prompt, ANSWER_TOKENS))
    outcome, reason = overall(samples, verdicts)
    return SmokeReport(
        started_at=started.isoformat(timespec="microseconds"),
        tool_version="0.1.0",
        host=host,
        profile="interactive",
        release=release,
        measured_from=host,
        request=request,
        server=ServerInfo(vllm_version="0.33.0", max_model_len=32768, served_models=(MODEL,), kv_cache_tokens=74_432),
        plan=plan,
        stages=tuple(stages),
        skipped=(SkippedStage(name="swap", reason="the plan has no LoRA adapters"),),
        ladder=Ladder(knee_concurrency=16, rule="the last rung that brought at least 10 % more tokens/s than the one before")
        if ladder
        else None,
        quality=quality() if ladder else None,
        timeline=timeline(stages[-1].end_s + 0.4, fault, rng, stages, card),
        verdicts=verdicts,
        outcome=outcome,
        reason=reason,
        causes=causes,
    )


def quality() -> Quality:
    """Two questions, one answered wrongly and with markup in it."""
    answers = (
        QualityAnswer(key="sum", question="What is 17 × 23? Only the number.", expected="391", answer="391", correct=True),
        QualityAnswer(
            key="code",
            question="Which tag starts a list in HTML?",
            expected="<ul>",
            answer="<script>alert(1)</script>",
            correct=False,
        ),
    )
    return Quality(answers=answers, correct=1, at_least=1, outcome="PASS", rule="at least half of the questions")


def cpu_plan() -> dict[str, Any]:
    """The plan of a machine without a card."""
    source = {"kind": "control-folder", "path": "/models/smollm2"}
    settings = Settings.model_validate({"profile": "cpu-demo", "model": "smollm2-135m", "model_source": source})
    return dict(json.loads(make_plan(demo_host(), settings, load_catalog(), REVISION).record()))


def healthy(host: str = "gpu-1", seed: int = 1, **fields: Any) -> SmokeReport:
    """All lines proven, with a ladder."""
    return composed(host, seed=seed, ladder=True, **fields)


def failed(host: str = "gpu-2") -> SmokeReport:
    """A busy core: E2E misses its line."""
    return composed(host, Server(token_ms=12.5, spread=0.25), fault="busy-core", causes=(BUSY_CORE,), seed=2)


def throttled(host: str = "gpu-3") -> SmokeReport:
    """A hot card."""
    return composed(host, Server(token_ms=14.0, spread=0.1), fault="hot-card", causes=(HOT_CARD,), seed=3)


def inconclusive(host: str = "gpu-4") -> SmokeReport:
    """Ten requests that all kept the line prove no P90."""
    return composed(host, requests=10, seed=4)


def stalling(host: str = "gpu-5") -> SmokeReport:
    """Each tenth answer stops for a second."""
    return composed(host, Server(stall_every=10), seed=5, lines={"itl_p99_ms": 20, "e2e_p90_ms": 2600})


def unreachable(host: str = "gpu-6") -> SmokeReport:
    """No request succeeded."""
    return composed(host, error="could not connect to 127.0.0.1:8000: connection refused", requests=10)


def cpu_only(host: str = "lab1") -> SmokeReport:
    """A machine without a card, and a model with a plan that knows no floors."""
    return composed(host, Server(ttft_ms=120, token_ms=16), card=False, seed=7, lines={"ttft_p50_ms": 3000, "itl_p50_ms": 500})


def bare(host: str = "gpu-7") -> SmokeReport:
    """Measured from elsewhere: no plan, no samples."""
    found = composed(host, with_plan=False, release=None)
    return found.model_copy(update={"timeline": None, "measured_from": "laptop"})


def fleet(hosts: int = 8) -> list[SmokeReport]:
    """Healthy hosts but two."""
    good = [composed(f"gpu-{index}", seed=10 + index, started=STARTED + timedelta(minutes=index)) for index in range(1, hosts - 1)]
    return [*good, failed(f"gpu-{hosts - 1}"), inconclusive(f"gpu-{hosts}")]
