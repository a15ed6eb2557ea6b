"""Memory → KV cache: how many tokens fit."""

from bringup.catalog.entries import GpuModel, Model, Overhead

_GIB = 2**30


def kv_bytes_per_token(model: Model, bytes_per_value: float = 2) -> int:
    """Bytes of KV cache a token takes over all layers: keys and values, two bytes each in bf16.

    Follows vLLM's page size (kv_cache_interface.py: kv_heads × block × 2·head_size × dtype bytes, a layer).
    """
    return int(model.layers * model.kv_heads * 2 * model.head_size * bytes_per_value)


def tokens_in(kv_bytes: float, model: Model, block_size: int, bytes_per_value: float = 2) -> int:
    """Whole blocks of `block_size` tokens that fit into `kv_bytes`."""
    return int(kv_bytes // (kv_bytes_per_token(model, bytes_per_value) * block_size)) * block_size


def gpu_kv_bytes(gpu: GpuModel, model: Model, overhead: Overhead, utilization: float) -> float:
    """Bytes that vLLM leaves for the KV cache on a card (its own accounting: gpu_worker.py).

    requested (utilisation × memory that CUDA sees) − weights − activation peak − non-torch memory − CUDA graphs; on a card
    that the overhead was not measured on, less the margin. Zero or less means that the model does not fit.
    """
    requested = utilization * gpu.visible_mib * 2**20
    used_gib = model.weights_gib + overhead.activation_gib + overhead.non_torch_gib + overhead.cuda_graphs_gib
    left = requested - used_gib * _GIB
    return left if gpu.name in overhead.calibrated_for else left * (1 - overhead.margin)
