"""Needs → the least harmful way to serve that meets them.

Everything that the engine supports on the card is tried from the least harm to the most: first quality (weights before KV cache),
then how much of the card is taken, then how large batches are. What harms more than what is the issue of the tables below; it is
judgement, since no benchmark of quality was run by us.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bringup.catalog.engine_rules import KvDtype, WeightKind, kv_dtypes, weight_kinds, within
from bringup.catalog.entries import Checkpoint, Model
from bringup.errors import BringupError
from bringup.hardware import Frozen
from bringup.needs import Need
from bringup.plan.configuration import Case, Configuration, Outcome, evaluate
from bringup.plan.needs import shortfall

_WEIGHTS_HARM = {"bf16": 0, "fp8": 2, "int4": 5}
"""8-bit weights are close to 16-bit ones; 4-bit ones are said to hurt formulas and code (the advice; not measured by us)."""
_KV_HARM = {16: 0, 8: 1, 4: 4, 3: 6}
"""By bits of the coarser half."""
_SAME_SIZE = {"fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "bfloat16": "auto", "float16": "auto"}
"""Values of kv-cache-dtype that take as much memory as another one."""
UTILIZATIONS = (0.85, 0.90, 0.92)
"""The plan's own, and up to vLLM's default (config/cache.py of 0.33.0)."""
BATCHES = ((2048, 256), (2048, 64), (1024, 32), (512, 8))
"""Batched tokens and sequences: vLLM's default below 70 GiB, then smaller ones, which leave more to the KV cache."""
_HAVE_BF16 = ("8.0-99.9",)
_LEAST_LEFT_BYTES = 256 * 2**20
"""Of the card, beyond everything that we know of: for a display and for what other versions take."""


class Attempt(Frozen):
    """A kind of configuration that was tried, at its best."""

    name: str
    kv_cache_tokens: int
    longest_context: int
    ms_per_token_floor: float
    missing: str
    """Why it does not meet the needs; empty where it does."""


class Solution(Frozen):
    """The least harmful configuration that meets the needs, and what was tried before it."""

    configuration: Configuration
    outcome: Outcome
    attempts: tuple[Attempt, ...]


class NoWayError(BringupError):
    """Nothing that this engine supports on this card meets the needs."""

    def __init__(self, message: str, attempts: tuple[Attempt, ...]) -> None:
        """Keep what was tried beside the message."""
        super().__init__(message)
        self.attempts = attempts


def pairs(case: Case) -> list[tuple[Checkpoint, WeightKind, KvDtype]]:
    """Every pair of weights and KV cache that the engine serves on the card, the least harmful first."""
    every = kv_dtypes(case.engine, case.capability, case.model.head_size)
    dtypes = [dtype for dtype in every if dtype.exact and dtype.served_by(flashinfer_kernels=False)]
    found = [(checkpoint, kind, dtype) for checkpoint, kind in _weights(case) for dtype in dtypes]
    return sorted(found, key=lambda pair: (_harm(pair[1], pair[2]), _WEIGHTS_HARM[pair[1].precision]))


def _harm(kind: WeightKind, dtype: KvDtype) -> int:
    return _WEIGHTS_HARM[kind.precision] + _KV_HARM[dtype.bits]


def _weights(case: Case) -> Iterator[tuple[Checkpoint, WeightKind]]:
    """Checkpoints that the engine can serve on the card; a checkpoint of its own comes before quantising while loading."""
    kinds = weight_kinds(case.engine, case.capability)
    checkpoints = case.model.checkpoints
    for checkpoint in checkpoints:
        for kind in kinds:
            served = checkpoint.method is None or checkpoint.online or checkpoint.method in kind.methods
            if served and kind.online == checkpoint.online and kind.precision == checkpoint.precision:
                yield checkpoint, kind
                break
    plain = checkpoints[0]
    if plain.method is None and not any(checkpoint.online for checkpoint in checkpoints):
        for kind in kinds:
            if kind.online:
                yield plain, kind
                break


def configurations(case: Case, streams: int = 0) -> Iterator[tuple[str, Iterator[Configuration]]]:
    """Groups of configurations with the same weights and KV cache, the least harmful group first.

    Args:
        case: what is served, on what.
        streams: how many requests must run at once.
    """
    fixed = case.overrides
    utilizations = (float(fixed["gpu-memory-utilization"]),) if "gpu-memory-utilization" in fixed else UTILIZATIONS
    batches = [_batch(tokens, max(sequences, streams), fixed) for tokens, sequences in BATCHES]
    for checkpoint, kind, dtype in pairs(case):
        if not _allowed(kind, dtype, fixed):
            continue
        group = [
            Configuration(
                checkpoint=checkpoint,
                weights=kind,
                kv=dtype,
                utilization=utilization,
                max_num_seqs=sequences,
                max_num_batched_tokens=tokens,
                block_tokens=int(fixed.get("block-size", 16)),
                enforce_eager=bool(fixed.get("enforce-eager", False)),
                half=not within(case.capability, _HAVE_BF16),
            )
            for (tokens, sequences), utilization in itertools.product(dict.fromkeys(batches), utilizations)
        ]
        yield group[0].name, iter(group)


