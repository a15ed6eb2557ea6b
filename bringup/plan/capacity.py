"""Memory → KV cache: how many tokens fit, by vLLM's own accounting.

vLLM takes `utilization` of the card's memory, loads the weights, runs its largest batch once with dummy tokens, and gives what is
left to the KV cache (v1/worker/gpu_worker.py, determine_available_memory):

    KV cache = utilization × total − weights − peak of the run − memory beside PyTorch [− CUDA graphs − buffers, newer versions]

The peak of the run is the largest of three moments (found on an H100 with vLLM 0.24.0, 2026-11-24, to a few MB in most of 27 runs;
H hidden size, I intermediate size, V vocabulary, T batched tokens, S sequences; 16-bit values):

    a layer's MLP      T × (6·I + 4·H + 2·(heads + 2·KV heads)·head size)
    the output layer   2·V·H (a copy of it; not with enforce-eager) + 4·T·H
    the sampler        S × 6·V + 2·(T + S)·H
"""

from bringup.catalog.calibration import Calibration
from bringup.catalog.entries import Shape
from bringup.hardware import Frozen

_MIB = 2**20
_VALUE = 2
"""Bytes of a bf16 or float16 value."""
_ALLOCATOR_STEP = 2 * _MIB
"""PyTorch takes memory for tensors of 10 MiB and more in steps of 2 MiB, and gives a rest of up to 1 MiB with the tensor."""
_ALLOCATOR_LARGE = 10 * _MIB
_ALLOCATOR_KEPT = _MIB


class Batch(Frozen):
    """How much vLLM does at once."""

    tokens: int
    """``max-num-batched-tokens``"""
    sequences: int
    """``max-num-seqs``"""
    enforce_eager: bool = False


class KvLayout(Frozen):
    """How the KV cache holds a token."""

    bytes_per_value: float = 2
    extra_bytes_per_head: float = 0
    """Scales, for each of keys and values together, a head and token."""
    block_tokens: int = 16
    kept_layers: int = 0
    """So many layers hold 16-bit values all the same."""

    @property
    def eight_bit(self) -> bool:
        """Whether it is one of the 8-bit kinds."""
        return self.bytes_per_value == 1


