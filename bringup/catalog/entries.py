"""The shape of the catalog's entries."""

from typing import Literal

from pydantic import Field

from bringup.hardware import Frozen


class GpuModel(Frozen):
    """One card as sold."""

    pci_ids: tuple[str, ...]
    name: str
    compute_capability: str
    vram_mib: int
    """As nvidia-smi prints it."""
    cuda_visible_mib: int
    """As CUDA reports it: what vLLM takes its fraction of."""
    bandwidth_gb_s: float
    source: str


class Model(Frozen):
    """A dense decoder-only model with grouped-query attention."""

    id: str
    aliases: tuple[str, ...] = ()
    revision: str | None
    """Commit on Hugging Face; None where the catalog pins none."""
    parameters: int
    layers: int
    kv_heads: int
    head_size: int
    hidden_size: int
    vocabulary: int
    max_context: int
    """Tokens, prompt and answer together."""
    bytes_per_parameter: float
    weights_gib: float
    """As vLLM loads them."""
    download_mib: int
    source: str


class Overhead(Frozen):
    """GPU memory in GiB that is neither weights nor KV cache, as vLLM logs it at start."""

    activation_gib: float
    non_torch_gib: float
    cuda_graphs_gib: float
    calibrated_for: tuple[str, ...]
    """Names of the cards that these figures were measured on with this engine."""
    margin: float
    """Fraction of the KV cache kept back on every other card."""


class EngineSetting(Frozen):
    """One option of `vllm serve` that an inventory may override."""

    type: Literal["int", "float", "bool", "choice"]
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()


class Engine(Frozen):
    """One build of vLLM."""

    name: str
    device: Literal["cuda", "cpu"]
    version: str
    requirements: str
    """File in catalog/engines/ that pins every package."""
    command: tuple[str, ...]
    """What starts the server; the first word is relative to the engine's folder."""
    parser_module: str
    """Module of this version that holds `make_arg_parser`."""
    torch_backend: str
    """Where uv takes torch from when the machine's own pip settings do not say: ``cpu``, ``cu130``, …"""
    min_driver_branch: int | None
    apt_packages: tuple[str, ...]
    disk_mib: int
    host_memory_mib: int
    """Main memory of its processes without weights and KV cache."""
    overhead: Overhead | None
    settings: dict[str, EngineSetting]
    source: str


class SmokeSpec(Frozen):
    """The acceptance run of a profile."""

    prompt: str
    max_tokens: int
    requests: int
    lines: dict[str, float]
    """Metric to the most that it may be: ``ttft_p50_ms``, ``itl_p50_ms``, ``e2e_p90_ms``…"""
    source: str


class Profile(Frozen):
    """What a workload wants."""

    purpose: str
    concurrency: int = Field(ge=1)
    context_wanted: int = Field(ge=128)
    max_new_tokens: int = Field(ge=1)
    smoke: SmokeSpec
