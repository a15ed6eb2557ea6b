"""A model's folder, or its config.json alone → the catalog's entry for it."""

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, NamedTuple, get_args

from bringup.catalog.entries import Checkpoint, Model, Shape
from bringup.catalog.weight_files import read_json, stored_bytes
from bringup.errors import BringupError

Method = Literal["fp8", "fp8-block", "awq", "gptq", "compressed-tensors"]

ARCHITECTURES: tuple[str, ...] = get_args(Shape.model_fields["architecture"].annotation)

_NOT_COVERED: Mapping[str, str] = {
    "num_experts": "a mixture of experts",
    "num_local_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "kv_lora_rank": "multi-head latent attention",
    "vision_config": "a model that sees",
    "audio_config": "a model that hears",
    "text_config": "a model with more than text",
    "is_encoder_decoder": "an encoder and a decoder",
    "attention_bias": "biases in the attention",
    "mlp_bias": "biases in the MLP",
}
"""Field of config.json → what it tells, where it is set."""
_SCALED_ALREADY = frozenset({"default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
"""Kinds of rotary scaling whose factor max_position_embeddings holds already (vLLM 0.33.0: config/model.py). 0.24.0 takes original
positions × factor for yarn: the same, where the folder follows transformers."""
_BYTES_OF_DTYPE: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""As stored. vLLM loads float32 as a 16-bit type too."""
_RANGES: Mapping[str, tuple[int, int]] = {
    "num_hidden_layers": (1, 1_000),
    "num_attention_heads": (1, 1_024),
    "num_key_value_heads": (1, 1_024),
    "head_dim": (8, 1_024),
    "hidden_size": (8, 2**17),
    "intermediate_size": (8, 2**20),
    "vocab_size": (1, 2**22),
    "max_position_embeddings": (1, 2**27),
}
"""Least and most. The most is eight times, or more, what the largest published dense model has (Llama 3.1 405B: 126 layers, 128
heads of 128, hidden 16384, MLP 53248, vocabulary 128256, 131072 positions): a slip of the pen is told from a large model."""
_SIZE_TOLERANCE = 0.02
"""Files hold a little besides what is computed: GPTQ's order of columns is 1.3 % of a small model, scales differ in width."""
_FP8_CAVEAT = "8-bit weights: small losses are possible in long reasoning, mathematics and rare symbols; not measured"
_INT4_CAVEAT = "4-bit weights: mathematical symbols, formulas and code may suffer; not measured"


class Quantization(NamedTuple):
    """How the linear layers are stored; no method for 16 bits."""

    precision: Literal["bf16", "fp8", "int4"]
    method: Method | None
    bits: float


def dense_parameters(shape: Shape) -> tuple[int, int]:
    """Count the parameters of a dense decoder: all of them, and the weights of its linear layers, which quantise.

    A layer has the query, key, value and output projections, the gate, up and down projections of the MLP, and two norms;
    Qwen3 norms each head's queries and keys besides, Qwen2 has biases on query, key and value. Around the layers there are the
    embedding, the last norm, and the output layer where it is not the embedding.
    """
    query, key_value = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = shape.hidden_size * (query + 2 * key_value) + query * shape.hidden_size
    mlp = 3 * shape.hidden_size * shape.intermediate_size
    small = 2 * shape.hidden_size
    if shape.architecture == "Qwen3ForCausalLM":
        small += 2 * shape.head_size
    if shape.architecture == "Qwen2ForCausalLM":
        small += query + 2 * key_value
    linear = shape.layers * (attention + mlp)
    embeddings = _embedding(shape) * (1 if shape.tied_embeddings else 2)
    return linear + shape.layers * small + shape.hidden_size + embeddings, linear


def model_from_folder(path: Path) -> Model:
    """Read a folder with a config.json, as hubs hold it, into an entry whose one repository is the folder.

    Where there are weights, their size must be what config.json describes.

    Raises:
        BringupError: config.json is missing, broken or absurd, describes a kind of model that is not covered, or does not
            describe the weights beside it.
    """
    file = path / "config.json"
    if not file.is_file():
        raise BringupError(f"{path} is no model's folder: it has no config.json")
    config = read_json(file, most_bytes=2**20)
    where = str(file)
    _refuse_uncovered(config, where)
    shape = _shape(config, where)
    parameters, quantizable = dense_parameters(shape)
    quantization = _quantization(config, shape, where)
    element = _element_bytes(config, where) if quantization.method is None else 2
    described = quantizable * (8 * element if quantization.method is None else quantization.bits) / 8
    described += (parameters - quantizable) * element
    stored = stored_bytes(path)
    if stored is not None:
        _agree(stored, described, _embedding(shape) * element if shape.tied_embeddings else 0, path)
    positions = _whole(config, "max_position_embeddings", where)
    held = Checkpoint(
        precision=quantization.precision,
        repository=str(path),
        method=quantization.method,
        bits_per_quantized_weight=quantization.bits,
        download_mib=max(1, round((described if stored is None else stored) / 2**20)),
        caveat={"bf16": "", "fp8": _FP8_CAVEAT, "int4": _INT4_CAVEAT}[quantization.precision],
        source=where,
    )
    return Model(
        **shape.model_dump(),
        id=path.name or str(path),
        revision=None,
        parameters=parameters,
        quantizable_parameters=quantizable,
        max_context=_context(config, positions, path, where),
        max_positions=positions,
        checkpoints=(held,) if quantization.method else (held, _online(held)),
        source=f"{where}; parameters derived",
    )


def _embedding(shape: Shape) -> int:
    return shape.vocabulary * shape.hidden_size


def _online(held: Checkpoint) -> Checkpoint:
    changes = {
        "precision": "fp8",
        "method": "fp8",
        "bits_per_quantized_weight": 8.0,
        "online": True,
        "quantization": "fp8_per_tensor",
        "caveat": _FP8_CAVEAT,
    }
    return Checkpoint.model_validate(held.model_dump() | changes)


def _agree(stored: int, described: float, tied_output: int, folder: Path) -> None:
    """Refuse weights of another size; a tied output layer may be in the files a second time."""
    if all(abs(stored - size) > _SIZE_TOLERANCE * size for size in (described, described + tied_output)):
        raise BringupError(
            f"{folder}: the weights have {stored / 2**20:.0f} MiB, but config.json describes {described / 2**20:.0f} MiB: it is "
            "not theirs, or the model has parts that bringup does not know; take a model of the catalog, or the original folder"
        )


def _refuse(where: str, field: str, value: object, meaning: str) -> BringupError:
    return BringupError(
        f"{where}: {field} is {short(value)}: {meaning}; covered are dense models of {', '.join(ARCHITECTURES)}: take one of these"
    )


def _refuse_uncovered(config: Mapping[str, Any], where: str) -> None:
    for field, meaning in _NOT_COVERED.items():
        if config.get(field):
            raise _refuse(where, field, config[field], f"{meaning} is not covered")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in ARCHITECTURES:
        raise _refuse(where, "architectures", architectures, "not a kind of model that is covered")
    # Qwen's configurations name a window that use_sliding_window, false unless it is given, leaves unused
    windowed = config.get("use_sliding_window")
    if windowed is None:
        windowed = not architectures[0].startswith("Qwen")
    if windowed and config.get("sliding_window"):
        raise _refuse(where, "sliding_window", config["sliding_window"], "attention in a sliding window is not covered")
    kinds = config.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise _refuse(where, "layer_types", kinds, "layers without full attention are not covered")


def _whole(config: Mapping[str, Any], field: str, where: str) -> int:
    value = config.get(field)
    if value is None:
        raise BringupError(f"{where} has no {field}: get the original config.json again")
    least, most = _RANGES[field]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BringupError(f"{where}: {field} is {short(value)}, not a whole number from {least} to {most}")
    return value


def _shape(config: Mapping[str, Any], where: str) -> Shape:
    architecture = config["architectures"][0]
    heads, kv_heads = _whole(config, "num_attention_heads", where), _whole(config, "num_key_value_heads", where)
    hidden_size = _whole(config, "hidden_size", where)
    if heads % kv_heads:
        raise BringupError(f"{where}: num_attention_heads is {heads}, not a multiple of num_key_value_heads, {kv_heads}")
    if config.get("head_dim") is not None or architecture == "Qwen3ForCausalLM":
        head_size = _whole(config, "head_dim", where)
    elif hidden_size % heads == 0:
        head_size = hidden_size // heads
    else:
        raise BringupError(
            f"{where}: hidden_size is {hidden_size}, not a multiple of num_attention_heads, {heads}, and there is no head_dim"
        )
    tied = config.get("tie_word_embeddings")
    if tied is not None and not isinstance(tied, bool):
        raise BringupError(f"{where}: tie_word_embeddings is {short(tied)}, not true or false")
    return Shape(
        architecture=architecture,
        layers=_whole(config, "num_hidden_layers", where),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        hidden_size=hidden_size,
        intermediate_size=_whole(config, "intermediate_size", where),
        vocabulary=_whole(config, "vocab_size", where),
        tied_embeddings=bool(tied),  # all four kinds leave it out where it is false (transformers' defaults)
    )


def _element_bytes(config: Mapping[str, Any], where: str) -> int:
    dtype = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if not isinstance(dtype, str) or dtype not in _BYTES_OF_DTYPE:
        raise BringupError(f"{where}: dtype is {short(dtype)}, not one of {', '.join(_BYTES_OF_DTYPE)}")
    return _BYTES_OF_DTYPE[dtype]


def _context(config: Mapping[str, Any], positions: int, folder: Path, where: str) -> int:
    """The longest context that vLLM takes: positions × the factor of a rotary scaling, at most what the tokenizer names."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise BringupError(f"{where}: rope_scaling is {short(rope)}, not an object")
    kind, factor = rope.get("rope_type") or rope.get("type") or "default", 1.0
    if not isinstance(kind, str):
        raise BringupError(f"{where}: rope_type is {short(kind)}, not a name")
    if kind not in _SCALED_ALREADY:
        factor = rope.get("factor") or 1.0
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= 1000:
            raise BringupError(f"{where}: the factor of rope_scaling is {short(factor)}, not a number from 1 to 1000")
    context = int(positions * factor)
    tokenizer = folder / "tokenizer_config.json"
    named = read_json(tokenizer).get("model_max_length") if tokenizer.is_file() else None
    # tokenizers without a limit name one of 30 digits
    if isinstance(named, int | float) and not isinstance(named, bool) and 1 <= named < context:
        return int(named)
    return context


def _quantization(config: Mapping[str, Any], shape: Shape, where: str) -> Quantization:
    stated = config.get("quantization_config") or config.get("compression_config")
    if not stated:
        return Quantization("bf16", None, 16)
    if not isinstance(stated, dict):
        raise BringupError(f"{where}: quantization_config is {short(stated)}, not an object")
    match stated.get("quant_method"):
        case "fp8":
            return _fp8(stated, where)
        case "awq" | "gptq" as method:
            return _groups(stated, method, shape, where)
        case "compressed-tensors":
            return _compressed_tensors(stated, shape, where)
        case other:
            known = "fp8, awq, gptq, compressed-tensors"
            raise BringupError(f"{where}: quantization_config.quant_method is {short(other)}; covered are {known}")


def _fp8(stated: Mapping[str, Any], where: str) -> Quantization:
    match stated.get("weight_block_size"):
        case None:
            return Quantization("fp8", "fp8", 8)
        case [int(rows), int(columns)] if 8 <= rows <= 2**20 and 8 <= columns <= 2**20:
            return Quantization("fp8", "fp8-block", 8 + 32 / (rows * columns))
        case other:
            raise BringupError(f"{where}: quantization_config.weight_block_size is {short(other)}, not two whole numbers from 8")


def _groups(stated: Mapping[str, Any], method: Literal["awq", "gptq"], shape: Shape, where: str) -> Quantization:
    bits = stated.get("bits", stated.get("w_bit"))
    if bits != 4:
        raise BringupError(f"{where}: quantization_config.bits is {short(bits)}; of {method}, 4 bits are covered")
    if stated.get("lm_head"):
        raise BringupError(
            f"{where}: quantization_config.lm_head is {short(stated['lm_head'])}; a quantised output layer is not covered"
        )
    size = _group_size(stated.get("group_size", stated.get("q_group_size")), "group_size", shape, where)
    # the files of both hold zero points, of GPTQ also where it is symmetric
    zero_bits = 0 if method == "awq" and stated.get("zero_point") is False else 4
    return Quantization("int4", method, 4 + (16 + zero_bits) / size)


def _group_size(value: object, field: str, shape: Shape, where: str) -> int:
    """Weights that share a scale; -1 means a whole row."""
    if value == -1 and not isinstance(value, float):
        return _shortest_row(shape)
    if isinstance(value, bool) or not isinstance(value, int) or not 8 <= value <= 2**20:
        raise BringupError(
            f"{where}: quantization_config.{field} is {short(value)}, not a whole number from 8, or -1 for whole rows"
        )
    return value


def _shortest_row(shape: Shape) -> int:
    """Inputs of the linear layer that has fewest: the one that a scale a row costs most."""
    return min(shape.hidden_size, shape.heads * shape.head_size, shape.intermediate_size)


def _compressed_tensors(stated: Mapping[str, Any], shape: Shape, where: str) -> Quantization:
    groups = stated.get("config_groups")
    weights = next(iter(groups.values())) if isinstance(groups, dict) and len(groups) == 1 else None
    weights = weights.get("weights") if isinstance(weights, dict) else None
    if not isinstance(weights, dict):
        raise BringupError(f"{where}: quantization_config.config_groups is {short(groups)}; one group with `weights` is covered")
    match weights.get("type"), weights.get("num_bits"), weights.get("strategy"):
        case "float", 8, "tensor":
            return Quantization("fp8", "compressed-tensors", 8)
        case "float", 8, "channel":
            return Quantization("fp8", "compressed-tensors", 8 + 32 / _shortest_row(shape))
        case "float", 8, "block":
            bits = _fp8({"weight_block_size": weights.get("block_structure") or [128, 128]}, where).bits
            return Quantization("fp8", "compressed-tensors", bits)
        case "int", 4, "channel" | "group" as strategy:
            size = _group_size(-1 if strategy == "channel" else weights.get("group_size"), "group_size", shape, where)
            zero_bits = 4 if weights.get("symmetric") is False else 0
            return Quantization("int4", "compressed-tensors", 4 + (16 + zero_bits) / size)
        case kind:
            raise BringupError(
                f"{where}: quantization_config has weights of (type, num_bits, strategy) = {short(kind)}; "
                "covered are 8-bit float and 4-bit int"
            )
