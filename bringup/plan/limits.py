"""Speed of light: times that no software can beat on a card, and what that means for the acceptance lines.

A decode step reads every weight once and the KV cache of every running request once; a prefill multiplies every weight of the
linear layers with every token. Neither can be faster than the card's memory bandwidth and arithmetic.
"""

from collections.abc import Mapping
from typing import Literal

from bringup.best_seen import BEST_SEEN_RATIO
from bringup.catalog.engine_rules import WeightKind
from bringup.catalog.entries import GpuModel, Model
from bringup.findings import Finding
from bringup.findings.finding import note
from bringup.hardware import Frozen

Verdict = Literal["impossible", "tight", "comfortable", "unknown"]


class Speed(Frozen):
    """What decides the floors of one card with one checkpoint of a model and one KV cache layout."""

    weights_read_bytes: float
    """Bytes of weights that a decode step reads."""
    kv_bytes_per_token: int
    bandwidth_gb_s: float
    linear_parameters: int
    """Weights that each token of a prefill is multiplied with."""
    attention_flops_per_token_pair: float
    """Of all layers: two multiplications of a head's vector, for each pair of a token and one before it."""
    tflops: float | None
    """Dense tensor throughput at the precision that is calculated with; None where it is not known."""

    def ms_per_token(self, context_tokens: int = 0, streams: int = 1) -> float:
        """Least milliseconds between tokens when `streams` requests of `context_tokens` each run at once."""
        read = self.weights_read_bytes + streams * context_tokens * self.kv_bytes_per_token
        memory_s = read / (self.bandwidth_gb_s * 1e9)
        compute_s = 2 * self.linear_parameters * streams / (self.tflops * 1e12) if self.tflops else 0.0
        return max(memory_s, compute_s) * 1000

    def prefill_ms(self, prompt_tokens: int) -> float:
        """Least milliseconds until the first token of a prompt that nothing is cached of."""
        memory_s = self.weights_read_bytes / (self.bandwidth_gb_s * 1e9)
        if not self.tflops:
            return memory_s * 1000
        # a token attends to those before it: half of all pairs
        flops = 2 * self.linear_parameters * prompt_tokens + self.attention_flops_per_token_pair * prompt_tokens**2 / 2
        return max(memory_s, flops / (self.tflops * 1e12)) * 1000

    def answer_ms(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Least milliseconds for a whole answer: the first token ends the prefill, the others follow one by one."""
        return self.prefill_ms(prompt_tokens) + (answer_tokens - 1) * self.ms_per_token(prompt_tokens + answer_tokens // 2)

    def tokens_per_s(self, context_tokens: int, streams: int) -> float:
        """Most tokens a second of all streams together."""
        return streams / self.ms_per_token(context_tokens, streams) * 1000


class LineCheck(Frozen):
    """An acceptance line beside its floor."""

    metric: str
    at_most_ms: float
    floor_ms: float | None
    """None where no floor is known for this metric."""
    verdict: Verdict
    """``tight``: above the floor, but faster than the part of it that was reached anywhere."""


def speed_of(gpu: GpuModel, model: Model, weights_bytes: float, kind: WeightKind, kv_bytes_per_token: int) -> Speed:
    """Floors of one card, model, kind of weights and KV cache layout."""
    # one row of the input embedding is read a token; where it is the output layer too, all of it is read at the end
    embedding = 0 if model.tied_embeddings else model.vocabulary * model.hidden_size * 2
    # only weights and activations of 8 bits are multiplied in 8 bits; all others are widened to 16 bits first
    eight_bit = gpu.fp8_tflops if kind.compute == "w8a8" else None
    return Speed(
        weights_read_bytes=weights_bytes - embedding,
        kv_bytes_per_token=kv_bytes_per_token,
        bandwidth_gb_s=gpu.bandwidth_gb_s,
        linear_parameters=model.quantizable_parameters,
        attention_flops_per_token_pair=4 * model.layers * model.heads * model.head_size,
        tflops=eight_bit or gpu.bf16_tflops or gpu.fp16_tflops,
    )


def check_lines(lines: Mapping[str, float], prompt_tokens: int, answer_tokens: int, speed: Speed) -> tuple[LineCheck, ...]:
    """Hold each acceptance line against its floor: ``ttft_p50_ms``, ``itl_p50_ms``, ``e2e_p90_ms``…"""
    floors = {
        "ttft": speed.prefill_ms(prompt_tokens),
        "itl": speed.ms_per_token(prompt_tokens),
        "e2e": speed.answer_ms(prompt_tokens, answer_tokens),
    }
    checks = []
    for metric, at_most in lines.items():
        floor = floors.get(metric.partition("_")[0])
        verdict: Verdict = "comfortable"
        if floor is None:
            verdict = "unknown"
        elif floor > at_most:
            verdict = "impossible"
        elif floor > at_most * BEST_SEEN_RATIO:
            verdict = "tight"
        checks.append(LineCheck(metric=metric, at_most_ms=at_most, floor_ms=floor, verdict=verdict))
    return tuple(checks)


def line_findings(
    checks: tuple[LineCheck, ...], model: Model, gpu: GpuModel, speed: Speed, ways: Mapping[str, str]
) -> list[Finding]:
    """Name the lines that cannot be met, or hardly.

    Args:
        checks: the lines beside their floors.
        model: what is served.
        gpu: the card.
        speed: its floors.
        ways: metric to the ways in which it can be met, in words.
    """
    findings = []
    token_ms = speed.ms_per_token()
    for check in checks:
        if check.verdict == "impossible":
            findings.append(
                Finding(
                    level="impossible",
                    id="line-impossible",
                    text=f"{check.metric} ≤ {check.at_most_ms:g} ms cannot be met: the floor of {model.id} on a {gpu.name} is "
                    f"{check.floor_ms:.0f} ms ({speed.weights_read_bytes / 1e9:.2f} GB of weights a token over "
                    f"{gpu.bandwidth_gb_s:g} GB/s are {token_ms:.2f} ms); "
                    + ways.get(check.metric, "take another line (setting `acceptance`)"),
                )
            )
        elif check.verdict == "tight":
            findings.append(
                note(
                    "line-tight",
                    f"{check.metric} ≤ {check.at_most_ms:g} ms is tight: its floor is {check.floor_ms:.0f} ms, and the best that "
                    f"was seen anywhere is the floor over {BEST_SEEN_RATIO:g}",
                )
            )
    return findings


def load_s(weights_bytes: float, link_gb_s: float | None) -> float | None:
    """Least seconds to move the weights to the card over its link; None where the link is not known. The disk may be slower."""
    return weights_bytes / (link_gb_s * 1e9) if link_gb_s else None
