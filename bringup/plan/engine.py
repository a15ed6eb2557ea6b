"""Profile, model and memory → what vLLM is told, one decision an option."""

import json
from collections.abc import Mapping
from typing import Any

from bringup.catalog.entries import Engine, GpuModel, Model, Profile
from bringup.errors import BringupError
from bringup.findings import Finding
from bringup.hardware import Frozen, Memory
from bringup.plan.capacity import gpu_kv_bytes, kv_bytes_per_token, tokens_in
from bringup.plan.model import Decision

GPU_BLOCK_TOKENS = 16
"""vLLM's default block size on CUDA (config/cache.py)."""
CPU_BLOCK_TOKENS = 128
"""vLLM's default block size on CPUs: it logged 46,592 tokens for 1 GiB at 23,040 bytes a token (0.32.0, 2026-11-24)."""
UTILIZATION = 0.85
"""The advice's fraction of a 24 GB card. vLLM 0.24.0 used 0.6 to 1.0 GiB beyond its budget (H100, 2026-11-24), so that
0.95 would leave nothing for it."""
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


def _overridden(decisions: list[Decision], overrides: Mapping[str, Any]) -> tuple[Decision, ...]:
    """Put the user's values in place of the plan's, as their own."""
    kept = {decision.key: decision for decision in decisions}
    for key, value in overrides.items():
        why = f"set by you; the plan had {kept[key].value}" if key in kept else "set by you; the plan leaves it to vLLM"
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
    limit = {fits: "what fits the KV cache", model.max_context: "the model's own limit"}.get(value, "what the profile wants")
    return Decision(
        key="max-model-len",
        value=value,
        why=f"{limit}: the profile wants {wanted}, the model takes {model.max_context}, memory holds {fits} tokens",
        source="derived (plan/capacity.py)",
    )


def gpu_options(gpu: GpuModel, engine: Engine, model: Model, profile: Profile, overrides: Mapping[str, Any]) -> EngineOptions:
    """Plan vLLM for one card.

    Raises:
        BringupError: the model's weights leave no room for a KV cache.
    """
    if engine.overhead is None:
        raise BringupError(f"engine {engine.name} cannot serve on a card")
    utilization = float(overrides.get("gpu-memory-utilization", UTILIZATION))
    bytes_per_value = 1 if str(overrides.get("kv-cache-dtype", "auto")).startswith("fp8") else 2
    kv_bytes = gpu_kv_bytes(gpu, model, engine.overhead, utilization)
    tokens = tokens_in(kv_bytes, model, GPU_BLOCK_TOKENS, bytes_per_value)
    if tokens < 128:
        raise BringupError(
            f"{model.id} ({model.weights_gib:g} GiB of weights) does not fit a {gpu.name} at "
            f"gpu-memory-utilization {utilization:g}: {kv_bytes / 2**30:.1f} GiB would be left for the KV cache"
        )
    findings = []
    if gpu.name not in engine.overhead.calibrated_for:
        findings.append(
            Finding(
                level="note",
                text=f"uncalibrated: vLLM {engine.version}'s memory overhead was not measured on a {gpu.name}; "
                f"{engine.overhead.margin:.0%} of the KV cache is left out of the prediction of {tokens} tokens",
            )
        )
    decisions = [
        Decision(
            key="gpu-memory-utilization",
            value=utilization,
            why=f"{utilization:g} of the {gpu.visible_mib} MiB that CUDA {'sees' if gpu.cuda_visible_mib else 'sees at least'}; "
            "the rest stays for the desktop and for what vLLM uses beyond it",
            source="the advice; vLLM 0.24.0 used 0.6 to 1.0 GiB beyond its budget on 2026-11-24",
        ),
        _context(profile.context_wanted, model, tokens),
        Decision(
            key="max-num-seqs",
            value=256,
            why="512 cost 0.4 GiB more for CUDA graphs and brought nothing measurable at up to 16 streams",
            source="measured with vLLM 0.24.0 on an H100, 2026-11-24; vLLM's default below 70 GiB",
        ),
        *_common(profile),
    ]
    if overrides.get("max-model-len", 0) > tokens:
        findings.append(
            Finding(
                level="warning",
                text=f"max-model-len {overrides['max-model-len']} is more than the {tokens} tokens that the KV cache is predicted "
                "to hold: vLLM will probably refuse to start, and what is served now will be put back",
            )
        )
    return EngineOptions(
        decisions=_overridden(decisions, overrides),
        findings=tuple(findings),
        kv_cache_tokens=tokens,
        kv_cache_host_mib=0,
    )


def cpu_options(memory: Memory, engine: Engine, model: Model, profile: Profile, overrides: Mapping[str, Any]) -> EngineOptions:
    """Plan vLLM's CPU backend: a KV cache of whole GiB in main memory, a quarter of it at most.

    Raises:
        BringupError: a quarter of the memory is less than 1 GiB.
    """
    sequences = int(overrides.get("max-num-seqs", 4 * profile.concurrency))
    context = int(overrides.get("max-model-len", profile.context_wanted))
    wanted_gib = -(-kv_bytes_per_token(model) * context * sequences // 2**30)
    most_gib = memory.total_mib // 4 // 1024
    if most_gib < 1:
        raise BringupError(f"this host has {memory.total_mib} MiB of memory; serving on the CPU needs at least 4096 MiB")
    kv_gib = max(1, min(wanted_gib, most_gib))
    tokens = tokens_in(kv_gib * 2**30, model, CPU_BLOCK_TOKENS)
    decisions = [
        Decision(
            key="kv-cache-space-gib",
            value=kv_gib,
            why=f"{sequences} sequences of {context} tokens at {kv_bytes_per_token(model)} bytes each, in whole "
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
        decisions=_overridden(decisions, overrides),
        findings=(),
        kv_cache_tokens=tokens,
        kv_cache_host_mib=kv_gib * 1024,
    )
