"""What would meet needs that the present card cannot."""

from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.catalog.entries import GpuModel, Model
from bringup.hardware import Gpu
from bringup.needs import parse_need
from bringup.plan.configuration import Card, Case
from bringup.plan.solve import NoWayError, solve
from bringup.plan.upgrade import what_would_do

CATALOG = load_catalog()
QWEN = CATALOG.model("qwen3-4b")
ENGINE = CATALOG.engine(None, "cuda")
RTX_4090_D = "10de:2685"


def gpu_model(pci_id: str) -> GpuModel:
    found = CATALOG.gpu(pci_id)
    assert found is not None
    return found


def card(model: GpuModel) -> Card:
    return Card(
        gpu=Gpu(pci_address="0000:01:00.0", pci_id=model.pci_ids[0], numa_node=None, kernel_driver=None), model=model, index=0
    )


def case(on: GpuModel, model: Model = QWEN, **fixed: Any) -> Case:
    return Case(
        card=card(on),
        engine=ENGINE,
        calibration=CATALOG.calibration(ENGINE.version, on.compute_capability),
        model=model,
        profile=CATALOG.profile("interactive"),
        overrides={name.replace("_", "-"): value for name, value in fixed.items()},
    )


def advice(*needs: str, on: str = RTX_4090_D, model: Model = QWEN, **fixed: Any) -> str:
    return what_would_do(case(gpu_model(on), model, **fixed), [parse_need(need) for need in needs], CATALOG)


def meets(model: GpuModel, *needs: str) -> bool:
    try:
        solve(case(model), [parse_need(need) for need in needs])
    except NoWayError:
        return False
    return True


@pytest.mark.parametrize(
    ("on", "needs"),
    [
        pytest.param(RTX_4090_D, ("context=262144", "e2e_ms=300"), id="no-geforce-is-fast-enough"),
        pytest.param(RTX_4090_D, ("e2e_ms=650",), id="a-faster-one-of-the-same-memory"),
        pytest.param(RTX_4090_D, ("concurrency=64@8K",), id="a-larger-geforce"),
        pytest.param(RTX_4090_D, ("concurrency=64@32K",), id="more-than-any-geforce-has"),
        pytest.param("10de:2882", ("context=64K",), id="small-card"),
        pytest.param("10de:20b5", ("e2e_ms=250",), id="data-centre-card"),
    ],
)
def test_least_card_of_the_same_family_is_named_then_of_all(on: str, needs: tuple[str, ...]) -> None:
    able = [gpu for gpu in CATALOG.gpus if gpu != gpu_model(on) and meets(gpu, *needs)]
    near = [gpu for gpu in able if gpu.family == gpu_model(on).family] or able
    least_gib = min(round(gpu.vram_mib / 1024) for gpu in near)
    said = advice(*needs, on=on)
    assert any(f"{gpu.name} ({least_gib} GiB" in said for gpu in near)


def test_articles_context_in_a_third_of_its_time() -> None:
    """One H100 reads int4 weights of 2.7 GB in 0.8 ms: 256 times are 204 ms. Two 4090 D need 1.3 ms: 340 ms."""
    said = advice("context=262144", "e2e_ms=300")
    assert "H100" in said
    assert "with int4 weights" in said
    assert "two GeForce RTX 4090 D would not (estimate)" in said


def test_two_cards_halve_the_floor() -> None:
    """One 4090 D has a floor of 691 ms with int4 weights (test_limits.py)."""
    assert "two GeForce RTX 4090 D with int4 weights" in advice("e2e_ms=360")
    assert "two GeForce RTX 4090 D would not" in advice("e2e_ms=330")


def test_two_cards_hold_more_than_twice_the_tokens_and_not_four_times() -> None:
    """The weights are there once: half on each."""
    one = solve(case(gpu_model(RTX_4090_D), gpu_memory_utilization=0.85), [parse_need("context=16K")])
    tokens = one.outcome.budget.kv_cache_tokens
    fixed = {"gpu_memory_utilization": 0.85, "max_num_batched_tokens": 2048, "max_num_seqs": 256}
    bf16 = "two GeForce RTX 4090 D with bf16 weights, bf16 KV cache (estimate"
    assert bf16 in advice(f"concurrency=2@{tokens}", **fixed)
    assert bf16 not in advice(f"concurrency=4@{tokens}", **fixed)


def test_heads_that_cannot_be_shared_evenly_stay_on_one_card() -> None:
    """SmolLM2-135M has 9 heads and 3 for keys and values."""
    small = CATALOG.model("smollm2-135m")
    said = advice("e2e_ms=40", model=small)
    assert "what would do: " in said
    assert "two GeForce RTX 4090 D would not" in said


@pytest.mark.parametrize("need", ["context=300000", "e2e_ms=1"])
def test_what_no_card_can_is_said(need: str) -> None:
    assert advice(need) == (
        "no other card of the catalog would do, nor would two GeForce RTX 4090 D (estimate): change a need or the model"
    )


def test_what_the_user_fixed_is_kept() -> None:
    assert "bf16 KV cache" in advice("context=128K", kv_cache_dtype="auto")
    assert "fp8 KV cache" in advice("context=256K", kv_cache_dtype="fp8")
