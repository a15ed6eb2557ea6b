"""The catalog's models, and reading a model from its folder."""

import json
import re
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bringup.catalog import load_catalog
from bringup.catalog.config_json import dense_parameters, model_from_folder
from bringup.catalog.entries import Checkpoint, Model, Shape
from bringup.errors import BringupError

MODELS = load_catalog().models
QWEN = next(model for model in MODELS if model.id == "Qwen/Qwen3-4B-Instruct-2507")
CHECKPOINTS = [(model, checkpoint) for model in MODELS for checkpoint in model.checkpoints]
MIB = 2**20

QWEN_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "attention_bias": False,
    "sliding_window": None,
    "use_sliding_window": False,
    "rope_scaling": None,
    "rope_theta": 5000000,
}
"""What config.json of Qwen/Qwen3-4B-Instruct-2507 says."""
SMALL: dict[str, Any] = QWEN_CONFIG | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096}
SMALL_LINEAR = 2 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 128)
SMALL_ALL = SMALL_LINEAR + 2 * (2 * 64 + 2 * 16) + 64 + 1000 * 64

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False, "lm_head": False}
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def compressed(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def folder_with(folder: Path, config: object) -> Path:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return folder


def write_weights(file: Path, tensor_bytes: int, *, kept: int | None = None) -> None:
    """A safetensors file of one tensor; of its bytes only `kept` are there."""
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "a": {"dtype": "U8", "shape": [tensor_bytes], "data_offsets": [0, tensor_bytes]}}
    )
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header.encode())
        stream.truncate(8 + len(header) + (tensor_bytes if kept is None else kept))


# --- the catalog


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_parameters_follow_from_the_shape(model: Model) -> None:
    assert (model.parameters, model.quantizable_parameters) == dense_parameters(model)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        # "safetensors total" of the hub's API, or the model's own count, in public records; looked up on 2026-11-24. The files of
        # Qwen3-0.6B and -1.7B repeat the tied output layer (751,632,384 and 2,031,739,904 in the files).
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-14B", 14_768_307_200),
        ("Qwen/Qwen3-32B", 32_762_123_264),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384),
    ],
)
def test_parameters_are_those_that_were_published(name: str, total: int) -> None:
    assert next(model for model in MODELS if model.id == name).parameters == total


def test_qwen2_has_biases_on_query_key_and_value() -> None:
    """Qwen2.5-0.5B holds 494,032,768 parameters, Qwen2.5-7B 7,615,616,512 (safetensors totals of the hub, in public records)."""
    small = Shape(
        architecture="Qwen2ForCausalLM",
        layers=24,
        heads=14,
        kv_heads=2,
        head_size=64,
        hidden_size=896,
        intermediate_size=4864,
        vocabulary=151936,
        tied_embeddings=True,
    )
    sizes = {"layers": 28, "heads": 28, "kv_heads": 4, "head_size": 128, "hidden_size": 3584, "intermediate_size": 18944}
    large = small.model_copy(update=sizes | {"vocabulary": 152064, "tied_embeddings": False})
    assert dense_parameters(small)[0] == 494_032_768
    assert dense_parameters(large)[0] == 7_615_616_512


@pytest.mark.parametrize(("model", "checkpoint"), CHECKPOINTS, ids=[f"{c.repository}-{c.precision}" for _, c in CHECKPOINTS])
def test_checkpoints_bits_and_size_are_what_its_method_gives(model: Model, checkpoint: Checkpoint) -> None:
    int4 = checkpoint.precision == "int4"
    bits = {
        None: 16,
        "fp8": 8,
        "fp8-block": 8 + 32 / (128 * 128),
        "awq": 4 + (16 + 4) / 128,
        "gptq": 4 + (16 + 4) / 128,
        "compressed-tensors": 4 + 16 / 128 if int4 else 8 + 32 / model.hidden_size,
    }[checkpoint.method]
    assert checkpoint.bits_per_quantized_weight == pytest.approx(bits, abs=1e-12)
    # what is downloaded: the weights, or the 16-bit ones, and for some the tied output layer again; a tokenizer of a few MB
    weights = model.parameters * 2 if checkpoint.online else model.weights_bytes(checkpoint)
    again = model.vocabulary * model.hidden_size * 2 if model.tied_embeddings else 0
    assert weights / MIB - 1 <= checkpoint.download_mib <= (weights + again) / MIB + 20


