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


class EngineSetting(Frozen):
    """One option of `vllm serve`, and what it takes."""

    type: Literal["int", "float", "bool", "choice", "str", "strings", "json"]
    """``strings`` is one or more of them, ``json`` an object (or its text)."""
    least: float | None = None
    most: float | None = None
    choices: tuple[str | int, ...] = ()
    """All that a ``choice`` may be; where not empty, all that an ``int`` may be too."""
    only: bool | None = None
    """The one value of a ``bool`` that bringup lets through; `why` says why."""
    why: str = ""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if (self.type == "choice") != bool(self.choices) and not (self.type == "int" and self.choices):
            raise ValueError("choices: a choice needs them, and only an int may have them besides")
        if self.only is not None and (self.type != "bool" or not self.why):
            raise ValueError("only: is for a bool, and needs its why")
        return self


class EngineFlag(EngineSetting):
    """An option as one version of vLLM has it, whoever may set it."""

    default: bool | int | float | str | None = None
    """vLLM's own; None where vLLM decides at start, or where it is no constant."""
    owner: str = ""
    """Setting of the inventory that it comes from, where the plan alone may write it."""


class ServerDefaults(Frozen):
    """What the API server takes where nothing is said, on cards of at least some memory."""

    least_vram_gib: int
    """Of the memory that NVML reports: `GpuModel.vram_mib`."""
    except_named: tuple[str, ...] = ()
    """Cards with one of these in their name, in lower case, fall to the next row."""
    max_num_seqs: int
    max_num_batched_tokens: int
    source: str


Capabilities = tuple[Annotated[str, StringConstraints(pattern=r"^\d+\.\d(-\d+\.\d)?$")], ...]
"""Compute capabilities, each one or an inclusive range: ``("8.0-8.9", "12.0")``."""

Need = Literal["", "flashinfer-kernels"]
"""What must be on the host besides the engine. ``flashinfer-kernels``: nvcc and ninja for FlashInfer to compile its kernels with,
or its precompiled ones (`vllm download-kernels`)."""


class AttentionBackend(Frozen):
    """One of vLLM's attention backends for dense models, and what it can run on at all."""

    name: str
    """As ``attention-backend`` takes it."""
    capabilities: Capabilities
    first_on: Capabilities = ()
    """Where vLLM tries it before all others; elsewhere it tries them in the order of the catalog."""
    head_sizes: tuple[int, ...] = ()
    """Empty: all multiples of `head_multiple` in the range."""
    head_multiple: int = 1
    least_head_size: int = 1
    most_head_size: int | None = None
    block_multiple: int
    """Tokens that the block size must be a multiple of."""
    needs: Need = ""
    source: str


class KvBackend(Frozen):
    """What limits one backend with one data type of the KV cache, beyond what limits it anyway."""

    backend: str
    capabilities: Capabilities = ()
    """Empty: wherever the backend runs."""
    most_head_size: int | None = None
    refused_head_sizes: tuple[int, ...] = ()
    needs: Need = ""


class KvDtypeRule(Frozen):
    """One data type of the KV cache in one version of vLLM: what it costs, and where it can be served."""

    value: str
    """As ``kv-cache-dtype`` takes it."""
    bits: Literal[16, 8, 4, 3]
    """The class of precision; the coarser half where keys and values differ."""
    bytes_per_value: float
    extra_bytes_per_head_per_token: int = 0
    """Scales, norms and zero points: of key and value together."""
    kept_layers: int = 0
    """So many of the first and last layers together stay in the model's own type."""
    exact: bool = True
    """False where vLLM pads pages, so that the bytes are a lower bound."""
    capabilities: Capabilities = ()
    """Empty: wherever one of the backends runs."""
    backends: tuple[KvBackend, ...]
    tested: tuple[str, ...] = ()
    """Compute capabilities on which it was run."""
    caveat: str
    """What it may hurt, for people; empty where it hurts nothing."""
    source: str


