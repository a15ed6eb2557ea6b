"""The engine catalog: flags, what an inventory may override, and what vLLM does on which card."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bringup.catalog import Catalog, load_catalog
from bringup.catalog.engine_rules import NOT_TESTED, KvDtype, kv_dtypes, server_defaults, weight_kinds, within
from bringup.catalog.entries import ARCHITECTURES, Engine
from bringup.catalog.loader import engine_checksum
from bringup.errors import BringupError
from bringup.plan import make_plan
from bringup.settings import Settings, engine_settings_problems, normalized_engine_settings, problems_with
from tests.unit.machines import bare_workstation, demo_host

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()
V33 = CATALOG.engine("vllm-0.33.0-cuda", "cuda")
V24 = CATALOG.engine("vllm-0.24.0-cuda", "cuda")
CPU = CATALOG.engine("vllm-0.32.0-cpu", "cpu")
CUDA_ENGINES = [engine for engine in CATALOG.engines if engine.device == "cuda"]
CAPABILITIES = sorted((capability for those in ARCHITECTURES.values() for capability in those), key=float)
QWEN3_4B = {"layers": 36, "kv_heads": 8, "head_size": 128}


def with_engine(engine: Engine, **fields: Any) -> Catalog:
    """The catalog with one engine changed, validated anew."""
    engines = [entry.model_dump() | (fields if entry.name == engine.name else {}) for entry in CATALOG.engines]
    return Catalog.model_validate(CATALOG.model_dump() | {"engines": engines})


class TestNames:
    @pytest.mark.parametrize("name", ["vllm-0.24.0-cuda", "vllm==0.24.0", "0.24.0"])
    def test_engine_is_found_by_name_and_by_version(self, name: str) -> None:
        assert CATALOG.engine(name, "cuda").name == "vllm-0.24.0-cuda"

    def test_newest_that_can_be_installed_is_the_default(self) -> None:
        assert CATALOG.engine(None, "cuda").version == "0.33.0"
        assert CATALOG.engine(None, "cpu").version == "0.32.0"
        without = with_engine(V33, installable=False, requirements=None)
        with pytest.raises(StopIteration):
            without.engine(None, "cuda")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("vllm==0.32.0", "is for cpu, but this host would serve on cuda"),
            ("vllm==0.99.0", "unknown engine 'vllm==0.99.0'"),
            ("vllm-0.33.0", "did you mean vllm-0.33.0-cuda"),
        ],
    )
    def test_other_names_are_refused_in_words(self, name: str, said: str) -> None:
        with pytest.raises(BringupError, match=said):
            CATALOG.engine(name, "cuda")

    def test_engine_for_planning_only_is_planned_with_and_refused_in_an_inventory(self) -> None:
        plan = make_plan(bare_workstation(), Settings(engine="vllm==0.24.0"), CATALOG, "main")
        assert plan.engine == "vllm-0.24.0-cuda"
        (problem,) = problems_with({"engine": "vllm==0.24.0"}, CATALOG)
        assert "bringup does not install it: take vllm-0.33.0-cuda" in problem
        assert problems_with({"engine": "vllm==0.33.0"}, CATALOG) == []

    def test_engines_have_folders_of_their_own(self) -> None:
        assert len({engine_checksum(engine) for engine in CATALOG.engines}) == len(CATALOG.engines)


class TestFlags:
    @pytest.mark.parametrize("engine", CATALOG.engines, ids=lambda engine: engine.name)
    @pytest.mark.parametrize("profile", CATALOG.profiles)
    def test_plan_writes_only_options_that_the_version_has(self, engine: Engine, profile: str) -> None:
        host = bare_workstation() if engine.device == "cuda" else demo_host()
        plan = make_plan(host, Settings(profile=profile, model="smollm2-135m", engine=engine.name), CATALOG, "main")
        assert set(plan.vllm) <= set(engine.flags)
        for name, value in plan.vllm.items():
            flag = engine.flags[name]
            assert not flag.choices or value in flag.choices, name
            kinds = {"int": int, "float": float, "bool": bool, "strings": list}
            assert isinstance(value, kinds.get(flag.type, str)), name

    def test_plans_own_options_are_written_by_every_plan(self) -> None:
        plan = make_plan(bare_workstation(), Settings(), CATALOG, "main")
        assert {name for name, flag in V33.flags.items() if flag.owner} - set(plan.vllm) == {
            "api-key",
            "ssl-certfile",
            "ssl-keyfile",
            "allowed-origins",
        }

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"flags": {"seed": {"type": "int"}}}, "is not a flag of the same type"),
            ({"settings": {"seed": {"type": "float"}}}, "is not a flag of the same type"),
            ({"settings": {"host": {"type": "str"}}}, "is not a flag of the same type"),
            ({"settings": {"dtype": {"type": "choice", "choices": ["fp32"]}}}, "allows what vLLM does not take"),
            ({"settings": {"dtype": {"type": "choice"}}}, "a choice needs them"),
            ({"requirements": None}, "installable if, and only if, it has requirements"),
            ({"kv_dtypes": [V33.kv_dtypes[0].model_dump() | {"value": "fp16"}]}, "does not take fp16"),
            ({"attention_backends": []}, "names backends that are not listed"),
            ({"weights": [V33.weights[0].model_dump() | {"quantization": "bitsandbytes"}]}, "does not take quantization"),
            ({"server_defaults": [V33.server_defaults[0].model_dump()]}, "last row must hold"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_entry_that_contradicts_itself_is_refused(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            with_engine(V33, **fields)

    def test_versions_differ_where_they_should(self) -> None:
        assert set(V33.flags) - set(V24.flags) == {"max-num-queued-reqs", "max-num-queued-tokens"}
        assert "int4_per_token_head" in V33.flags["kv-cache-dtype"].choices
        assert "int4_per_token_head" not in V24.flags["kv-cache-dtype"].choices
        assert "bitsandbytes" not in V33.flags["quantization"].choices


GOOD: dict[str, Any] = {
    "block-size": 32,
    "dtype": "bfloat16",
    "attention-backend": "TRITON_ATTN",
    "quantization": "fp8_per_channel",
    "kv-cache-dtype": "nvfp4",
    "kv-offloading-size": 8,
    "enable-lora": True,
    "max-lora-rank": 64,
    "lora-modules": ["sql=/srv/sql", "chat=/srv/chat"],
    "generation-config": "vllm",
    "speculative-config": {"method": "ngram", "num_speculative_tokens": 3},
    "override-generation-config": '{"max_new_tokens": 99}',
    "trust-remote-code": False,
    "optimization-level": 0,
    "max-num-queued-reqs": 0,
}

BAD: list[tuple[str, Any, str]] = [
    ("block-size", 48, "block-size is 48; allowed: 16, 32, 64, 128"),
    ("max-lora-rank", 63, "allowed: 1, 8, 16"),
    ("max-lora-rank", True, "a whole number"),
    ("kv-cache-dtype", "octave_k3v4", "allowed: auto, fp8"),
    ("kv-cache-dtype", ["fp8"], "allowed: auto, fp8"),
    ("quantization", "bitsandbytes", "allowed: fp8_per_tensor"),
    ("trust-remote-code", True, "must be False: bringup runs no code that comes with a model"),
    ("trust-remote-code", "no", "must be True or False"),
    ("lora-modules", [], "text of one line"),
    ("lora-modules", ["a=b", 3], "text of one line"),
    ("lora-modules", "a=b\nport: 1", "text of one line"),
    ("speculative-config", "ngram", "a JSON object"),
    ("speculative-config", ["ngram"], "a JSON object"),
    ("speculative-config", {"n": float("nan")}, "a JSON object"),
    ("speculative-config", {"n": object()}, "a JSON object"),
    ("kv-offloading-size", float("inf"), "a number"),
    ("kv-offloading-size", 0, "from 0.5 to 4096"),
    ("host", "0.0.0.0", "host belongs to the plan: set listen_address instead"),
    ("api-key", "secret", "api-key belongs to the plan: set api_key_file instead"),
    ("model", "/srv/model", "model belongs to the plan: set model instead"),
    ("tensor-parallel-size", 2, "bringup does not let be overridden"),
    ("numa-bind", True, "bringup does not let be overridden"),
    ("load-in-4bit", True, "unknown option 'load-in-4bit'"),
    ("max-new-tokens", 2048, "unknown option 'max-new-tokens'"),
]


class TestSettings:
    @pytest.mark.parametrize(("name", "value"), GOOD.items(), ids=GOOD)
    @pytest.mark.parametrize("dashed", [True, False], ids=["dashes", "underscores"])
    def test_good_override_passes(self, name: str, value: Any, dashed: bool) -> None:
        given = {name if dashed else name.replace("-", "_"): value}
        assert problems_with({"engine_settings": given}, CATALOG) == []

    @pytest.mark.parametrize(("name", "value", "said"), BAD, ids=[f"{name}-{str(value)[:12]!r}" for name, value, _ in BAD])
    def test_bad_override_is_refused_and_says_what_would_do(self, name: str, value: Any, said: str) -> None:
        (problem,) = problems_with({"engine_settings": {name: value}}, CATALOG)
        assert said in problem

    def test_secret_that_is_out_of_place_is_not_repeated(self) -> None:
        (problem,) = problems_with({"engine_settings": {"api_key": "s3cret"}}, CATALOG)
        assert "s3cret" not in problem

    def test_overrides_are_checked_against_the_engine_that_they_are_for(self) -> None:
        given = {"attention-backend": "FLASHINFER", "kv-cache-dtype": "int4_per_token_head", "max-num-queued-reqs": 9}
        assert engine_settings_problems(given, V33) == []
        assert len(engine_settings_problems(given, V24)) == 2
        assert len(engine_settings_problems(given, CPU)) == 2

    def test_mapping_becomes_text_for_vllm_and_the_same_text_whatever_its_order(self) -> None:
        one = normalized_engine_settings(Settings(engine_settings={"speculative_config": {"a": 1, "b": 2}}))
        other = normalized_engine_settings(Settings(engine_settings={"speculative-config": {"b": 2, "a": 1}}))
        assert one == other == {"speculative-config": '{"a": 1, "b": 2}'}


class TestServerDefaults:
    @pytest.mark.parametrize(
        ("engine", "vram_mib", "name", "expected"),
        [
            (V33, 24564, "NVIDIA GeForce RTX 4090 D", (256, 2048)),
            (V33, 71679, "any", (256, 2048)),
            (V33, 71680, "any", (1024, 8192)),
            (V33, 81559, "NVIDIA H100 80GB HBM3", (1024, 8192)),
            (V33, 81920, "NVIDIA A100-SXM4-80GB", (256, 2048)),
            (V33, 124610, "NVIDIA GB10", (256, 2048)),
            (V33, 183359, "NVIDIA B200", (1024, 16384)),
            (V24, 24564, "NVIDIA GeForce RTX 4090 D", (256, 2048)),
            (V24, 81920, "NVIDIA A100-SXM4-80GB", (256, 2048)),
            (V24, 183359, "NVIDIA B200", (1024, 8192)),
            (V24, 124610, "NVIDIA GB10", (1024, 8192)),
            (CPU, 0, "", (128, 2048)),
        ],
    )
    def test_as_the_source_has_them(self, engine: Engine, vram_mib: int, name: str, expected: tuple[int, int]) -> None:
        assert server_defaults(engine, vram_mib, name) == expected

    @given(st.sampled_from(CATALOG.engines), st.integers(0, 400_000), st.text(max_size=20))
    def test_every_card_has_some(self, engine: Engine, vram_mib: int, name: str) -> None:
        sequences, tokens = server_defaults(engine, vram_mib, name)
        assert 0 < sequences <= tokens


def served(engine: Engine, capability: str, head_size: int = 128) -> dict[str, list[str]]:
    return {kind.value: [backend.name for backend in kind.backends] for kind in kv_dtypes(engine, capability, head_size)}


FI, FA, TRITON, TQ = "FLASHINFER", "FLASH_ATTN", "TRITON_ATTN", "TURBOQUANT"


class TestKvDtypes:
    @pytest.mark.parametrize(
        ("engine", "capability", "value", "backends"),
        [
            (V33, "7.5", "auto", [TRITON]),
            (V33, "7.5", "fp8", None),
            (V33, "7.5", "int4_per_token_head", [TRITON]),
            (V33, "7.5", "turboquant_k8v4", None),
            (V33, "8.6", "auto", [FA, FI, TRITON]),
            (V33, "8.6", "fp8", [FI]),
            (V33, "8.6", "fp8_per_token_head", None),
            (V33, "8.9", "auto", [FA, FI, TRITON]),
            (V33, "8.9", "fp8", [FI, TRITON]),
            (V33, "8.9", "nvfp4", [FI]),
            (V33, "8.9", "turboquant_3bit_nc", [TQ]),
            (V33, "9.0", "fp8", [FA, FI, TRITON]),
            (V33, "10.0", "auto", [FI, FA, TRITON]),
            (V33, "10.0", "fp8", [FI, FA, TRITON]),
            (V33, "10.3", "nvfp4", [FI]),
            (V33, "12.0", "fp8", [FI, TRITON]),
            (V33, "12.0", "nvfp4", [FI]),
            (V24, "8.9", "fp8", [FI, TRITON]),
            (V24, "8.9", "nvfp4", None),
            (V24, "8.9", "int4_per_token_head", None),
            (V24, "9.0", "fp8", [FA, FI, TRITON]),
            (V24, "10.0", "fp8", [FI, TRITON]),
            (V24, "10.0", "nvfp4", [FI]),
        ],
        ids=lambda value: value.version if isinstance(value, Engine) else None,
    )
    def test_backends_are_those_of_the_source(
        self, engine: Engine, capability: str, value: str, backends: list[str] | None
    ) -> None:
        assert served(engine, capability).get(value) == backends

    def test_head_size_decides_too(self) -> None:
        assert "nvfp4" not in served(V33, "8.9", 64)
        assert "nvfp4" in served(V33, "10.0", 64)
        assert served(V33, "8.9", 80) == {
            "auto": [FA, TRITON],
            "fp8": [TRITON],
            "fp8_per_token_head": [TRITON],
            "int8_per_token_head": [TRITON],
            "int4_per_token_head": [TRITON],
        }
        assert served(V33, "10.0", 256)["fp8"] == [FI, TRITON]
        assert served(V33, "8.9", 100)["auto"] == [TRITON]
        assert served(V33, "8.9", 16) == {"auto": [FA]}

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            # 36 layers of 8 heads of 128 values, key and value
            ("auto", 36 * 8 * 2 * 128 * 2),
            ("fp8", 36 * 8 * 2 * 128),
            ("fp8_per_token_head", 36 * 8 * (2 * 128 + 2 * 4)),
            ("nvfp4", 36 * 8 * 2 * (64 + 8)),
            ("int4_per_token_head", 36 * 8 * (2 * 64 + 2 * 4)),
            ("turboquant_k8v4", 8 * (32 * (128 + 64 + 4) + 4 * 512)),
            ("turboquant_4bit_nc", 8 * (32 * (64 + 2 + 64 + 4) + 4 * 512)),
            ("turboquant_k3v4_nc", 8 * (32 * (48 + 2 + 64 + 4) + 4 * 512)),
            ("turboquant_3bit_nc", 8 * (32 * (48 + 2 + 48 + 4) + 4 * 512)),
        ],
    )
    def test_bytes_of_a_token(self, value: str, expected: int) -> None:
        (kind,) = [kind for kind in kv_dtypes(V33, "8.9", 128) if kind.value == value]
        assert kind.bytes_per_token(**QWEN3_4B) == expected

    @pytest.mark.parametrize(("layers", "packed"), [(1, 1), (2, 0), (3, 1), (4, 0), (5, 1)])
    def test_small_model_keeps_no_more_layers_than_it_has(self, layers: int, packed: int) -> None:
        (kind,) = [kind for kind in kv_dtypes(V33, "8.9", 128) if kind.value == "turboquant_k8v4"]
        assert kind.bytes_per_token(layers, 1, 128) == packed * (128 + 64 + 4) + (layers - packed) * 512

    def test_measured_pool_holds_as_many_tokens_as_vllm_logged(self) -> None:
        # vLLM 0.24.0 on an H100, 2026-11-24: 11.66 and 11.63 GiB, 84,912 and 169,376 tokens
        for value, gib, tokens in (("auto", 11.66, 84_912), ("fp8", 11.63, 169_376)):
            (kind,) = [kind for kind in kv_dtypes(V24, "9.0", 128) if kind.value == value]
            assert gib * 2**30 / kind.bytes_per_token(**QWEN3_4B) == pytest.approx(tokens, rel=0.001)
            assert kind.evidence == "run on compute capability 9.0"

    @pytest.mark.parametrize("engine", CUDA_ENGINES, ids=lambda engine: engine.version)
    @pytest.mark.parametrize("capability", CAPABILITIES)
    @pytest.mark.parametrize("head_size", [64, 80, 128, 256])
    def test_quality_falls_and_every_loss_has_its_caveat(self, engine: Engine, capability: str, head_size: int) -> None:
        kinds = kv_dtypes(engine, capability, head_size)
        assert kinds[0].value == "auto"
        bits = [kind.bits for kind in kinds]
        assert bits == sorted(bits, reverse=True)
        assert len({kind.value for kind in kinds}) == len(kinds)
        for kind in kinds:
            assert kind.caveat or kind.value == "auto"
            assert kind.value in engine.flags["kv-cache-dtype"].choices
            assert {backend.name for backend in kind.backends} <= set(engine.flags["attention-backend"].choices)
            assert [backend.automatic for backend in kind.backends] == [True] + [False] * (len(kind.backends) - 1)
            assert kind.evidence == NOT_TESTED or capability == "9.0"

    def test_plan_must_name_the_backend_where_vllm_would_take_one_without_kernels(self) -> None:
        ada, hopper = ({kind.value: kind for kind in kv_dtypes(V33, capability, 128)} for capability in ("8.9", "9.0"))

        def chosen(kind: KvDtype, kernels: bool) -> tuple[str, bool] | None:
            backend = kind.served_by(flashinfer_kernels=kernels)
            return backend and (backend.name, backend.automatic)

        assert chosen(ada["fp8"], True) == (FI, True)
        assert chosen(ada["fp8"], False) == (TRITON, False)
        assert chosen(ada["nvfp4"], False) is None
        assert chosen(hopper["fp8"], False) == (FA, True)

    def test_bf16_is_float16_on_turing_and_said(self) -> None:
        assert "float16" in kv_dtypes(V33, "7.5", 128)[0].caveat
        assert "float16" in weight_kinds(V33, "7.5")[0].caveat
        assert kv_dtypes(V33, "8.0", 128)[0].caveat == weight_kinds(V33, "8.0")[0].caveat == ""

    def test_cpu_has_none(self) -> None:
        assert kv_dtypes(CPU, "8.9", 128) == ()
        assert weight_kinds(CPU, "8.9") == ()


def ways(engine: Engine, capability: str) -> dict[tuple[str, str], str]:
    """(precision, method or value of --quantization) → how it computes."""
    return {
        (kind.precision, method): kind.compute
        for kind in weight_kinds(engine, capability)
        for method in (kind.methods or (kind.quantization or "",))
    }


class TestWeights:
    @pytest.mark.parametrize(
        ("engine", "capability", "way", "compute"),
        [
            (V33, "7.5", ("fp8", "fp8"), "w8a16"),
            (V33, "8.6", ("fp8", "fp8_per_tensor"), "w8a16"),
            (V33, "8.9", ("fp8", "fp8"), "w8a8"),
            (V33, "8.9", ("fp8", "fp8-block"), "w8a16"),
            (V33, "8.9", ("fp8", "fp8_per_tensor"), "w8a8"),
            (V33, "9.0", ("fp8", "fp8-block"), "w8a8"),
            (V33, "7.5", ("int4", "awq"), "w4a16"),
            (V33, "12.0", ("int4", "gptq"), "w4a16"),
            (V24, "8.9", ("fp8", "fp8-block"), "w8a8"),
            (V24, "8.9", ("fp8", "fp8"), "w8a8"),
        ],
        ids=lambda value: value.version if isinstance(value, Engine) else None,
    )
    def test_as_the_source_has_them(self, engine: Engine, capability: str, way: tuple[str, str], compute: str) -> None:
        assert ways(engine, capability)[way] == compute

    def test_value_of_quantization_is_that_of_the_version(self) -> None:
        online = {
            engine.version: {kind.quantization for kind in weight_kinds(engine, "8.9") if kind.online} for engine in CUDA_ENGINES
        }
        assert online == {"0.33.0": {"fp8_per_tensor"}, "0.24.0": {"fp8"}}
        for engine in CUDA_ENGINES:
            assert online[engine.version] <= set(engine.settings["quantization"].choices)

    @pytest.mark.parametrize("engine", CUDA_ENGINES, ids=lambda engine: engine.version)
    @pytest.mark.parametrize("capability", CAPABILITIES)
    def test_each_way_is_there_once_and_the_best_comes_first(self, engine: Engine, capability: str) -> None:
        kinds = weight_kinds(engine, capability)
        names = [(kind.precision, kind.online, method) for kind in kinds for method in kind.methods or ("",)]
        assert len(names) == len(set(names))
        assert [kind.precision for kind in kinds] == sorted((k.precision for k in kinds), key=["bf16", "fp8", "int4"].index)
        assert {precision for precision, _, _ in names} == {"bf16", "fp8", "int4"}
        assert ("fp8", True, "") in names


@pytest.mark.parametrize(
    ("capability", "ranges", "inside"),
    [
        ("8.9", ("8.9",), True),
        ("8.9", ("8.0-8.9",), True),
        ("9.0", ("8.0-8.9",), False),
        ("10.0", ("8.0-12.1",), True),
        ("10.0", ("9.0", "12.0-12.9"), False),
        ("12.1", ("9.0", "12.0-12.9"), True),
    ],
)
def test_capabilities_are_compared_as_numbers(capability: str, ranges: tuple[str, ...], inside: bool) -> None:
    assert within(capability, ranges) is inside


class TestCheckOfFlags:
    """`tools/check_engine_flags.py`, on a tiny vLLM."""

    @pytest.fixture
    def sources(self, tmp_path: Path) -> Path:
        files = {
            "config/model.py": (
                "from typing import Literal\n"
                "Kind = Literal['auto', 'fast']\n"
                "class ModelConfig:\n"
                "    dtype: Kind = 'auto'\n"
                "    seed: int = 0\n"
                "    share: float = Field(default=0.9, gt=0, le=1)\n"
            ),
            "engine/arg_utils.py": (
                "def add(parser):\n"
                "    kwargs = get_kwargs(ModelConfig)\n"
                "    parser.add_argument('--dtype', **kwargs['dtype'])\n"
                "    parser.add_argument('--seed', **{**kwargs['seed'], 'default': None})\n"
                "    parser.add_argument('--share', **kwargs['share'])\n"
            ),
            "entrypoints/common/cli_args.py": (
                "class BaseFrontendArgs:\n    chat_template: str | None = None\n"
                "class FrontendArgs(BaseFrontendArgs):\n    port: int = 8000\n"
            ),
            "model_executor/layers/quantization/__init__.py": "",
            "v1/attention/backends/registry.py": "class AttentionBackendEnum(Enum):\n    FLASH_ATTN = ''\n",
        }
        for name, text in files.items():
            path = tmp_path / "vllm" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "tools/check_engine_flags.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
        )

    def test_differences_are_named_and_counted(self, sources: Path) -> None:
        run = self.run(str(sources), "vllm-0.33.0-cuda")
        assert run.returncode == 1
        lines = run.stdout.splitlines()
        assert "vllm-0.33.0-cuda: --max-model-len: there is no such option" in lines
        assert any("--dtype: choices differ" in line and "'fast'" in line for line in lines)
        assert any("--seed: default is None, not 0" in line for line in lines)
        assert any("attention_backends: there is no FLASHINFER" in line for line in lines)
        assert not any("--port" in line or "there is no FLASH_ATTN" in line for line in lines)

    @pytest.mark.parametrize("words", [("/nowhere", "vllm-0.33.0-cuda"), ("SOURCES", "vllm-0.0-cuda")])
    def test_check_that_cannot_be_made_is_no_success(self, sources: Path, words: tuple[str, str]) -> None:
        run = self.run(words[0].replace("SOURCES", str(sources)), words[1])
        assert run.returncode == 2
        assert "cannot check" in run.stderr