def _batch(tokens: int, sequences: int, fixed: Mapping[str, Any]) -> tuple[int, int]:
    """Batched tokens and sequences; vLLM takes no more sequences than tokens."""
    tokens = int(fixed.get("max-num-batched-tokens", max(tokens, sequences)))
    return tokens, int(fixed.get("max-num-seqs", min(sequences, tokens)))


def default_configuration(case: Case) -> Configuration:
    """What is served when nothing is needed in particular: the model's first checkpoint, and what the user set.

    Raises:
        BringupError: the card cannot serve it; the message says what it can.
    """
    fixed, engine, model = case.overrides, case.engine, case.model
    for _, group in configurations(case.model_copy(update={"overrides": {"gpu-memory-utilization": UTILIZATIONS[0], **fixed}})):
        first = next(group)
        if _is_default(first, model, fixed):
            return first
    asked = ", ".join(f"{name} {fixed[name]}" for name in ("quantization", "kv-cache-dtype") if name in fixed)
    can = "; ".join(dict.fromkeys(f"{kind.precision} weights with kv-cache-dtype {kv.value}" for _, kind, kv in pairs(case)))
    raise BringupError(
        f"vLLM {engine.version} cannot serve {model.id}{f' with {asked}' if asked else ''} on a {case.card.model.name}"
        + (f"; it can with {can}" if can else "")
    )


def _is_default(configuration: Configuration, model: Model, fixed: Mapping[str, Any]) -> bool:
    own = configuration.checkpoint == model.checkpoints[0] and not configuration.weights.online
    return ("quantization" in fixed or own) and ("kv-cache-dtype" in fixed or configuration.kv.bits == 16)


def _allowed(kind: WeightKind, dtype: KvDtype, fixed: Mapping[str, Any]) -> bool:
    if "kv-cache-dtype" in fixed and dtype.value != _SAME_SIZE.get(fixed["kv-cache-dtype"], fixed["kv-cache-dtype"]):
        return False
    return "quantization" not in fixed or kind.quantization == fixed["quantization"]


def solve(case: Case, needs: Sequence[Need]) -> Solution:
    """Find the least harmful configuration that meets all needs.

    Raises:
        NoWayError: there is none; it says what comes nearest.
    """
    attempts: list[Attempt] = []
    streams = max((int(need.amount) for need in needs if need.kind == "concurrency"), default=0)
    for name, group in configurations(case, streams):
        best: Attempt | None = None
        for configuration in group:
            outcome = evaluate(case, configuration)
            missing = _missing(case, needs, configuration, outcome)
            if missing is None:
                return Solution(configuration=configuration, outcome=outcome, attempts=tuple(attempts))
            attempt = _attempt(name, outcome, missing)
            best = attempt if best is None or attempt.longest_context > best.longest_context else best
        if best is not None:
            attempts.append(best)
    wanted = ", ".join(map(str, needs))
    nothing = f"nothing that vLLM {case.engine.version} supports on a {case.card.model.name} meets {wanted}"
    raise NoWayError(f"{nothing}; {_nearest_miss(attempts)}", tuple(attempts))


def _missing(case: Case, needs: Iterable[Need], configuration: Configuration, outcome: Outcome) -> str | None:
    if outcome.budget.kv_cache_tokens == 0:
        return "the weights leave no room for a KV cache"
    if outcome.budget.left_bytes < _LEAST_LEFT_BYTES:
        return f"only {outcome.budget.left_bytes // 2**20} MiB of the card would be left"
    reasons = (shortfall(need, configuration, outcome, case.model, case.profile.smoke) for need in needs)
    return next((reason for reason in reasons if reason), None)


def _attempt(name: str, outcome: Outcome, missing: str) -> Attempt:
    return Attempt(
        name=name,
        kv_cache_tokens=outcome.budget.kv_cache_tokens,
        longest_context=outcome.longest_context,
        ms_per_token_floor=outcome.speed.ms_per_token(),
        missing=missing,
    )


def _nearest_miss(attempts: Sequence[Attempt]) -> str:
    if not attempts:
        return "no weights and KV cache that you allow can be served on it"
    best = max(attempts, key=lambda attempt: (attempt.longest_context, -attempt.ms_per_token_floor))
    return f"{best.name} comes nearest: {best.missing}"
