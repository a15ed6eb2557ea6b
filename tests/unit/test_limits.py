"""Speed of light, against arithmetic done by hand and against what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.catalog import load_catalog
from bringup.catalog.engine_rules import weight_kinds
from bringup.catalog.entries import GpuModel
from bringup.plan.limits import Speed, check_lines, load_s, speed_of

CATALOG = load_catalog()
QWEN = CATALOG.model("qwen3-4b")
KV_BYTES = 147_456


def card(pci_id: str) -> GpuModel:
    found = CATALOG.gpu(pci_id)
    assert found is not None
    return found


RTX_4090_D, H100 = card("10de:2685"), card("10de:2330")


def speed(gpu: GpuModel = RTX_4090_D, precision: str = "bf16") -> Speed:
    checkpoint = next(found for found in QWEN.checkpoints if found.precision == precision)
    engine = CATALOG.engine(None, "cuda")
    kind = next(found for found in weight_kinds(engine, gpu.compute_capability) if found.precision == precision)
    return speed_of(gpu, QWEN, QWEN.weights_bytes(checkpoint), kind, KV_BYTES)


@pytest.mark.parametrize(
    ("precision", "ms", "answer_ms"),
    [("bf16", 7.98, 2043), ("fp8", 4.38, 1121), ("int4", 2.65, 678)],
)
def test_floors_of_the_articles_answer_on_a_4090_d(precision: str, ms: float, answer_ms: float) -> None:
    """8.04 GB, 4.41 GB and 2.67 GB over 1008 GB/s, 256 times; the KV cache and the prompt add a little."""
    found = speed(precision=precision)
    assert found.ms_per_token() == pytest.approx(ms, rel=0.005)
    assert answer_ms <= found.answer_ms(132, 256) < answer_ms * 1.04


def test_floor_lies_below_what_was_measured() -> None:
    """vLLM 0.24.0 on an H100, one stream, 2026-11-24: 4.36 ms with bf16 weights, 3.24 ms with fp8."""
    assert speed(H100).ms_per_token(132) == pytest.approx(2.40, abs=0.02)
    assert speed(H100).ms_per_token(132) < 4.36
    assert speed(H100, "fp8").ms_per_token(132) < 3.24
    assert speed(H100).answer_ms(132, 256) < 1133
    assert speed(H100).tokens_per_s(260, 16) > 3115


def test_untied_embedding_is_not_read_whole_for_each_token() -> None:
    model = CATALOG.model("Qwen/Qwen3-8B")
    engine = CATALOG.engine(None, "cuda")
    weights = model.weights_bytes(model.checkpoints[0])
    found = speed_of(RTX_4090_D, model, weights, weight_kinds(engine, "8.9")[0], KV_BYTES)
    assert found.weights_read_bytes == weights - model.vocabulary * model.hidden_size * 2


def test_long_prompts_are_bound_by_arithmetic() -> None:
    found = speed()
    assert found.prefill_ms(16) == pytest.approx(found.ms_per_token(), rel=1e-9)
    # 2 × 3.633 billion weights × 32768 tokens and the attention between them, at the card's bf16 rate
    flops = 2 * QWEN.quantizable_parameters * 32768 + 4 * 36 * 32 * 128 * 32768**2 / 2
    assert RTX_4090_D.bf16_tflops is not None
    assert found.prefill_ms(32768) == pytest.approx(flops / RTX_4090_D.bf16_tflops / 1e9, rel=1e-6)


@pytest.mark.parametrize(
    ("lines", "verdicts"),
    [
        ({"e2e_p90_ms": 1100}, ["impossible"]),
        ({"e2e_p90_ms": 2045}, ["impossible"]),
        ({"e2e_p90_ms": 2060}, ["tight"]),
        ({"e2e_p90_ms": 4000}, ["comfortable"]),
        ({"itl_p50_ms": 7, "ttft_p50_ms": 240}, ["impossible", "comfortable"]),
        ({"itl_p50_ms": 9, "tokens_per_s": 3}, ["tight", "unknown"]),
    ],
)
def test_lines(lines: dict[str, float], verdicts: list[str]) -> None:
    assert [check.verdict for check in check_lines(lines, 132, 256, speed())] == verdicts


@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(1, 256), st.integers(0, 256))
def test_more_work_is_never_faster(context: int, more: int, streams: int, more_streams: int) -> None:
    found = speed()
    assert found.ms_per_token(context, streams) <= found.ms_per_token(context + more, streams + more_streams)
    assert found.prefill_ms(context) <= found.prefill_ms(context + more)


def test_loading() -> None:
    assert load_s(8e9, 31.5) == pytest.approx(0.254, abs=0.001)
    assert load_s(8e9, None) is None
