"""One way to serve a model on a card, and what comes of it: memory and floors of speed."""

from typing import Any, Self

from bringup.catalog.calibration import Calibration
from bringup.catalog.engine_rules import KvDtype, WeightKind
from bringup.catalog.entries import Checkpoint, Engine, GpuModel, Model, Profile
from bringup.hardware import Frozen, Gpu
from bringup.plan.capacity import Batch, KvLayout, MemoryBudget, gpu_budget, loaded_bytes
from bringup.plan.limits import Speed, speed_of

_MIB = 2**20
_SIZE_TOLERANCE = 0.02
"""ECC takes more of some cards (1/16 of GDDR6), and is left to the driver's figure as well."""


class Card(Frozen):
    """The card that serves."""

    gpu: Gpu
    model: GpuModel
    index: int
    """As CUDA counts, in the order of PCI addresses."""

    @property
    def total_is_known(self) -> bool:
        """Whether its memory was seen by somebody, and is no estimate."""
        return self.model.cuda_visible_mib is not None or self.total_bytes != self.model.visible_mib * _MIB

    @property
    def total_bytes(self) -> int:
        """Memory that CUDA reports, which vLLM takes its fraction of.

        The catalog's figure comes first, so that a plan made before there is a driver stays right after it; without one it is the
        driver's total less what it reserves (equal to CUDA's on an H100, 2026-11-24), and without a driver an estimate.
        """
        state = self.gpu.state
        if state is None or state.memory_total_mib is None or state.memory_reserved_mib is None:
            return self.model.visible_mib * _MIB
        if self.model.cuda_visible_mib is None or self.is_another:
            return (state.memory_total_mib - state.memory_reserved_mib) * _MIB
        return self.model.visible_mib * _MIB

    @property
    def is_another(self) -> bool:
        """Whether its driver sees another memory than such a card is sold with: a rebuilt board, or one of several sizes."""
        seen = self.gpu.driver_memory_mib or (self.gpu.state.memory_total_mib if self.gpu.state else None)
        return seen is not None and abs(seen - self.model.vram_mib) > _SIZE_TOLERANCE * self.model.vram_mib


class Case(Frozen):
    """What is to be served, on what, for whom, and what the user fixed."""

    card: Card
    engine: Engine
    calibration: Calibration
    model: Model
    profile: Profile
    overrides: dict[str, Any]
    """Options of `vllm serve` that the user set, by their names there."""

    @property
    def capability(self) -> str:
        """The card's compute capability."""
        return self.card.model.compute_capability

    def on(self, card: Card, calibration: Calibration) -> Self:
        """The same on another card."""
        return self.model_copy(update={"card": card, "calibration": calibration})


class Configuration(Frozen):
    """What of a model is served, and in how much memory."""

    checkpoint: Checkpoint
    weights: WeightKind
    kv: KvDtype
    utilization: float
    max_num_seqs: int
    max_num_batched_tokens: int
    block_tokens: int = 16
    enforce_eager: bool = False
    half: bool = False
    """Whether 16-bit values are float16, because the card has no bf16."""

    @property
    def name(self) -> str:
        """For people: ``fp8 weights, 8-bit KV cache``."""
        kv = "bf16" if self.kv.bits == 16 else self.kv.value
        loading = " (quantised while loading)" if self.weights.online else ""
        return f"{self.weights.precision} weights{loading}, {kv} KV cache"


class Outcome(Frozen):
    """What a configuration leads to on a card."""

    budget: MemoryBudget
    speed: Speed

    @property
    def longest_context(self) -> int:
        """Tokens of the longest single request that the server starts with: newer versions keep one block for themselves
        (v1/core/kv_cache_planning.py of 0.33.0)."""
        return max(0, self.budget.kv_cache_tokens - self.budget.block_tokens)


def evaluate(case: Case, configuration: Configuration) -> Outcome:
    """Account for a configuration's memory and floors."""
    card, calibration, model = case.card, case.calibration, case.model
    checkpoint = configuration.checkpoint
    online = configuration.weights.online
    weights = model.weights_bytes(checkpoint)
    bits = checkpoint.bits_per_quantized_weight
    if online and checkpoint.precision == "bf16":
        bits = 8.0
        weights = model.quantizable_parameters * bits / 8 + (model.parameters - model.quantizable_parameters) * 2
    kv = configuration.kv
    layout = KvLayout(
        bytes_per_value=kv.bytes_per_value,
        extra_bytes_per_head=kv.extra_bytes_per_head_per_token,
        block_tokens=configuration.block_tokens,
        kept_layers=kv.kept_layers,
    )
    budget = gpu_budget(
        shape=model,
        loaded=loaded_bytes(model, weights, model.max_positions, bits, online, calibration),
        total_bytes=card.total_bytes,
        utilization=configuration.utilization,
        batch=Batch(
            tokens=configuration.max_num_batched_tokens,
            sequences=configuration.max_num_seqs,
            enforce_eager=configuration.enforce_eager,
        ),
        layout=layout,
        calibration=calibration,
    )
    return Outcome(budget=budget, speed=speed_of(card.model, model, weights, configuration.weights, budget.bytes_per_token))