@pytest.mark.parametrize(
    ("repository", "gigabytes"),
    [  # sizes of the hub's files in public records, looked up on 2026-11-24
        ("Qwen/Qwen3-8B-AWQ", 6.10),
        ("Qwen/Qwen3-14B-AWQ", 9.98),
        ("Qwen/Qwen3-14B-FP8", 16.3),
        ("Qwen/Qwen3-4B-AWQ", 2.67),
        ("JunHowie/Qwen3-4B-Instruct-2507-GPTQ-Int4", 2.67),
        # with the tied output layer, 151936 × 2560 values of two bytes, which vLLM does not load again
        ("Qwen/Qwen3-4B-Instruct-2507-FP8", 5.190053 - 0.777912),
    ],
)
def test_quantised_weights_are_as_large_as_their_files(repository: str, gigabytes: float) -> None:
    model, checkpoint = next((model, c) for model, c in CHECKPOINTS if c.repository == repository)
    assert model.weights_bytes(checkpoint) / 1e9 == pytest.approx(gigabytes, rel=0.002)


def test_sixteen_bit_weights_are_two_bytes_a_parameter() -> None:
    for model in MODELS:
        assert model.weights_bytes(model.checkpoints[0]) == 2 * model.parameters
        assert model.bytes_per_parameter == 2
    # 7.64 GiB is what vLLM 0.24.0 logged (shared/gpu/README.md); without a measurement it is computed
    assert QWEN.weights_gib == 7.64
    assert QWEN.model_copy(update={"measured_weights_gib": None}).weights_gib == pytest.approx(8_044_936_192 / 2**30)


def test_every_model_comes_in_16_bits_and_in_8() -> None:
    for model in MODELS:
        assert [c.precision for c in model.checkpoints].count("bf16") == 1
        assert len({(c.repository, c.online) for c in model.checkpoints}) == len(model.checkpoints)
        assert any(c.online for c in model.checkpoints)
    assert {c.method for c in QWEN.checkpoints} >= {None, "fp8-block", "awq", "gptq"}


def test_every_checkpoint_names_where_its_figures_are_from() -> None:
    for _, checkpoint in CHECKPOINTS:
        assert len(checkpoint.source) >= 20
        assert checkpoint.revision is None or re.fullmatch("[0-9a-f]{40}", checkpoint.revision)
        if checkpoint.method and not checkpoint.online:
            assert f"https://huggingface.co/{checkpoint.repository};" in checkpoint.source


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 30}, "cannot share 8 key-value heads"),
        ({"quantizable_parameters": QWEN.parameters}, "must be fewer than parameters"),
        ({"checkpoints": QWEN.checkpoints[::-1]}, "in the order bf16, fp8, int4"),
        ({"checkpoints": ()}, "checkpoints"),
        ({"revision": "main"}, "revision is main for the model"),
    ],
)
def test_model_that_contradicts_itself_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Model.model_validate(dict(QWEN) | changes)


