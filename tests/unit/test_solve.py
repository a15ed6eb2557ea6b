"""Needs → the least harmful way."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bringup.catalog import load_catalog
from bringup.errors import BringupError
from bringup.needs import Need, parse_need
from bringup.plan.configuration import Card, Case
from bringup.plan.solve import NoWayError, Solution, pairs, solve
from tests.unit.machines import workstation

CATALOG = load_catalog()
QWEN = CATALOG.model("qwen3-4b")
ENGINE = CATALOG.engine(None, "cuda")


def card(pci_id: str = "10de:2685") -> Card:
    model = CATALOG.gpu(pci_id)
    assert model is not None
    return Card(gpu=workstation().gpus[0].model_copy(update={"pci_id": pci_id}), model=model, index=0)


def case(on: str = "10de:2685", **fixed: Any) -> Case:
    there = card(on)
    return Case(
        card=there,
        engine=ENGINE,
        calibration=CATALOG.calibration(ENGINE.version, there.model.compute_capability),
        model=QWEN,
        profile=CATALOG.profile("interactive"),
        overrides={name.replace("_", "-"): value for name, value in fixed.items()},
    )


def way(*needs: str, on: str = "10de:2685", **fixed: Any) -> Solution:
    return solve(case(on, **fixed), [parse_need(need) for need in needs])


def kind(solution: Solution) -> tuple[str, int, float]:
    found = solution.configuration
    return found.checkpoint.precision, found.kv.bits, found.utilization


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        pytest.param(["context=32768"], ("bf16", 16, 0.85), id="nothing-to-give-up"),
        pytest.param(["context=80K"], ("bf16", 16, 0.90), id="more-of-the-card-before-less-quality"),
        pytest.param(["context=128K"], ("bf16", 8, 0.85), id="kv-cache-before-weights"),
        pytest.param(["concurrency=16@8192"], ("bf16", 8, 0.85), id="concurrency"),
        pytest.param(["e2e_ms=1100"], ("int4", 16, 0.85), id="the-articles-line"),
        pytest.param(["e2e_ms=1200"], ("fp8", 16, 0.85), id="a-little-more-time"),
        pytest.param(["context=128K", "e2e_ms=1100"], ("int4", 8, 0.85), id="both"),
        pytest.param(["context=256K"], ("bf16", 4, 0.85), id="the-articles-context"),
    ],
)
def test_least_harmful_way(needs: list[str], expected: tuple[str, int, float]) -> None:
    assert kind(way(*needs)) == expected


def test_what_was_tried_before_is_told_with_its_reason() -> None:
    attempts = way("e2e_ms=1100").attempts
    assert attempts[0].name == "bf16 weights, bf16 KV cache"
    assert all("the floor is" in attempt.missing for attempt in attempts)


def test_eight_bit_kv_cache_on_ada_is_served_without_nvcc() -> None:
    backend = way("context=128K").configuration.kv.served_by(flashinfer_kernels=False)
    assert backend is not None
    assert (backend.name, backend.automatic) == ("TRITON_ATTN", False)


def test_what_the_user_set_is_kept() -> None:
    assert way("context=16K", gpu_memory_utilization=0.7).configuration.utilization == 0.7
    assert way("context=16K", kv_cache_dtype="fp8").configuration.kv.value == "fp8"
    with pytest.raises(NoWayError):
        way("context=128K", kv_cache_dtype="auto")


def test_no_way_names_the_nearest_miss() -> None:
    with pytest.raises(NoWayError, match=r"e2e_ms=300.*comes nearest.*the floor is 6\d\d ms") as caught:
        way("e2e_ms=300")
    assert len(caught.value.attempts) > 3


def test_context_beyond_the_models_is_no_matter_of_memory() -> None:
    with pytest.raises(NoWayError, match="takes 262144 tokens at most"):
        way("context=300000")


def test_small_card_takes_smaller_weights() -> None:
    assert kind(way("context=8192", on="10de:2882"))[0] in ("fp8", "int4")  # RTX 4060, 8 GB


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.integers(1024, 250_000), st.integers(0, 250_000))
def test_longer_context_never_fits_where_a_shorter_one_does_not(tokens: int, more: int) -> None:
    def fits(context: int) -> bool:
        try:
            return way(f"context={context}").outcome.longest_context >= context
        except NoWayError:
            return False

    assert fits(tokens) or not fits(tokens + more)


def test_pairs_are_sorted_by_harm_and_all_can_be_served() -> None:
    found = pairs(case())
    assert (found[0][0].precision, found[0][2].bits) == ("bf16", 16)
    assert (found[-1][0].precision, found[-1][2].bits) == ("int4", 4)
    assert all(dtype.served_by(flashinfer_kernels=False) for _, _, dtype in found)


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("context=262144", Need(kind="context", amount=262144)),
        ("context=256K", Need(kind="context", amount=262144)),
        ("e2e-ms=1100", Need(kind="e2e_ms", amount=1100)),
        ("itl_ms=4.5", Need(kind="itl_ms", amount=4.5)),
        ("concurrency=16@8k", Need(kind="concurrency", amount=16, at_tokens=8192)),
    ],
)
def test_need_is_read(text: str, need: Need) -> None:
    assert parse_need(text) == need


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("contxt=5", "did you mean context"),
        ("context", "context takes a number"),
        ("context=-1", "context takes a number"),
        ("context=0", "context takes a number"),
        ("context=nan", "context takes a number"),
        ("context=5@7", "context takes a number"),
        ("concurrency=16", "REQUESTS@TOKENS"),
        ("", "known:"),
    ],
)
def test_need_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(BringupError, match=said):
        parse_need(text)
