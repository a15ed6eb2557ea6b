"""The stages of a run, each with its load; what cannot be run is skipped with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from bringup.smoke.client import Ask, Client
from bringup.smoke.ladder import find_knee, rungs
from bringup.smoke.load import AskFor, OnSample, Run, Target, arrival_times, closed_loop, open_loop
from bringup.smoke.model import Ladder, Load, Quality, RequestSample, ServerInfo, SkippedStage, SmokeRequest, Stage, StageName
from bringup.smoke.prompt_sets import shipped, synthetic
from bringup.smoke.quality import ask_all
from bringup.smoke.sizing import claim, requests_for
from bringup.smoke.summary import measured, succeeded, summarise

_SYNTHETIC_PROMPTS = 8
"""Different ones, so that no two requests in a row are the same where a server caches prefixes and cannot be told not to."""
_LIMIT_FACTOR = 3
"""Times the budget, after which a stage sends nothing more: the server has become much slower than it was while it warmed up."""
_RUNG_REQUESTS = 8
"""Least number on a rung of the ladder; its figures are observations, no verdicts."""
_LONG_SHARES = (0.25, 0.5, 1.0)
"""Of the longest context."""
_LONG_ANSWER = 32
_SWAPS = 12


@dataclass(frozen=True)
class Found:
    """What the stages of a run left."""

    stages: tuple[Stage, ...] = ()
    skipped: tuple[SkippedStage, ...] = ()
    ladder: Ladder | None = None
    quality: Quality | None = None

    def __add__(self, other: "Found") -> "Found":
        """Put two together."""
        return Found(
            stages=self.stages + other.stages,
            skipped=self.skipped + other.skipped,
            ladder=other.ladder or self.ladder,
            quality=other.quality or self.quality,
        )


@dataclass(frozen=True)
class Bench:
    """What every stage works with."""

    client: Client
    request: SmokeRequest
    server: ServerInfo
    on_sample: OnSample

    async def run(self) -> Found:
        """Run every stage that was asked for, in that order."""
        known = {
            "smoke": self._smoke,
            "soak": self._soak,
            "ladder": self._ladder,
            "long": self._long,
            "swap": self._swap,
            "quality": self._quality,
        }
        found = Found()
        for name in self.request.stages:
            found += await known[name]()
        return found

    async def _smoke(self) -> Found:
        request = self.request
        prompts = await self._prompts()
        if isinstance(prompts, str):
            return _skipped("smoke", prompts)

        def count_for(warm_up: Sequence[RequestSample]) -> int:
            if request.requests is not None:
                return request.requests
            return requests_for(request.lines, request.confidence, self._affordable(warm_up))

        # a number that was asked for is a number that was asked for
        limit_s = _LIMIT_FACTOR * request.budget_s if request.requests is None else None
        target = Target(warm_up=self._warm_up, count_for=count_for, limit_s=limit_s)
        stage = await self._loaded("smoke", prompts, target)
        count = stage.load.requests or stage.summary.count
        return Found(stages=(stage.model_copy(update={"note": claim(count, request.lines, request.confidence)}),))

    async def _soak(self) -> Found:
        prompts = await self._prompts()
        if isinstance(prompts, str):
            return _skipped("soak", prompts)
        stage = await self._loaded("soak", prompts, Target(warm_up=self._warm_up, seconds=self.request.soak_s))
        return Found(stages=(stage.model_copy(update={"note": _drift(stage.requests)}),))

    async def _ladder(self) -> Found:
        prompts = await self._prompts()
        if isinstance(prompts, str):
            return _skipped("ladder", prompts)
        stages: list[Stage] = []
        for concurrency in rungs(self.request.ladder_to):
            count = max(_RUNG_REQUESTS, 2 * concurrency)
            target = Target(warm_up=concurrency, count_for=_always(count), limit_s=_LIMIT_FACTOR * self.request.budget_s)
            stages.append(await self._closed("ladder", prompts, concurrency, target))
            if stages[-1].summary.failed:
                break  # higher rungs would only fail more
        return Found(stages=tuple(stages), ladder=find_knee(stages))

    async def _long(self) -> Found:
        longest = self.request.long_tokens or self.server.max_model_len
        if longest is None:
            return _skipped("long", "the server does not say how long its context is; --long-tokens does")
        answer = min(_LONG_ANSWER, self.request.max_tokens, max(1, longest // 4))
        stages: list[Stage] = []
        for share in _LONG_SHARES:
            wanted = int(longest * share) - answer
            made = await synthetic(max(1, wanted), self.request.seed, self.client.count_tokens)
            if made is None:
                return Found(stages=tuple(stages)) + _skipped("long", "the server does not say how many tokens a prompt has")
            ask = Ask(prompt=made[0], output_tokens=answer)
            target = Target(warm_up=0, count_for=_always(1))
            stages.append(
                await self._closed("long", (made[0],), 1, target, ask=ask, prompt_tokens=wanted, prompts_name="synthetic")
            )
        return Found(stages=tuple(stages))

    async def _swap(self) -> Found:
        adapters = self.request.adapters
        if not adapters:
            return _skipped("swap", "no LoRA adapters are planned")
        prompts = await self._prompts()
        if isinstance(prompts, str):
            return _skipped("swap", prompts)
        names = (self.request.model, *adapters)

        # each name twice in a row: the first of the two has to be swapped in, the second finds it in place
        def ask_for(number: int) -> Ask:
            return Ask(prompt=prompts[0], output_tokens=self.request.max_tokens, model=names[number // 2 % len(names)])

        count = 2 * max(_SWAPS, len(names))
        target = Target(warm_up=0, count_for=_always(count))
        stage = await self._closed("swap", prompts, 1, target, ask_for=ask_for)
        times = [sample.ttft_ms for sample in stage.requests]
        first, second = ([time for time in times[start::2] if time is not None] for start in (0, 1))
        note = f"TTFT P50 {median(first):.1f} ms after a change, {median(second):.1f} ms without" if first and second else ""
        return Found(stages=(stage.model_copy(update={"note": note}),))

    async def _quality(self) -> Found:
        if self.request.demo_model:
            return _skipped("quality", "the model is a demo: too small to answer sensibly")
        if self.request.api != "chat":
            return _skipped("quality", "the questions are put to /v1/chat/completions")
        return Found(quality=await ask_all(self.client))

    @property
    def _warm_up(self) -> int:
        # each stream once, so that connections are open and the batch has its size
        return max(self.request.warmup_requests, self.request.concurrency if self.request.rate_rps is None else 0)

    def _affordable(self, warm_up: Sequence[RequestSample]) -> int:
        """How many requests fit the budget, by the fastest of the warm-up: the first ones of a fresh server are slow."""
        request = self.request
        if request.rate_rps is not None:
            return int(request.budget_s * request.rate_rps)
        times = [sample.e2e_ms for sample in warm_up if sample.e2e_ms is not None]
        return int(request.budget_s * 1000 / min(times) * request.concurrency) if times else 0

    async def _prompts(self) -> tuple[str, ...] | str:
        """Return the prompts of the run, or why there are none."""
        request = self.request
        if request.prompt is not None:
            return (request.prompt,)
        if request.prompts != "synthetic":
            return shipped(request.prompts)
        texts = []
        for number in range(_SYNTHETIC_PROMPTS):
            made = await synthetic(request.prompt_tokens or 1, request.seed + number, self.client.count_tokens)
            if made is None:
                return "the server does not say how many tokens a prompt has, so that none of a length can be made"
            texts.append(made[0])
        return tuple(texts)

    async def _loaded(self, name: StageName, prompts: tuple[str, ...], target: Target) -> Stage:
        """Run the load that the request asks for."""
        request = self.request
        if request.rate_rps is None:
            return await self._closed(name, prompts, request.concurrency, target)
        begin = perf_counter()
        times = arrival_times(request.arrivals, request.rate_rps, request.seed)
        run = await open_loop(self.client, self._ask_for(prompts), times, name, target, self.on_sample)
        load = self._load(prompts).model_copy(
            update={"kind": "open", "rate_rps": request.rate_rps, "arrivals": request.arrivals, "requests": run.planned}
        )
        return self._stage(name, load, begin, run)

    async def _closed(
        self,
        name: StageName,
        prompts: tuple[str, ...],
        concurrency: int,
        target: Target,
        ask: Ask | None = None,
        ask_for: AskFor | None = None,
        prompt_tokens: int | None = None,
        prompts_name: str | None = None,
    ) -> Stage:
        begin = perf_counter()
        asks = ask_for or ((lambda _: ask) if ask is not None else self._ask_for(prompts))
        run = await closed_loop(self.client, asks, concurrency, name, target, self.on_sample)
        load = self._load(prompts).model_copy(update={"concurrency": concurrency, "requests": run.planned})
        if ask is not None:
            load = load.model_copy(update={"output_tokens": ask.output_tokens, "prompt_tokens": prompt_tokens})
        if prompts_name is not None:
            load = load.model_copy(update={"prompts": prompts_name})
        return self._stage(name, load, begin, run)

    def _ask_for(self, prompts: tuple[str, ...]) -> AskFor:
        request = self.request
        return lambda number: Ask(
            prompt=prompts[number % len(prompts)],
            output_tokens=request.max_tokens,
            prompt_index=number % len(prompts),
            temperature=request.temperature,
        )

    def _load(self, prompts: tuple[str, ...]) -> Load:
        request = self.request
        return Load(
            kind="closed",
            prompts="given" if request.prompt is not None else request.prompts,
            prompt_tokens=request.prompt_tokens if request.prompt is None and request.prompts == "synthetic" else None,
            output_tokens=request.max_tokens,
        )

    def _stage(self, name: StageName, load: Load, begin: float, run: Run) -> Stage:
        zero = self.client.zero
        return Stage(
            name=name,
            load=load,
            begin_s=round(begin - zero, 6),
            end_s=round(perf_counter() - zero, 6),
            requests=run.samples,
            summary=summarise(run.samples, self.request.lines),
        )


def _always(count: int) -> Callable[[Sequence[RequestSample]], int]:
    return lambda _: count


def _skipped(name: StageName, reason: str) -> Found:
    return Found(skipped=(SkippedStage(name=name, reason=reason),))


def _drift(samples: Sequence[RequestSample]) -> str:
    """Say how the last quarter of a soak differs from the first."""
    times = [sample.tpot_ms for sample in succeeded(measured(samples)) if sample.tpot_ms is not None]
    quarter = len(times) // 4
    if quarter < 5:
        return "too few requests to tell whether the server got slower"
    first, last = median(times[:quarter]), median(times[-quarter:])
    return (
        f"TPOT P50 was {first:.2f} ms in the first quarter of the requests and {last:.2f} ms in the last ({last / first - 1:+.1%})"
    )