@pytest.mark.parametrize(
    ("index", "changes", "said"),
    [
        (0, {"method": "fp8"}, "bf16 has no method"),
        (0, {"bits_per_quantized_weight": 8}, "bf16 has no method"),
        (0, {"caveat": "none"}, "say in `caveat`"),
        (1, {"caveat": ""}, "say in `caveat`"),
        (1, {"method": None}, "bf16 has no method"),
        (1, {"online": True}, "only then"),
        (2, {"quantization": None}, "only then"),
    ],
)
def test_checkpoint_that_contradicts_itself_is_refused(index: int, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Checkpoint.model_validate(dict(QWEN.checkpoints[index]) | changes)


# --- a folder


def test_folder_gives_the_catalogs_entry(tmp_path: Path) -> None:
    model = model_from_folder(folder_with(tmp_path, QWEN_CONFIG))
    for field in (*Shape.model_fields, "parameters", "quantizable_parameters", "max_context", "max_positions"):
        assert getattr(model, field) == getattr(QWEN, field), field
    assert [(c.precision, c.online) for c in model.checkpoints] == [("bf16", False), ("fp8", True)]
    assert {c.repository for c in model.checkpoints} == {str(tmp_path)}
    assert model.download_mib == round(QWEN.parameters * 2 / MIB)


@pytest.mark.parametrize(
    ("stated", "precision", "method", "bits"),
    [
        pytest.param(FP8, "fp8", "fp8-block", 8 + 32 / 128**2, id="fp8-block"),
        pytest.param(FP8 | {"weight_block_size": None}, "fp8", "fp8", 8, id="fp8"),
        pytest.param(AWQ, "int4", "awq", 4 + 20 / 128, id="awq"),
        pytest.param(AWQ | {"zero_point": False, "group_size": 64}, "int4", "awq", 4 + 16 / 64, id="awq-64-symmetric"),
        pytest.param(GPTQ, "int4", "gptq", 4 + 20 / 128, id="gptq"),
        pytest.param(GPTQ | {"group_size": -1}, "int4", "gptq", 4 + 20 / 2560, id="gptq-whole-rows"),
        pytest.param(
            compressed(type="float", num_bits=8, strategy="channel"),
            "fp8",
            "compressed-tensors",
            8 + 32 / 2560,
            id="ct-fp8-channel",
        ),
        pytest.param(compressed(type="float", num_bits=8, strategy="tensor"), "fp8", "compressed-tensors", 8, id="ct-fp8-tensor"),
        pytest.param(
            compressed(type="float", num_bits=8, strategy="block", block_structure=[128, 128]),
            "fp8",
            "compressed-tensors",
            8 + 32 / 128**2,
            id="ct-fp8-block",
        ),
        pytest.param(
            compressed(type="int", num_bits=4, strategy="group", group_size=32, symmetric=False),
            "int4",
            "compressed-tensors",
            4 + 20 / 32,
            id="ct-int4-asymmetric",
        ),
        pytest.param(
            compressed(type="int", num_bits=4, strategy="group", group_size=128, symmetric=True),
            "int4",
            "compressed-tensors",
            4 + 16 / 128,
            id="ct-int4",
        ),
    ],
)
def test_quantisation_is_read(tmp_path: Path, stated: dict[str, Any], precision: str, method: str, bits: float) -> None:
    model = model_from_folder(folder_with(tmp_path, QWEN_CONFIG | {"quantization_config": stated}))
    (checkpoint,) = model.checkpoints
    assert (checkpoint.precision, checkpoint.method) == (precision, method)
    assert checkpoint.bits_per_quantized_weight == pytest.approx(bits, abs=1e-12)
    assert checkpoint.caveat
    assert not checkpoint.online


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "llama3", "factor": 32.0}}),
        ("MistralForCausalLM", {}),
        # a window that is named and not used
        ("Qwen2ForCausalLM", {"sliding_window": 131072, "use_sliding_window": False, "layer_types": ["full_attention"] * 2}),
        ("Qwen2ForCausalLM", {"sliding_window": 131072, "use_sliding_window": None}),
        ("Qwen3ForCausalLM", {"num_experts": 0, "attention_bias": False}),
    ],
)
def test_dense_kinds_are_read(tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    model = model_from_folder(folder_with(tmp_path, SMALL | {"architectures": [architecture]} | changes))
    assert model.architecture == architecture
    assert model.max_context == 4096


def test_head_size_is_the_hidden_size_by_heads_where_it_is_not_given(tmp_path: Path) -> None:
    config = {name: value for name, value in SMALL.items() if name != "head_dim"} | {"architectures": ["LlamaForCausalLM"]}
    assert model_from_folder(folder_with(tmp_path, config)).head_size == 16


@pytest.mark.parametrize(
    ("rope", "tokenizer", "context"),
    [
        pytest.param({"rope_type": "linear", "factor": 2.0}, {}, 8192, id="linear"),
        pytest.param({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, {}, 4096, id="yarn-scaled-already"),
        pytest.param(None, {"model_max_length": 2048}, 2048, id="tokenizer-names-less"),
        pytest.param(None, {"model_max_length": 1000000000000000019884624838656}, 4096, id="tokenizer-without-limit"),
        pytest.param(None, {"model_max_length": None}, 4096, id="tokenizer-null"),
    ],
)
def test_context_is_what_vllm_takes(tmp_path: Path, rope: object, tokenizer: dict[str, Any], context: int) -> None:
    """vLLM 0.33.0: config/model.py, _get_and_verify_max_len."""
    folder = folder_with(tmp_path, SMALL | {"rope_scaling": rope})
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    model = model_from_folder(folder)
    assert (model.max_context, model.max_positions) == (context, 4096)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_experts": 128, "architectures": ["Qwen3MoeForCausalLM"]}, "num_experts is 128: a mixture of experts"),
        ({"num_local_experts": 8}, "num_local_experts is 8: a mixture of experts"),
        ({"kv_lora_rank": 512}, "kv_lora_rank is 512: multi-head latent attention"),
        ({"vision_config": {"depth": 32}}, "vision_config is .*: a model that sees"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096, "use_sliding_window": None}, "sliding_window is 4096"),
        ({"sliding_window": 4096, "use_sliding_window": True}, "sliding_window is 4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .*sliding_attention"),
        ({"attention_bias": True}, "attention_bias is True: biases"),
        (
            {"architectures": ["GemmaForCausalLM"]},
            "architectures is .*GemmaForCausalLM.*covered are dense models of LlamaForCausalLM",
        ),
        ({"architectures": None}, "architectures is None"),
        ({"num_key_value_heads": None}, "has no num_key_value_heads"),
        ({"head_dim": None}, "has no head_dim"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5, not a multiple of num_key_value_heads, 2"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, not a whole number from 1 to 1000"),
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"vocab_size": "151936"}, "vocab_size is '151936'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"torch_dtype": "float8"}, "dtype is 'float8'"),
        ({"rope_scaling": {"type": "dynamic", "factor": -1}}, "factor of rope_scaling is -1"),
        ({"quantization_config": GPTQ | {"bits": 8}}, "quantization_config.bits is 8"),
        ({"quantization_config": GPTQ | {"lm_head": True}}, "quantised output layer is not covered"),
        ({"quantization_config": AWQ | {"group_size": 0}}, "quantization_config.group_size is 0"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method is 'bitsandbytes'"),
        ({"quantization_config": compressed(type="int", num_bits=8, strategy="channel")}, r"\('int', 8, 'channel'\)"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}}, "config_groups is {}"),
    ],
)
def test_what_is_not_covered_or_absurd_is_refused_by_its_field(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BringupError, match=said) as caught:
        model_from_folder(folder_with(tmp_path, SMALL | changes))
    assert str(tmp_path / "config.json") in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no valid JSON"),
        ('{"hidden_size": 64', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "no valid JSON"),
        ("[1, 2]", "holds no JSON object"),
        (" " * (2**20 + 1), "larger than"),
    ],
    ids=["empty", "cut-off", "deep", "huge-number", "list", "huge"],
)
def test_broken_config_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BringupError, match=said):
        model_from_folder(folder_with(tmp_path, text))


