"""What a version of vLLM does on a card: its defaults, the data types of the KV cache, and the ways to hold the weights.

The tables are in engines.yaml; these functions only look things up in them. What they return is what the sources of that version
allow, which is not to say that somebody ran it: see `evidence`.
"""

from collections.abc import Iterable, Iterator

from bringup.catalog.entries import AttentionBackend, Capabilities, Engine, KvDtypeRule, Need, WeightRule
from bringup.hardware import Frozen

NOT_TESTED = "allowed by source, not tested"
_GIB_IN_MIB = 1024
_BF16_BYTES = 2


def _version(capability: str) -> tuple[int, int]:
    major, minor = capability.split(".")
    return int(major), int(minor)


def within(compute_capability: str, ranges: Capabilities) -> bool:
    """Tell whether a compute capability (``8.9``) is one of those, or within one of their ranges (``8.0-9.0``)."""
    wanted = _version(compute_capability)
    for span in ranges:
        least, _, most = span.partition("-")
        if _version(least) <= wanted <= _version(most or least):
            return True
    return False


def _evidence(compute_capability: str, tested: Iterable[str]) -> str:
    return f"run on compute capability {compute_capability}" if compute_capability in tested else NOT_TESTED


def server_defaults(engine: Engine, vram_mib: int, gpu_name: str) -> tuple[int, int]:
    """Look up what the API server takes where a plan says nothing.

    vLLM then takes no more sequences than batched tokens, and doubles both for ``performance-mode: throughput``.

    Args:
        engine: the version of vLLM.
        vram_mib: memory of the card as the driver reports it (`GpuModel.vram_mib`); of no matter on the CPU.
        gpu_name: name of the card.

    Returns:
        max-num-seqs and max-num-batched-tokens.
    """
    name = gpu_name.lower()
    for row in engine.server_defaults:
        if vram_mib >= row.least_vram_gib * _GIB_IN_MIB and not any(part in name for part in row.except_named):
            return row.max_num_seqs, row.max_num_batched_tokens
    raise AssertionError("the last row holds for every card")


class ServingBackend(Frozen):
    """An attention backend that can serve a KV cache on a card."""

    name: str
    """As ``attention-backend`` takes it."""
    automatic: bool
    """Whether vLLM takes it when a plan names none, even where its `needs` are not met; only the first of a `KvDtype` is."""
    needs: Need
    block_multiple: int
    """Tokens that the block size must be a multiple of."""


class KvDtype(Frozen):
    """A data type that the KV cache can have on a card."""

    value: str
    """As ``kv-cache-dtype`` takes it."""
    bits: int
    """16, 8, 4 or 3; the coarser half where keys and values differ."""
    bytes_per_value: float
    extra_bytes_per_head_per_token: int
    """Scales, norms and zero points: of key and value together."""
    kept_layers: int
    """So many layers stay in 16 bits."""
    exact: bool
    """False where vLLM pads pages, so that the bytes are a lower bound."""
    backends: tuple[ServingBackend, ...]
    """In the order in which vLLM tries them."""
    caveat: str
    """What it may hurt, for people; empty where it hurts nothing."""
    evidence: str
    source: str

    def bytes_per_token(self, layers: int, kv_heads: int, head_size: int) -> int:
        """Compute what one token takes in all layers of a dense model, keys and values together."""
        # as many first as last layers, of a small model at most half of it on each side (turboquant/config.py)
        kept = 2 * min(self.kept_layers // 2, layers // 2)
        plain = 2 * head_size * _BF16_BYTES
        packed = 2 * head_size * self.bytes_per_value + self.extra_bytes_per_head_per_token
        return round(kv_heads * (kept * plain + (layers - kept) * packed))

    def served_by(self, flashinfer_kernels: bool) -> ServingBackend | None:
        """Choose the first backend whose needs a host meets; None where there is none.

        A plan must name it in ``attention-backend`` unless it is `ServingBackend.automatic`: vLLM itself does not look whether
        FlashInfer's kernels can be had.

        Args:
            flashinfer_kernels: whether FlashInfer can compile its kernels on the host, or has them.
        """
        return next((backend for backend in self.backends if flashinfer_kernels or backend.needs != "flashinfer-kernels"), None)


def _runs(backend: AttentionBackend, compute_capability: str, head_size: int) -> bool:
    if not within(compute_capability, backend.capabilities) or head_size < backend.least_head_size:
        return False
    if backend.head_sizes:
        return head_size in backend.head_sizes
    return head_size % backend.head_multiple == 0 and (backend.most_head_size is None or head_size <= backend.most_head_size)


def _serving(engine: Engine, rule: KvDtypeRule, compute_capability: str, head_size: int) -> Iterator[ServingBackend]:
    """Yield the backends that serve a data type, in vLLM's order."""
    in_order = sorted(engine.attention_backends, key=lambda backend: not within(compute_capability, backend.first_on))
    runnable = [backend for backend in in_order if _runs(backend, compute_capability, head_size)]
    automatic = True
    for backend in runnable:
        for served in rule.backends:
            if (
                served.backend == backend.name
                and (not served.capabilities or within(compute_capability, served.capabilities))
                and (served.most_head_size is None or head_size <= served.most_head_size)
                and head_size not in served.refused_head_sizes
            ):
                needs = served.needs or backend.needs
                yield ServingBackend(name=backend.name, automatic=automatic, needs=needs, block_multiple=backend.block_multiple)
                automatic = False
                break


def kv_dtypes(engine: Engine, compute_capability: str, head_size: int) -> tuple[KvDtype, ...]:
    """List the data types that the KV cache of a dense model can have on a card, the best quality first.

    Among types of equal bits the order is that of the catalog, which no measurement of quality stands behind. Empty on the CPU.

    Args:
        engine: the version of vLLM.
        compute_capability: of the card, ``8.9``.
        head_size: of the model, in values.
    """
    found = []
    for rule in engine.kv_dtypes:
        if rule.capabilities and not within(compute_capability, rule.capabilities):
            continue
        backends = tuple(_serving(engine, rule, compute_capability, head_size))
        if backends:
            fields = rule.model_dump(exclude={"backends", "capabilities", "tested"})
            found.append(KvDtype(**fields, backends=backends, evidence=_evidence(compute_capability, rule.tested)))
    return tuple(found)


class WeightKind(Frozen):
    """A way to hold a dense model's weights on a card."""

    precision: str
    """``bf16``, ``fp8`` or ``int4``."""
    methods: tuple[str, ...]
    """Methods of checkpoints that it serves; empty for plain bf16 ones."""
    online: bool
    """True: vLLM quantises the bf16 checkpoint while it loads."""
    quantization: str | None
    """What ``quantization`` must say; None where vLLM reads it from the checkpoint."""
    compute: str
    """Bits of weights and activations as they are multiplied: ``w8a16``. Only with 8 of both do prompts compute faster."""
    kernel: str
    caveat: str
    evidence: str
    source: str


def _weight_kind(rule: WeightRule, compute_capability: str) -> WeightKind:
    fields = rule.model_dump(exclude={"capabilities", "tested"})
    return WeightKind(**fields, evidence=_evidence(compute_capability, rule.tested))


def weight_kinds(engine: Engine, compute_capability: str) -> tuple[WeightKind, ...]:
    """List the ways to hold a dense model's weights on a card, the best quality first. Empty on the CPU.

    Args:
        engine: the version of vLLM.
        compute_capability: of the card, ``8.9``.
    """
    return tuple(_weight_kind(rule, compute_capability) for rule in engine.weights if within(compute_capability, rule.capabilities))