class MemoryBudget(Frozen):
    """Bytes of a card, by use. Together they are its memory: `budget_bytes` is what vLLM may take."""

    total_bytes: int
    """As CUDA reports it."""
    budget_bytes: int
    weights_bytes: int
    peak_bytes: int
    """Highest point of a batch: activations, logits."""
    non_torch_bytes: int
    graphs_bytes: int
    buffers_bytes: int
    graphs_in_budget: bool
    buffers_in_budget: bool
    margin_bytes: int
    """Not counted on."""
    kv_cache_bytes: int
    """What is left for the KV cache, the margin taken off; zero or less: the model does not fit."""
    context_bytes: int
    bytes_per_token: int
    block_tokens: int

    @property
    def kv_cache_tokens(self) -> int:
        """Whole blocks of tokens that the KV cache holds; what vLLM logs as its size."""
        block_bytes = self.bytes_per_token * self.block_tokens
        return max(0, self.kv_cache_bytes // block_bytes) * self.block_tokens

    @property
    def beyond_budget_bytes(self) -> int:
        """What comes on top of vLLM's budget: the CUDA context; graphs and buffers where this version does not subtract them."""
        graphs = 0 if self.graphs_in_budget else self.graphs_bytes
        return self.context_bytes + graphs + (0 if self.buffers_in_budget else self.buffers_bytes)

    @property
    def left_bytes(self) -> int:
        """What nobody takes; below zero the card runs out of memory although the server started."""
        return self.total_bytes - self.budget_bytes - self.beyond_budget_bytes


def kv_bytes_per_token(shape: Shape, layout: KvLayout) -> int:
    """Bytes of KV cache a token takes over all layers (v1/kv_cache_interface.py: keys and values of every KV head)."""
    kept = min(layout.kept_layers, shape.layers)
    packed = 2 * shape.head_size * layout.bytes_per_value + layout.extra_bytes_per_head
    return int(shape.kv_heads * (kept * 2 * shape.head_size * _VALUE + (shape.layers - kept) * packed))


def peak_bytes(shape: Shape, batch: Batch, calibration: Calibration) -> int:
    """Highest point of vLLM's profile run, above the weights."""
    hidden = _VALUE * shape.hidden_size
    attention = _VALUE * (shape.heads + 2 * shape.kv_heads) * shape.head_size
    sequences = min(batch.sequences, batch.tokens)
    forward = batch.tokens * (3 * _VALUE * shape.intermediate_size + 2 * hidden + attention)
    output = 2 * batch.tokens * hidden
    if not batch.enforce_eager:  # both are the compiled model's alone
        forward += int(calibration.forward_mib * _MIB)
        output += shape.vocabulary * hidden if calibration.copies_output_layer else 0
    # 16-bit logits and their 32-bit copy
    sampler = sequences * (6 * shape.vocabulary + hidden) + batch.tokens * hidden + calibration.logits_mib * _MIB
    return int(max(forward, output, sampler))


def loaded_bytes(
    shape: Shape, weights_bytes: float, max_positions: int, bits: float, online: bool, calibration: Calibration
) -> int:
    """Memory that loading takes: the weights, the table of rotary positions, what the allocator rounds up, what is left over.

    Args:
        shape: of the model.
        weights_bytes: of the checkpoint, as computed from its parameters.
        max_positions: of the model's configuration; the table has a row for each.
        bits: of a quantised weight.
        online: whether vLLM quantises while it loads.
        calibration: constants of this version.
    """
    rotary = max_positions * shape.head_size * _VALUE
    left_over = calibration.load_mib + (calibration.online_fp8_mib if online else 0)
    return int(weights_bytes + rotary + _rounding(shape, bits) + left_over * _MIB)


def buffers_bytes(shape: Shape, batch: Batch) -> int:
    """Tables of vLLM's sampler: a 32-bit counter and a bit for each word and sequence."""
    return int(batch.sequences * shape.vocabulary * (4 + 1 / 8))


def gpu_budget(
    shape: Shape,
    loaded: int,
    total_bytes: int,
    utilization: float,
    batch: Batch,
    layout: KvLayout,
    calibration: Calibration,
) -> MemoryBudget:
    """Account for a card's memory as vLLM would.

    Args:
        shape: of the model.
        loaded: bytes that loading the weights takes (`loaded_bytes`).
        total_bytes: the card's memory as CUDA reports it.
        utilization: ``gpu-memory-utilization``.
        batch: the largest batch.
        layout: of the KV cache.
        calibration: constants of this version on such a card.
    """
    budget = int(total_bytes * utilization)
    peak = peak_bytes(shape, batch, calibration)
    non_torch = int((calibration.non_torch_mib + (calibration.fp8_kv_mib if layout.eight_bit else 0)) * _MIB)
    graphs = (
        0 if batch.enforce_eager else int((calibration.graphs_mib + calibration.graphs_per_sequence_mib * batch.sequences) * _MIB)
    )
    buffers = buffers_bytes(shape, batch)
    used = loaded + peak + non_torch
    used += (graphs if calibration.graphs_in_budget else 0) + (buffers if calibration.buffers_in_budget else 0)
    left = budget - used
    margin = int(max(0, left) * calibration.margin)
    return MemoryBudget(
        total_bytes=total_bytes,
        budget_bytes=budget,
        weights_bytes=loaded,
        peak_bytes=peak,
        non_torch_bytes=non_torch,
        graphs_bytes=graphs,
        buffers_bytes=buffers,
        graphs_in_budget=calibration.graphs_in_budget,
        buffers_in_budget=calibration.buffers_in_budget,
        margin_bytes=margin,
        kv_cache_bytes=left - margin,
        context_bytes=int(calibration.context_mib * _MIB),
        bytes_per_token=kv_bytes_per_token(shape, layout),
        block_tokens=layout.block_tokens,
    )


def _rounding(shape: Shape, bits: float) -> int:
    """What PyTorch's allocator adds to the large tensors: each is rounded up to 2 MiB where the rest is not worth splitting off."""
    query, key = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    linear = (
        (query + 2 * key) * shape.hidden_size,
        query * shape.hidden_size,
        2 * shape.intermediate_size * shape.hidden_size,
        shape.intermediate_size * shape.hidden_size,
    )
    layer = sum(_rounded_up(values * bits / 8) for values in linear)
    embeddings = _rounded_up(shape.vocabulary * shape.hidden_size * _VALUE) * (1 if shape.tied_embeddings else 2)
    return shape.layers * layer + embeddings


def _rounded_up(size: float) -> int:
    if size < _ALLOCATOR_LARGE:
        return 0
    rest = -int(size) % _ALLOCATOR_STEP
    return rest if rest <= _ALLOCATOR_KEPT else 0
