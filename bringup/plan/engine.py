"""Profile, model and memory → what vLLM is told, one decision an option."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bringup.catalog.entries import Engine, Model, Profile
from bringup.errors import BringupError
from bringup.findings import Finding
from bringup.findings.finding import note, warning
from bringup.hardware import Frozen, Memory
from bringup.needs import Need
from bringup.plan.capacity import KvLayout, kv_bytes_per_token
from bringup.plan.configuration import Card, Case, Configuration, Outcome, evaluate
from bringup.plan.decision import Decision
from bringup.plan.solve import BATCHES, UTILIZATIONS, Attempt, NoWayError, Solution, default_configuration, solve

CPU_BLOCK_TOKENS = 128
"""vLLM's default block size on CPUs: it logged 46,592 tokens for 1 GiB at 23,040 bytes a token (0.32.0, 2026-11-24)."""
LEAST_CONTEXT = 128
"""Tokens; a model that leaves less does not fit."""
SHUTDOWN_TIMEOUT_S = 30
"""How long running answers may go on after a stop; vLLM's default of 0 cuts them off."""


class EngineOptions(Frozen):
    """vLLM's options and what they lead to."""

    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]
    kv_cache_tokens: int
    """Predicted: what vLLM should log as its KV cache size."""
    kv_cache_host_mib: int
    """Main memory that the KV cache takes; 0 with a card."""
    configuration: Configuration | None = None
    """None on the CPU."""
    outcome: Outcome | None = None


_OWN = {"gpu-memory-utilization": UTILIZATIONS[0], "max-num-batched-tokens": BATCHES[0][0], "max-num-seqs": BATCHES[0][1]}
"""What the plan has for a card where the user says nothing."""