def test_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BringupError, match="no model's folder"):
        model_from_folder(tmp_path)


# --- the weights beside it


@pytest.mark.parametrize(
    ("config", "size"),
    [
        pytest.param(SMALL, SMALL_ALL * 2, id="bf16"),
        pytest.param(SMALL, (SMALL_ALL + 64_000) * 2, id="tied-output-again"),
        pytest.param(SMALL | {"torch_dtype": "float32"}, SMALL_ALL * 4, id="float32"),
        pytest.param(SMALL | {"quantization_config": FP8}, SMALL_LINEAR + (SMALL_ALL - SMALL_LINEAR) * 2, id="fp8"),
        pytest.param(SMALL | {"quantization_config": AWQ}, SMALL_LINEAR * 4.15625 / 8 + (SMALL_ALL - SMALL_LINEAR) * 2, id="awq"),
    ],
)
def test_weights_of_the_size_that_config_describes_are_taken(tmp_path: Path, config: dict[str, Any], size: float) -> None:
    write_weights(folder_with(tmp_path, config) / "model.safetensors", int(size))
    model = model_from_folder(tmp_path)
    assert model.parameters == SMALL_ALL
    # float32 is loaded as a 16-bit type
    assert model.weights_bytes(model.checkpoints[0]) <= SMALL_ALL * 2


@pytest.mark.parametrize("factor", [0.5, 0.95, 1.05, 2])
def test_weights_of_another_size_are_refused(tmp_path: Path, factor: float) -> None:
    config = SMALL | {"tie_word_embeddings": False}
    write_weights(folder_with(tmp_path, config) / "model.safetensors", int((SMALL_ALL + 64_000) * 2 * factor))
    with pytest.raises(BringupError, match=r"weights have \d+ MiB, but config.json describes \d+ MiB"):
        model_from_folder(tmp_path)


