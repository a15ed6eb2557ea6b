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


class Checkpoint(Frozen):
    """Weights of a model as one repository holds them, or as vLLM makes them of that repository while it loads."""

    precision: Literal["bf16", "fp8", "int4"]
    """Of the attention's and MLP's linear layers. float16 counts as ``bf16``: it is as large."""
    repository: str
    """On Hugging Face; a path, where the model was read from a folder."""
    revision: str | None = None
    """Commit of the repository; None where none is pinned."""
    method: Literal["fp8", "fp8-block", "awq", "gptq", "compressed-tensors"] | None = None
    """How the weights are quantised: ``fp8`` has one scale a matrix, ``fp8-block`` one a block of 128 × 128."""
    bits_per_quantized_weight: float = Field(gt=0, le=16)
    """With scales and zero points."""
    download_mib: int = Field(gt=0)
    """Weights, tokenizer and configuration; some repositories hold other formats besides."""
    caveat: str = ""
    """What it may hurt, for people."""
    online: bool = False
    """vLLM quantises while it loads the repository's 16-bit weights."""
    quantization: str | None = None
    """vLLM's option ``quantization``; None where the checkpoint's own configuration tells vLLM."""
    source: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """Refuse what cannot all be true."""
        if (self.precision == "bf16") != (self.method is None) or (self.method is None) != (self.bits_per_quantized_weight == 16):
            raise ValueError(f"{self.repository}: bf16 has no method and 16 bits a weight, anything else a method and fewer bits")
        if self.online != (self.quantization is not None):
            raise ValueError(f"{self.repository}: `quantization` is given with online quantisation, and only then")
        if (self.precision == "bf16") != (not self.caveat):
            raise ValueError(f"{self.repository}: say in `caveat` what {self.precision} may hurt; bf16 has none")
        return self


class Shape(Frozen):
    """Sizes of a dense decoder-only model with grouped-query attention."""

    architecture: Literal["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    """Query heads."""
    kv_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    """Of the MLP."""
    vocabulary: int = Field(gt=0)
    tied_embeddings: bool
    """The output layer is the input embedding: it is in memory once, even where the files hold it twice."""

    @model_validator(mode="after")
    def _heads_share_keys(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key-value heads evenly")
        return self


class Model(Shape):
    """A dense decoder-only model with grouped-query attention, and the weights it comes in."""

    id: str
    aliases: tuple[str, ...] = ()
    revision: str | None
    """Commit of the 16-bit repository on Hugging Face; None where the catalog pins none."""
    parameters: int = Field(gt=0)
    """All of them, each once (tied embeddings too)."""
    quantizable_parameters: int = Field(gt=0)
    """Weights of the attention's and MLP's linear layers; FP8, AWQ and GPTQ leave embedding, output layer and norms alone."""
    max_context: int = Field(gt=0)
    """Tokens, prompt and answer together."""
    max_positions: int = Field(gt=0)
    """``max_position_embeddings`` of config.json."""
    measured_weights_gib: float | None = None
    """Memory for the first checkpoint's weights as vLLM logged it, where that was measured."""
    checkpoints: tuple[Checkpoint, ...] = Field(min_length=1)
    """Best quality first; the first is what `id` itself names."""
    source: str

    @model_validator(mode="after")
    def _checkpoints_fit(self) -> Self:
        """Refuse checkpoints that cannot be this model's."""
        if self.quantizable_parameters >= self.parameters:
            raise ValueError(f"{self.id}: quantizable_parameters must be fewer than parameters")
        order = [("bf16", "fp8", "int4").index(checkpoint.precision) for checkpoint in self.checkpoints]
        if order != sorted(order):
            raise ValueError(f"{self.id}: checkpoints must stand in the order bf16, fp8, int4")
        for checkpoint in self.checkpoints:
            if checkpoint.repository == self.id and checkpoint.revision != self.revision:
                raise ValueError(
                    f"{self.id}: revision is {self.revision} for the model, {checkpoint.revision} for a checkpoint of it"
                )
        return self

    def weights_bytes(self, checkpoint: Checkpoint) -> float:
        """Bytes of the weights in memory: quantised layers with their scales, everything else 16 bits a value."""
        other = self.parameters - self.quantizable_parameters
        return self.quantizable_parameters * checkpoint.bits_per_quantized_weight / 8 + other * 2

    @property
    def bytes_per_parameter(self) -> float:
        """Mean over all parameters of the first checkpoint."""
        return self.weights_bytes(self.checkpoints[0]) / self.parameters

    @property
    def weights_gib(self) -> float:
        """Memory for the first checkpoint's weights: as measured, else as computed, which leaves out what vLLM adds."""
        if self.measured_weights_gib is not None:
            return self.measured_weights_gib
        return self.weights_bytes(self.checkpoints[0]) / 2**30

    @property
    def download_mib(self) -> int:
        """Size of the first checkpoint's files."""
        return self.checkpoints[0].download_mib


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
