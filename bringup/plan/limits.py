"""Speed of light: times that no software can beat on a card."""

from collections.abc import Mapping

from bringup.catalog.entries import GpuModel, Model
from bringup.findings import Finding


def ms_per_token_floor(model: Model, gpu: GpuModel) -> float:
    """Least milliseconds a token at batch 1: each token reads every weight once, at the card's full memory bandwidth."""
    return model.parameters * model.bytes_per_parameter / (gpu.bandwidth_gb_s * 1e9) * 1000


def check_lines(lines: Mapping[str, float], max_tokens: int, model: Model, gpu: GpuModel) -> list[Finding]:
    """Name the acceptance lines that this card cannot meet with these weights, before anything is installed."""
    token_ms = ms_per_token_floor(model, gpu)
    findings = []
    for metric, at_most in lines.items():
        floor_ms = {"e2e": token_ms * max_tokens, "itl": token_ms}.get(metric.partition("_")[0])
        if floor_ms is not None and floor_ms > at_most:
            findings.append(
                Finding(
                    level="impossible",
                    text=f"{metric} ≤ {at_most:g} ms cannot be met: {max_tokens} tokens of {model.id} take at least "
                    f"{token_ms:.2f} ms each on a {gpu.name} ({model.bytes_per_parameter:g} bytes a parameter over "
                    f"{gpu.bandwidth_gb_s:g} GB/s), {token_ms * max_tokens:.0f} ms in all; take 8-bit or 4-bit weights, "
                    "speculative decoding, or another line (setting `acceptance`)",
                )
            )
    return findings
