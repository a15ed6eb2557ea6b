"""What one version of vLLM takes of a card besides weights and KV cache: measured constants of a formula."""

from typing import Literal

from pydantic import Field

from bringup.hardware import Frozen


class Calibration(Frozen):
    """Constants for one version of vLLM on cards of one compute capability; the formula is in plan/capacity.py.

    Sizes are in MiB. Where a pair was not measured, the nearest one's constants stand, `calibrated` is False and the plan keeps
    `margin` of the KV cache back.
    """

    engine_version: str
    compute_capability: str | None
    """``9.0``; None: any card of that version that has no entry of its own."""
    calibrated: bool
    margin: float = Field(ge=0, le=0.5)
    """Part of the KV cache that a plan does not count on."""
    non_torch_mib: float
    """CUDA libraries, NCCL and kernels: memory that PyTorch's allocator does not know."""
    load_mib: float
    """Left over by loading: workspaces of cuBLAS and small tensors."""
    online_fp8_mib: float
    """More of it where vLLM quantises while it loads."""
    fp8_kv_mib: float
    """More of it with an 8-bit KV cache."""
    forward_mib: float
    """Of the forward pass, whatever the batch."""
    logits_mib: float
    """Of the sampler, whatever the batch."""
    copies_output_layer: bool
    """Whether the profile run holds a second copy of the output layer for a moment."""
    graphs_mib: float
    """CUDA graphs, whatever the batch; 0 with enforce-eager."""
    graphs_per_sequence_mib: float
    graphs_in_budget: bool
    """Whether this version subtracts its CUDA graphs from the KV cache; otherwise they come on top of the budget."""
    buffers_in_budget: bool
    """Whether it subtracts the sampler's tables (one counter a word and sequence); otherwise they come on top."""
    context_mib: float
    """CUDA context: on the card before vLLM looks at it, and outside of the budget."""
    evidence: Literal["measured", "derived"]
    source: str