class WeightRule(Frozen):
    """One way to hold a dense model's weights in one version of vLLM, and where it works."""

    precision: Literal["bf16", "fp8", "int4"]
    methods: tuple[str, ...] = ()
    """Methods of the checkpoint that it serves (``fp8``, ``fp8-block``, ``awq``, ``gptq``, ``compressed-tensors``)."""
    online: bool = False
    """True: vLLM quantises the bf16 checkpoint while it loads."""
    quantization: str | None = None
    """What ``quantization`` must say; None where vLLM reads it from the checkpoint."""
    compute: Literal["w16a16", "w8a8", "w8a16", "w4a16"]
    """Bits of the weights and of the activations that they are multiplied with."""
    kernel: str
    capabilities: Capabilities
    tested: tuple[str, ...] = ()
    caveat: str = ""
    source: str


class EngineImage(Frozen):
    """A container image that somebody publishes of an engine."""

    reference: str
    """Without a registry: the host's own settings of Podman, or the inventory, say where it is."""
    disk_mib: int


class Engine(Frozen):
    """One build of vLLM."""

    name: str
    device: Literal["cuda", "cpu"]
    version: str
    installable: bool = True
    """False: it is there to plan with, and is never put on a host."""
    requirements: str | None
    """File in catalog/engines/ that pins every package; None where it is not installable."""
    command: tuple[str, ...]
    """What starts the server; the first word is relative to the engine's folder."""
    parser_module: str
    """Module of this version that holds `make_arg_parser`."""
    torch_backend: str
    """Where uv takes torch from when the machine's own pip settings do not say: ``cpu``, ``cu130``, …"""
    min_driver_branch: int | None
    apt_packages: tuple[str, ...]
    disk_mib: int
    image: EngineImage | None = None
    """None: nobody is known to publish one."""
    host_memory_mib: int
    """Main memory of its processes without weights and KV cache."""
    server_defaults: tuple[ServerDefaults, ...] = Field(min_length=1)
    """From the largest memory to the smallest."""
    flags: dict[str, EngineFlag]
    """The options that this version has, as far as a plan writes them or an inventory may."""
    settings: dict[str, EngineSetting]
    """Those of them that an inventory may override, and how far."""
    attention_backends: tuple[AttentionBackend, ...] = ()
    """In the order in which vLLM tries them."""
    kv_dtypes: tuple[KvDtypeRule, ...] = ()
    """From the best quality to the worst; empty on the CPU."""
    weights: tuple[WeightRule, ...] = ()
    """From the best quality to the worst; empty on the CPU."""
    source: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """Refuse settings that this version does not have, and rules that name what is not there."""
        if self.installable == (self.requirements is None):
            raise ValueError(f"{self.name}: an engine is installable if, and only if, it has requirements")
        for name, setting in self.settings.items():
            flag = self.flags.get(name)
            # a text may be narrowed down to a choice
            types = {flag.type, "choice"} if flag and flag.type == "str" else {flag.type if flag else ""}
            if flag is None or flag.owner or setting.type not in types:
                raise ValueError(f"{self.name}: settings: {name} is not a flag of the same type that an inventory may set")
            outside = set(setting.choices) - set(flag.choices) if flag.choices else set()
            if outside:
                raise ValueError(f"{self.name}: settings: {name} allows what vLLM does not take: {outside}")
        backends = {backend.name for backend in self.attention_backends}
        for rule in self.kv_dtypes:
            if rule.value not in self.flags["kv-cache-dtype"].choices:
                raise ValueError(f"{self.name}: kv_dtypes: vLLM does not take {rule.value}")
            if unknown := {served.backend for served in rule.backends} - backends:
                raise ValueError(f"{self.name}: kv_dtypes: {rule.value} names backends that are not listed: {unknown}")
        for way in self.weights:
            if way.quantization not in (None, *self.flags["quantization"].choices):
                raise ValueError(f"{self.name}: weights: vLLM does not take quantization {way.quantization}")
        if self.server_defaults[-1].least_vram_gib != 0:
            raise ValueError(f"{self.name}: server_defaults: the last row must hold for every card")
        return self


class SmokeSpec(Frozen):
    """The acceptance run of a profile."""

    prompt: str
    prompt_tokens: int
    """About how many tokens the prompt has."""
    max_tokens: int
    budget_s: float = Field(gt=0)
    """About how long it may take. The number of requests is chosen to prove the lines, as far as this allows."""
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