def _overridden(decisions: list[Decision], overrides: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[Decision, ...]:
    """Put the user's values in place of the plan's, as their own.

    Args:
        decisions: the plan's, those that were computed with the user's values too.
        overrides: the user's values.
        own: what the plan has without them, where `decisions` holds the user's value already.
    """
    kept = {decision.key: decision for decision in decisions}
    for key, value in overrides.items():
        had = own.get(key, kept[key].value if key in kept and kept[key].value != value else None)
        why = "set by you; the plan leaves it to vLLM" if had is None else f"set by you; the plan had {had}"
        kept[key] = Decision(key=key, value=value, why=why, source="inventory: engine_settings")
    return tuple(kept.values())


def _common(profile: Profile) -> list[Decision]:
    return [
        Decision(
            key="override-generation-config",
            value=json.dumps({"max_new_tokens": profile.max_new_tokens}),
            why=f"an answer ends after {profile.max_new_tokens} tokens unless the request asks for fewer; without it a chat may "
            "run to the end of the context",
            source="vLLM config/model.py; the profile",
        ),
        Decision(
            key="shutdown-timeout",
            value=SHUTDOWN_TIMEOUT_S,
            why="running answers may end before a stop; vLLM's default of 0 cuts them off",
            source="vLLM entrypoints: --shutdown-timeout",
        ),
        Decision(
            key="disable-access-log-for-endpoints",
            value="/health,/metrics",
            why="polling would fill the log",
            source="vLLM entrypoints: --disable-access-log-for-endpoints",
        ),
    ]


def _context(wanted: int, model: Model, fits: int) -> Decision:
    value = min(wanted, model.max_context, fits)
    limit = {fits: "as much as fits", model.max_context: "all that the model takes"}.get(value, "as long as is wanted")
    return Decision(
        key="max-model-len",
        value=value,
        why=f"{limit}: {wanted:,} tokens are wanted, the model takes {model.max_context:,}, one request finds room for {fits:,}",
        source="derived (plan/capacity.py)",
    )


def gpu_options(case: Case, needs: Sequence[Need]) -> EngineOptions:
    """Plan vLLM for one card: the first checkpoint and a 16-bit KV cache, or what needs ask for.

    Raises:
        BringupError: the model does not fit, nothing meets the needs, or the card cannot serve what the user set.
    """
    chosen = _chosen(case, needs)
    configuration, outcome, overrides = chosen.configuration, chosen.outcome, case.overrides
    wanted = max(case.profile.context_wanted, *(need.tokens_a_request for need in needs), 0)
    findings = [*_calibration_findings(case, outcome), *_caveats(configuration)]
    decisions = [
        *_weight_decisions(configuration, needs, chosen.attempts),
        *_memory_decisions(case.card, configuration, outcome),
        _context(wanted, case.model, outcome.longest_context),
        *_feature_decisions(),
        *_common(case.profile),
    ]
    findings += _beyond(outcome, overrides)
    findings += _another_card(case.card)
    _refuse_contradictions(configuration, overrides)
    asked = int(overrides.get("max-model-len", 0))
    if asked > outcome.longest_context:
        text = (
            f"max-model-len {asked} is more than the {outcome.longest_context} tokens that a single request is predicted to fit in"
        )
        consequence = "vLLM will probably refuse to start, and what is served now will be put back"
        findings.append(warning("context-does-not-fit", f"{text}: {consequence}"))
    return EngineOptions(
        decisions=_overridden(decisions, overrides, _OWN),
        findings=tuple(findings),
        kv_cache_tokens=outcome.budget.kv_cache_tokens,
        kv_cache_host_mib=0,
        configuration=configuration,
        outcome=outcome,
    )


def _chosen(case: Case, needs: Sequence[Need]) -> Solution:
    if needs:
        return solve(case, needs)
    configuration = default_configuration(case)
    outcome = evaluate(case, configuration)
    if outcome.longest_context < LEAST_CONTEXT:
        gib = outcome.budget.weights_bytes / 2**30
        left = max(0, outcome.budget.kv_cache_bytes) / 2**30
        what = f"{case.model.id} ({gib:.2f} GiB with {configuration.weights.precision} weights)"
        raise BringupError(
            f"{what} does not fit a {case.card.model.name} at gpu-memory-utilization {configuration.utilization:g}: "
            f"{left:.1f} GiB would be left for the KV cache{_hint(case)}"
        )
    return Solution(configuration=configuration, outcome=outcome, attempts=())


def _hint(case: Case) -> str:
    """What would fit, in words; empty where nothing does."""
    need = Need(kind="context", amount=min(case.profile.context_wanted, case.model.max_context))
    try:
        found = solve(case, (need,))
    except NoWayError:
        return ""
    return f"; with {found.configuration.name} it does (--need {need}, or the setting `needs`)"


def _calibration_findings(case: Case, outcome: Outcome) -> list[Finding]:
    if case.calibration.calibrated:
        return []
    return [
        note(
            "uncalibrated",
            f"uncalibrated: vLLM {case.engine.version}'s memory was not measured on a card of compute capability "
            f"{case.capability}; {case.calibration.margin:.0%} of the KV cache is left out of the prediction of "
            f"{outcome.budget.kv_cache_tokens} tokens",
        )
    ]


_NOT_COUNTED = (
    "cpu-offload-gb",
    "enable-lora",
    "kv-cache-memory-bytes",
    "kv-offloading-size",
    "speculative-config",
    "tensor-parallel-size",
)
"""Options that change what the card holds, and that the formula does not know."""


def _beyond(outcome: Outcome, overrides: Mapping[str, Any]) -> list[Finding]:
    """What the prediction does not cover, and a card that is promised more often than once."""
    findings = []
    unknown = [name for name in _NOT_COUNTED if overrides.get(name)]
    if unknown:
        text = f"{', '.join(unknown)}: the prediction of memory and speed does not count what that takes or saves"
        findings.append(warning("not-counted", text))
    if outcome.budget.left_bytes < 0:
        over_mib = -outcome.budget.left_bytes // 2**20
        text = f"vLLM's budget and what it takes beyond it are {over_mib} MiB more than the card has: lower gpu-memory-utilization"
        findings.append(warning("card-overcommitted", text, "the server may start, and run out of memory while it serves"))
    return findings


def _another_card(card: Card) -> list[Finding]:
    if not card.is_another:
        return []
    text = f"the driver sees {card.gpu.driver_memory_mib} MiB, a {card.model.name} is sold with {card.model.vram_mib} MiB"
    return [note("another-memory-size", f"{text}: the plan takes what the driver sees; speed and power are those of the catalog")]


def _refuse_contradictions(configuration: Configuration, overrides: Mapping[str, Any]) -> None:
    """Refuse what vLLM refuses at start (config/scheduler.py:317-336 of 0.33.0; the attention backends of engines.yaml)."""
    tokens, sequences = configuration.max_num_batched_tokens, configuration.max_num_seqs
    if tokens < sequences:
        raise BringupError(f"max-num-batched-tokens {tokens} is less than max-num-seqs {sequences}: vLLM refuses that")
    context = overrides.get("max-model-len")
    if overrides.get("enable-chunked-prefill") is False and (context is None or tokens < context):
        raise BringupError("without chunked prefill, max-num-batched-tokens must be max-model-len at least: set both")
    backend = overrides.get("attention-backend")
    serving = [found.name for found in configuration.kv.backends]
    if backend is not None and backend not in serving:
        raise BringupError(f"attention-backend {backend} cannot serve this KV cache on this card: {' or '.join(serving)} can")


def _caveats(configuration: Configuration) -> list[Finding]:
    caveats = (configuration.checkpoint.caveat, configuration.weights.caveat, configuration.kv.caveat)
    text = "; ".join(dict.fromkeys(caveat for caveat in caveats if caveat))
    return [warning("quality", f"{configuration.name}: {text}")] if text else []


def _weight_decisions(configuration: Configuration, needs: Sequence[Need], attempts: Sequence[Attempt]) -> list[Decision]:
    checkpoint, weights, kv = configuration.checkpoint, configuration.weights, configuration.kv
    why = "the model's own precision; nothing is lost"
    if weights.precision != "bf16":
        why = "as you set: quantised while loading" if weights.online else "as the repository holds them"
    if needs:
        rejected = "; ".join(f"{attempt.name}: {attempt.missing}" for attempt in attempts)
        why = f"the least harmful that meets {', '.join(map(str, needs))}" + (f" ({rejected})" if rejected else "")
    decisions = [
        Decision(key="weights", value=f"{weights.precision} of {checkpoint.repository}", why=why, source="derived (plan/solve.py)")
    ]
    if weights.quantization:
        decisions.append(
            Decision(
                key="quantization",
                value=weights.quantization,
                why="vLLM quantises the weights while it loads",
                source=weights.source,
            )
        )
    backend = kv.served_by(flashinfer_kernels=False)
    if kv.bits < 16:
        decisions.append(Decision(key="kv-cache-dtype", value=kv.value, why=why, source=kv.source))
    if backend is not None and not backend.automatic:
        reason = "vLLM would choose FlashInfer, whose kernels cannot be compiled without CUDA's compiler on the host"
        decisions.append(Decision(key="attention-backend", value=backend.name, why=reason, source=kv.source))
    if weights.precision == "bf16" and weights.compute == "w16a16" and configuration.half:
        reason = "this card has no arithmetic for bf16"
        decisions.append(Decision(key="dtype", value="float16", why=reason, source="NVIDIA: bf16 from compute capability 8.0 on"))
    return decisions


def _feature_decisions() -> list[Decision]:
    """What is on because vLLM has it on, written down so that a later version cannot change it unseen; and what stays off."""
    return [
        Decision(
            key="enable-chunked-prefill",
            value=True,
            why="long prompts are worked off between the tokens of others; vLLM's own default for this model",
            source="vLLM engine/arg_utils.py",
        ),
        Decision(
            key="enable-prefix-caching",
            value=True,
            why="prompts that begin alike, as with one system prompt, are computed once; vLLM's own default",
            source="vLLM config/cache.py",
        ),
        Decision(
            key="kv-offloading",
            value="off",
            why="a second place in main memory for prefixes to be used again; it does not make longer contexts fit, since the "
            "check at start counts the card's memory alone",
            source="vLLM config/cache.py: kv_offloading_size; v1/core/kv_cache_planning.py",
        ),
        Decision(
            key="lora-adapters",
            value="none",
            why="none are asked for; each slot takes memory of the card (engine_settings: enable-lora, max-loras, lora-modules)",
            source="vLLM config/lora.py",
        ),
    ]


def _memory_decisions(card: Card, configuration: Configuration, outcome: Outcome) -> list[Decision]:
    total_mib, left_mib = card.total_bytes // 2**20, outcome.budget.left_bytes // 2**20
    sees = "sees" if card.total_is_known else "sees at least"
    return [
        Decision(
            key="gpu-memory-utilization",
            value=configuration.utilization,
            why=f"{configuration.utilization:g} of the {total_mib} MiB that CUDA {sees}; {left_mib} MiB stay for a desktop and for "
            "what vLLM takes beyond its budget",
            source="the advice's fraction; with vLLM 0.24.0 a card showed 0.96 GiB beyond the budget with 256 sequences, 1.81 "
            "with 512 (H100, 2026-11-24), 0.52 of it before vLLM started",
        ),
        Decision(
            key="max-num-seqs",
            value=configuration.max_num_seqs,
            why="512 cost 0.4 GiB more for CUDA graphs and brought nothing measurable at up to 16 streams",
            source="measured with vLLM 0.24.0 on an H100, 2026-11-24; vLLM's default below 70 GiB is 256",
        ),
        Decision(
            key="max-num-batched-tokens",
            value=configuration.max_num_batched_tokens,
            why="prompts are worked off in pieces of this many tokens; a batch of it takes "
            f"{outcome.budget.peak_bytes // 2**20} MiB at its peak",
            source="vLLM's default below 70 GiB is 2048 (engine/arg_utils.py); more speeds up long prompts and takes more memory",
        ),
    ]


def cpu_options(memory: Memory, engine: Engine, model: Model, profile: Profile, overrides: Mapping[str, Any]) -> EngineOptions:
    """Plan vLLM's CPU backend: a KV cache of whole GiB in main memory, a quarter of it at most.

    Raises:
        BringupError: a quarter of the memory is less than 1 GiB.
    """
    sequences = int(overrides.get("max-num-seqs", 4 * profile.concurrency))
    context = int(overrides.get("max-model-len", profile.context_wanted))
    token_bytes = kv_bytes_per_token(model, KvLayout())
    wanted_gib = -(-token_bytes * context * sequences // 2**30)
    most_gib = memory.total_mib // 4 // 1024
    if most_gib < 1:
        raise BringupError(f"this host has {memory.total_mib} MiB of memory; serving on the CPU needs at least 4096 MiB")
    kv_gib = max(1, min(wanted_gib, most_gib))
    tokens = kv_gib * 2**30 // (token_bytes * CPU_BLOCK_TOKENS) * CPU_BLOCK_TOKENS
    decisions = [
        Decision(
            key="kv-cache-space-gib",
            value=kv_gib,
            why=f"{sequences} sequences of {context} tokens at {token_bytes} bytes each, in whole "
            f"GiB, a quarter of the memory at most: {tokens} tokens",
            source="derived; vLLM envs.py: VLLM_CPU_KVCACHE_SPACE",
        ),
        _context(profile.context_wanted, model, tokens),
        Decision(
            key="max-num-seqs",
            value=4 * profile.concurrency,
            why=f"four times the {profile.concurrency} at a time that the profile wants",
            source="judgement; not measured",
        ),
        Decision(
            key="enforce-eager",
            value=True,
            why="ready after 53 s instead of 99 s (70 s with a warm compile cache); 65 instead of 78 tokens a second",
            source="measured with SmolLM2-135M, vllm-cpu 0.32.0, 2 cores, 2026-11-24",
        ),
        *_common(profile),
    ]
    return EngineOptions(
        decisions=_overridden(decisions, overrides, {"max-num-seqs": 4 * profile.concurrency}),
        findings=(),
        kv_cache_tokens=tokens,
        kv_cache_host_mib=kv_gib * 1024,
    )
