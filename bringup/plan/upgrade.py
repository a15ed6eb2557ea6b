"""What would meet needs that this host's card cannot: another card of the catalog, or two of the same."""

from collections.abc import Sequence

from bringup.catalog import Catalog
from bringup.catalog.entries import GpuModel
from bringup.hardware import Gpu
from bringup.needs import Need
from bringup.plan.configuration import Card, Case, Configuration, Outcome, evaluate
from bringup.plan.needs import shortfall
from bringup.plan.solve import NoWayError, Solution, configurations, solve

_RATES = ("bf16_tflops", "fp16_tflops", "fp8_tflops")
"""Fields of a card that say how fast it calculates."""


def what_would_do(case: Case, needs: Sequence[Need], catalog: Catalog) -> str:
    """Say in words what would meet the needs: the least card of the catalog, and whether two of the present one would.

    Args:
        case: what cannot be served as needed, and where.
        needs: all of which must be met.
        catalog: whose cards are tried.
    """
    other = _least_card(case, needs, catalog)
    pair = _pair(case, needs)
    name, ways = case.card.model.name, []
    if other is not None:
        gpu, found = other
        ways.append(f"{gpu.name} ({_gib(gpu)} GiB, {gpu.bandwidth_gb_s:g} GB/s) with {found.configuration.name}")
    if pair is not None:
        ways.append(
            f"two {name} with {pair.name} (estimate: weights and KV heads split evenly, what passes between the cards left out; "
            "this version plans one card)"
        )
    if not ways:
        return f"no other card of the catalog would do, nor would two {name} (estimate): change a need or the model"
    lacking = [] if other else ["no other card of the catalog would do by itself"]
    lacking += [] if pair else [f"two {name} would not (estimate)"]
    return "; ".join([f"what would do: {'; or '.join(ways)}", *lacking])


def _gib(gpu: GpuModel) -> int:
    return round(gpu.vram_mib / 1024)


def _least_card(case: Case, needs: Sequence[Need], catalog: Catalog) -> tuple[GpuModel, Solution] | None:
    """The card with the least memory that meets the needs: of the present one's family if any does, else of all."""

    def rank(gpu: GpuModel) -> tuple[bool, int, float, str]:
        # of equally large cards the slowest is enough, and likely the cheapest
        return (gpu.family != case.card.model.family, _gib(gpu), gpu.bandwidth_gb_s, gpu.name)

    def way(gpu: GpuModel) -> Solution | None:
        there = Card(gpu=Gpu(pci_address="", pci_id=gpu.pci_ids[0], numa_node=None, kernel_driver=None), model=gpu, index=0)
        try:
            return solve(case.on(there, catalog.calibration(case.engine.version, gpu.compute_capability)), needs)
        except NoWayError:
            return None

    # most searches end here: what the best of all properties cannot do, none of these cards can
    capabilities = sorted({gpu.compute_capability for gpu in catalog.gpus})
    hopeful = {name for name in capabilities if way(_best([gpu for gpu in catalog.gpus if gpu.compute_capability == name]))}
    for gpu in sorted(catalog.gpus, key=rank):
        if gpu.compute_capability in hopeful and gpu != case.card.model and (found := way(gpu)):
            return gpu, found
    return None


def _best(gpus: Sequence[GpuModel]) -> GpuModel:
    """A card that does not exist, with the best properties of all of these."""
    rates = {name: [rate for gpu in gpus if (rate := getattr(gpu, name)) is not None] for name in _RATES}
    # a card whose rates are not known has no floor of arithmetic
    known = all(gpu.bf16_tflops or gpu.fp16_tflops for gpu in gpus)
    visible_mib = max(gpu.visible_mib for gpu in gpus)
    return gpus[0].model_copy(
        update={
            "vram_mib": visible_mib,
            "cuda_visible_mib": visible_mib,
            "other_vram_mib": (),
            "bandwidth_gb_s": max(gpu.bandwidth_gb_s for gpu in gpus),
            "memory_gbit_s_per_pin": None,
            **{name: max(values) if values and known else None for name, values in rates.items()},
        }
    )


def _pair(case: Case, needs: Sequence[Need]) -> Configuration | None:
    """The least harmful configuration with which two such cards would meet the needs; None where there is none."""
    model = case.model
    if model.heads % 2 or model.kv_heads % 2 or model.intermediate_size % 2:
        return None
    for _, group in configurations(case):
        for configuration in group:
            outcome = _on_two(case, configuration)
            fits = outcome.budget.kv_cache_tokens > 0 and outcome.budget.left_bytes > 0
            if fits and not any(shortfall(need, configuration, outcome, model, case.profile.smoke) for need in needs):
                return configuration
    return None


def _on_two(case: Case, configuration: Configuration) -> Outcome:
    """Two cards with tensor parallelism: each holds half of the weights and of the KV heads, and all of the overheads."""
    card, model = case.card, case.model
    half = model.model_copy(
        update={
            "heads": model.heads // 2,
            "kv_heads": model.kv_heads // 2,
            "intermediate_size": model.intermediate_size // 2,
            "parameters": model.parameters // 2,
            "quantizable_parameters": model.quantizable_parameters // 2,
        }
    )
    both = card.model.model_copy(
        update={
            "bandwidth_gb_s": 2 * card.model.bandwidth_gb_s,
            **{name: 2 * rate for name in _RATES if (rate := getattr(card.model, name)) is not None},
        }
    )
    memory = evaluate(case.model_copy(update={"model": half}), configuration).budget
    speed = evaluate(case.on(card.model_copy(update={"model": both}), case.calibration), configuration).speed
    return Outcome(budget=memory, speed=speed)
