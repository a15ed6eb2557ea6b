"""What an inventory may say: every bad value is named before a host is touched, and good data gives settings."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.catalog import load_catalog
from bringup.errors import BringupError
from bringup.settings import ControlFolderSource, Settings, check_inventory, problems_with

CATALOG = load_catalog()


def test_nothing_said_gives_the_defaults() -> None:
    settings = check_inventory({"gpu1": {}}, CATALOG)["gpu1"]
    assert (settings.profile, settings.model, settings.listen_address, settings.port) == (
        "interactive",
        "Qwen/Qwen3-4B-Instruct-2507",
        "127.0.0.1",
        8000,
    )


def test_good_data_gives_settings() -> None:
    data = {
        "profile": "cpu-demo",
        "model": "smollm2-135m",
        "model_source": {"kind": "control-folder", "path": "/models/smollm2"},
        "engine": "vllm-0.32.0-cpu",
        "engine_settings": {"max_model_len": 4096, "gpu-memory-utilization": 0.9, "kv-cache-dtype": "fp8", "enforce-eager": False},
        "listen_address": "0.0.0.0",
        "api_key_file": "/root/key",
        "acceptance": {"ttft_p50_ms": 300, "e2e_p90_ms": 0.5},
        "pip_find_links": ["/wheels"],
        "smoke": "never",
    }
    settings = check_inventory({"lab1": data}, CATALOG)["lab1"]
    assert settings.model_source == ControlFolderSource(kind="control-folder", path="/models/smollm2")
    assert settings.engine_settings["max_model_len"] == 4096
    assert settings.acceptance == {"ttft_p50_ms": 300, "e2e_p90_ms": 0.5}
    assert settings.pip_find_links == ("/wheels",)


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    source = {"kind": "hub", "endpoint": "https://user:s3cret@mirror.example.org"}
    (problem,) = problems_with({"model_source": source}, CATALOG)
    assert "model_source.endpoint" in problem
    assert "s3cret" not in problem


def test_names_of_others_pass() -> None:
    data = {"ssh_user": "root", "ssh_port": 22, "_sudo": True, "x_rack": 7}
    assert check_inventory({"gpu1": data}, CATALOG, also_known=["ssh_user", "ssh_port"])["gpu1"] == Settings()
    assert "unknown setting 'ssh_user'" in problems_with(data, CATALOG)[0]


BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "setting-name": ({"profil": "interactive"}, ("unknown setting 'profil'", "did you mean profile", "x_")),
    "setting-name-far-off": ({"zzzz": 1}, ("unknown setting 'zzzz'", "known: acceptance, allowed_origins")),
    "profile-name": ({"profile": "interactiv"}, ("unknown profile 'interactiv'", "did you mean interactive?")),
    "model-name": ({"model": "Qwen/Qwen3-4B-Instruct"}, ("unknown model", "did you mean Qwen/Qwen3-4B-Instruct-2507 or ")),
    "engine-name": ({"engine": "vllm-0.33.0"}, ("unknown engine 'vllm-0.33.0'", "vllm-0.33.0-cuda")),
    "port-type": ({"port": "http"}, ("port", "integer", "'http'")),
    "port-of-root": ({"port": 80}, ("port", "1024", "80")),
    "revision-shell": ({"model_source": {"kind": "hub", "revision": "a; touch /x"}}, ("model_source.revision", "a; touch /x")),
    "revision-nested": ({"model_source": {"kind": "hub", "revision": "refs/pr/1"}}, ("model_source.revision", "refs/pr/1")),
    "acceptance-infinite": ({"acceptance": {"e2e_p90_ms": float("inf")}}, ("acceptance.e2e_p90_ms", "finite")),
    "torch-backend": ({"torch_backend": "cuda"}, ("torch_backend", "'cuda'")),
    "port-range": ({"port": 70000}, ("port", "65535", "70000")),
    "profile-type": ({"profile": 7}, ("profile", "string", "7")),
    "smoke-choice": ({"smoke": "no"}, ("smoke", "'auto', 'always' or 'never'", "'no'")),
    "address": ({"listen_address": "localhost"}, ("listen_address", "'localhost'")),
    "address-without-key": ({"listen_address": "0.0.0.0"}, ("listen_address is 0.0.0.0", "api_key_file", "proxy")),
    "address-without-key-v6": ({"listen_address": "::"}, ("listen_address is ::", "api_key_file")),
    "tls-by-half": ({"tls_cert_file": "/cert.pem"}, ("tls_cert_file and tls_key_file belong together",)),
    "origin-with-a-path": ({"allowed_origins": ["https://chat.example.org/x"]}, ("allowed_origins",)),
    "token-for-nothing": (
        {"hub_token_file": "/token", "model_source": {"kind": "host-folder", "path": "/srv/m"}},
        ("hub_token_file", "from somewhere else"),
    ),
    "key-path": ({"api_key_file": "key.txt"}, ("api_key_file", "absolute path", "'key.txt'")),
    "acceptance-metric": ({"acceptance": {"ttft_p50": 240}}, ("acceptance", "'ttft_p50'", "ttft_p50_ms")),
    "acceptance-range": ({"acceptance": {"ttft_p50_ms": -1}}, ("acceptance.ttft_p50_ms", "greater than 0", "-1")),
    "acceptance-nan": ({"acceptance": {"ttft_p50_ms": float("nan")}}, ("acceptance.ttft_p50_ms", "nan")),
    "acceptance-type": ({"acceptance": {"ttft_p50_ms": "fast"}}, ("acceptance.ttft_p50_ms", "number", "'fast'")),
    "option-name": ({"engine_settings": {"max-model-length": 1024}}, ("'max-model-length'", "did you mean max-model-len")),
    "option-type": ({"engine_settings": {"max-num-seqs": "many"}}, ("max-num-seqs is 'many'", "a whole number")),
    "option-fraction": ({"engine_settings": {"max-num-seqs": 4.0}}, ("max-num-seqs is 4.0", "a whole number")),
    "option-bool-for-number": ({"engine_settings": {"max-num-seqs": True}}, ("max-num-seqs is True", "a whole number")),
    "option-nan": ({"engine_settings": {"gpu-memory-utilization": float("nan")}}, ("gpu-memory-utilization is nan", "a number")),
    "option-range": ({"engine_settings": {"gpu_memory_utilization": 1.2}}, ("gpu-memory-utilization is 1.2", "from 0.05 to 0.98")),
    "option-choice": ({"engine_settings": {"kv-cache-dtype": "fp16"}}, ("kv-cache-dtype is 'fp16'", "allowed: auto, fp8")),
    "option-number-for-bool": ({"engine_settings": {"enforce-eager": 1}}, ("enforce-eager is 1", "True or False")),
    "need": ({"needs": ["contxt=5"]}, ("needs", "did you mean context")),
    "source-kind": ({"model_source": {"kind": "hubb"}}, ("model_source", "'hubb'", "'hub', 'control-folder', 'host-folder'")),
    "source-path": ({"model_source": {"kind": "host-folder", "path": "models"}}, ("model_source.path", "absolute path")),
    "source-endpoint": ({"model_source": {"kind": "hub", "endpoint": "mirror"}}, ("model_source.endpoint", "'mirror'")),
    "source-unknown-key": ({"model_source": {"kind": "hub", "revison": "x"}}, ("model_source.revison", "not permitted")),
    "modelscope-without-revision": ({"model_source": {"kind": "hub", "hub": "modelscope"}}, ("model_source", "name the revision")),
    "hub-pins-no-revision": ({"model": "smollm2-135m"}, ("model_source", "name the revision", "smollm2-135m")),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_bad_value_is_named_with_what_would_do(data: dict[str, Any], said: tuple[str, ...]) -> None:
    (problem,) = problems_with(data, CATALOG)
    for part in said:
        assert part in problem
    with pytest.raises(BringupError, match="nothing was changed on any host"):
        check_inventory({"gpu1": data}, CATALOG)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"listen_address": "127.0.0.2"}, id="loopback-needs-no-key"),
        pytest.param({"listen_address": "::1"}, id="loopback-v6-needs-no-key"),
        pytest.param({"listen_address": "10.0.0.1", "api_key_file": "/key"}, id="key-allows-others"),
        pytest.param({"model_source": {"kind": "hub", "hub": "modelscope", "revision": "v1"}}, id="modelscope-with-revision"),
        pytest.param({"model": "smollm2-135m", "model_source": {"kind": "hub", "revision": "main"}}, id="revision-named"),
        pytest.param({"engine_settings": {"gpu-memory-utilization": 0.98, "max-num-seqs": 1}}, id="ends-of-the-ranges"),
        pytest.param({"needs": ["context=128K", "concurrency=16@8K"]}, id="needs"),
        pytest.param(
            {"model": "my-own", "model_source": {"kind": "control-folder", "path": "/m"}}, id="a-folder-tells-what-it-holds"
        ),
    ],
)
def test_neighbours_of_bad_values_pass(data: dict[str, Any]) -> None:
    assert problems_with(data, CATALOG) == []


def test_all_problems_of_a_host_are_reported_at_once() -> None:
    data = {
        "profil": "x",
        "port": 0,
        "profile": "interactiv",
        "model": "nothing-like-it",
        "engine": "vllm-0.33.0",
        "engine_settings": {"max-num-seqs": 0, "max-model-len": 8192},
        "acceptance": {"ttft": 1},
        "listen_address": "0.0.0.0",
    }
    problems = problems_with(data, CATALOG)
    subjects = (
        "'profil'",
        "port:",
        "'interactiv'",
        "'nothing-like-it'",
        "'vllm-0.33.0'",
        "max-num-seqs",
        "'ttft'",
        "listen_address",
    )
    assert len(problems) == len(subjects)
    for subject in subjects:
        assert sum(subject in problem for problem in problems) == 1, subject


def test_wrong_value_does_not_cause_a_second_complaint() -> None:
    (problem,) = problems_with({"listen_address": "0.0.0.0", "api_key_file": "key.txt"}, CATALOG)
    assert "absolute path" in problem


def test_problems_of_all_hosts_are_reported_shared_ones_once() -> None:
    hosts: dict[str, dict[str, Any]] = {f"gpu{n}": {"profile": "interactiv"} for n in range(1, 8)}
    hosts["gpu3"] = {"profile": "interactiv", "port": 0}
    hosts["good"] = {}
    with pytest.raises(BringupError) as caught:
        check_inventory(hosts, CATALOG)
    message = caught.value.message
    assert message.count("unknown profile") == 1
    assert "gpu1, gpu2, gpu3, gpu4, gpu5 …: unknown profile" in message
    assert "gpu3: port" in message
    assert "good" not in message


def test_empty_inventory_is_refused() -> None:
    with pytest.raises(BringupError, match="no hosts"):
        check_inventory({}, CATALOG)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), JSON, max_size=4),
    st.dictionaries(st.sampled_from(sorted(CATALOG.engines[0].settings)), JSON, max_size=3),
)
def test_no_data_makes_the_check_itself_fail(data: dict[str, Any], options: dict[str, Any]) -> None:
    data = {"engine_settings": options, **data}
    if not problems_with(data, CATALOG):
        assert set(check_inventory({"gpu1": data}, CATALOG)) == {"gpu1"}
