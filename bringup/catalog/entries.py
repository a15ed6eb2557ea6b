"""The shape of the catalog's entries."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from bringup.hardware import Frozen

ARCHITECTURES: Mapping[str, frozenset[str]] = {
    "Turing": frozenset({"7.5"}),
    "Ampere": frozenset({"8.0", "8.6"}),
    "Ada": frozenset({"8.9"}),
    "Hopper": frozenset({"9.0"}),
    "Blackwell": frozenset({"10.0", "10.3", "12.0"}),
}
"""Architecture → the compute capabilities of its cards (CUDA C++ Programming Guide, "Compute Capabilities")."""

_DRIVER_FRACTION = 0.02
_DRIVER_LEAST_MIB = 512
"""What is taken for the driver's own memory: more than the most that was seen. nvidia-smi's total less what PyTorch reports as the
card's capacity: 357 to 480 MiB on a 4090 (24564, 23.64 to 23.52 GiB), 482 on a 5080 (16303, 15.45 GiB), 515 on a 5090 (32607,
31.34 GiB), 638 on an RTX PRO 6000 (97887, 94.97 GiB), 922 on an A100 (81920, 79.10 GiB), 1103 on a GH200 or H20 (97871,
94.50 GiB), from published logs, paired by size; NVML reserved 480 MiB of an H100 (driver 580.159.04, 2026-11-24)."""
_INLINE_ECC = 15 / 16
"""What is left where error correction lies in the memory itself: an A10 of 24576 MiB shows 23028 (published nvidia-smi output)."""


class GpuModel(Frozen):
    """One card as sold; cards that one PCI id stands for are one entry."""

    pci_ids: tuple[Annotated[str, StringConstraints(pattern=r"^10de:[0-9a-f]{4}$")], ...] = Field(min_length=1)
    name: str
    """As NVIDIA sells it, without "NVIDIA"; with "or" where one id stands for several."""
    family: Literal["geforce", "professional", "datacenter"]
    architecture: Literal["Turing", "Ampere", "Ada", "Hopper", "Blackwell"]
    compute_capability: str
    memory_type: Literal["GDDR6", "GDDR6X", "GDDR7", "HBM2", "HBM2e", "HBM3", "HBM3e"]
    vram_mib: int = Field(gt=0)
    """As nvidia-smi prints it."""
    vram_nominal: bool = False
    """True where `vram_mib` is the size that the card is sold with, for want of nvidia-smi's figure."""
    other_vram_mib: tuple[int, ...] = ()
    """Larger sizes that are sold under the same ids: only the driver can tell."""
    cuda_visible_mib: int | None = None
    """As CUDA reports it: what vLLM takes its fraction of. None where it is not known; see `visible_mib`."""
    memory_bus_bits: int = Field(gt=0)
    memory_gbit_s_per_pin: float | None = None
    """None for HBM, whose bandwidth is published directly."""
    bandwidth_gb_s: float = Field(gt=0)
    pcie_generation: int | None = None
    """Of the card's edge, as `pcie_lanes`; None where it has none, or where it is not known."""
    pcie_lanes: int | None = None
    board_power_w: int | None = None
    cuda_cores: int | None = None
    boost_mhz: int | None = None
    bf16_tflops: float | None = None
    """Dense tensor throughput with FP32 accumulation, as the other two; fp16's is equal. None where none is known."""
    fp16_tflops: float | None = None
    """Given on Turing only, which has no bf16."""
    fp8_tflops: float | None = None
    note: str = ""
    source: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """Refuse figures that cannot all be true."""
        if self.compute_capability not in ARCHITECTURES[self.architecture]:
            known = ", ".join(sorted(ARCHITECTURES[self.architecture], key=float))
            raise ValueError(f"{self.name}: compute_capability {self.compute_capability} is not {self.architecture}'s ({known})")
        if self.memory_gbit_s_per_pin is not None:
            computed = self.memory_bus_bits * self.memory_gbit_s_per_pin / 8
            if abs(computed - self.bandwidth_gb_s) > 0.01 * self.bandwidth_gb_s:
                raise ValueError(
                    f"{self.name}: bandwidth_gb_s is {self.bandwidth_gb_s:g}, but {self.memory_bus_bits} bits at "
                    f"{self.memory_gbit_s_per_pin:g} Gbit/s a pin are {computed:g}"
                )
        if self.cuda_visible_mib is not None and self.cuda_visible_mib > self.vram_mib:
            raise ValueError(f"{self.name}: cuda_visible_mib {self.cuda_visible_mib} is more than vram_mib {self.vram_mib}")
        if self.other_vram_mib and (not self.note or min(self.other_vram_mib) <= self.vram_mib):
            raise ValueError(
                f"{self.name}: of several sizes vram_mib must be the smallest, and `note` must say which cards they are"
            )
        return self

    @property
    def visible_mib(self) -> int:
        """What CUDA sees: `cuda_visible_mib`, else an estimate that is rather too low, so that a plan does not promise too much."""
        if self.cuda_visible_mib is not None:
            return self.cuda_visible_mib
        vram_mib = self.vram_mib * (_INLINE_ECC if self.vram_nominal else 1)
        return int(vram_mib - max(_DRIVER_LEAST_MIB, _DRIVER_FRACTION * vram_mib))


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