def index(folder: Path, names: list[str], **metadata: Any) -> None:
    text = json.dumps({"metadata": metadata, "weight_map": {f"layer{i}": name for i, name in enumerate(names)}})
    (folder / "model.safetensors.index.json").write_text(text)


def test_files_that_the_index_names_count_and_no_others(tmp_path: Path) -> None:
    folder_with(tmp_path, SMALL)
    index(tmp_path, ["model-1.safetensors", "model-2.safetensors"], total_size=1)
    write_weights(tmp_path / "model-1.safetensors", SMALL_ALL)
    write_weights(tmp_path / "model-2.safetensors", SMALL_ALL)
    write_weights(tmp_path / "consolidated.safetensors", SMALL_ALL * 2)
    assert model_from_folder(tmp_path).download_mib == max(1, round(SMALL_ALL * 2 / MIB))
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(BringupError, match=r"1 of 2 files are missing, model-2\.safetensors first"):
        model_from_folder(tmp_path)


def test_index_alone_tells_the_size(tmp_path: Path) -> None:
    folder_with(tmp_path, SMALL)
    index(tmp_path, ["model-1.safetensors"], total_size=float(SMALL_ALL * 2))
    assert model_from_folder(tmp_path).parameters == SMALL_ALL
    index(tmp_path, ["model-1.safetensors"], total_size=SMALL_ALL * 3)
    with pytest.raises(BringupError, match=r"but config\.json describes"):
        model_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "metadata", "said"),
    [
        ([], {"total_size": 5}, "weight_map does not name the files"),
        (["../other.safetensors"], {"total_size": 5}, "weight_map names '../other.safetensors'"),
        (["a.safetensors"], {}, "total_size is None"),
        (["a.safetensors"], {"total_size": -3}, "total_size is -3"),
    ],
)
def test_broken_index_is_refused(tmp_path: Path, names: list[str], metadata: dict[str, Any], said: str) -> None:
    index(folder_with(tmp_path, SMALL), names, **metadata)
    with pytest.raises(BringupError, match=said):
        model_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no safetensors file"),
        (b"\xff" * 100, "no safetensors file"),
        (struct.pack("<Q", 4) + b"{}", "no safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "holds no JSON object"),
        (struct.pack("<Q", 10) + b'{"a": 1}  ', "tensor 'a' has no data_offsets"),
    ],
)
def test_broken_weights_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (folder_with(tmp_path, SMALL) / "model.safetensors").write_bytes(content)
    with pytest.raises(BringupError, match=said):
        model_from_folder(tmp_path)


def test_weights_that_were_cut_off_are_refused(tmp_path: Path) -> None:
    write_weights(folder_with(tmp_path, SMALL) / "model.safetensors", SMALL_ALL * 2, kept=SMALL_ALL)
    with pytest.raises(BringupError, match="was cut off"):
        model_from_folder(tmp_path)


# --- rubbish

RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [*SMALL, "dtype", "quantization_config", "rope_parameters", "layer_types", "num_experts", "text_config"]
PARTS = ["quant_method", "bits", "group_size", "zero_point", "weight_block_size", "config_groups", "rope_type", "factor"]
WORDS = st.sampled_from(["fp8", "awq", "gptq", "compressed-tensors", "linear", "LlamaForCausalLM", "Qwen3ForCausalLM"])
VALUES = RUBBISH | WORDS | st.integers(0, 300) | st.dictionaries(st.sampled_from(PARTS), RUBBISH | WORDS | st.integers(-1, 300))


def read_or_refused(config: object) -> Model | None:
    with TemporaryDirectory() as folder:
        try:
            return model_from_folder(folder_with(Path(folder), config))
        except BringupError:
            return None


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=4), st.sets(st.sampled_from(list(SMALL)), max_size=2))
def test_changed_config_is_read_or_refused(changes: dict[str, Any], removed: set[str]) -> None:
    config = {name: value for name, value in (SMALL | changes).items() if name not in removed or name in changes}
    model = read_or_refused(config)
    if model is not None:
        assert dense_parameters(model) == (model.parameters, model.quantizable_parameters)
        assert model.weights_bytes(model.checkpoints[0]) <= model.parameters * 2


@settings(max_examples=200)
@given(RUBBISH | st.text(st.characters(codec="utf-8"), max_size=200))
def test_rubbish_is_refused(config: object) -> None:
    assert read_or_refused(config) is None
