"""The plan: what a host should be, and why.

Golden plans are in golden/. After a change that is meant, write them anew and look at the difference before committing it:

    UPDATE_GOLDEN=1 .venv/bin/pytest tests/unit/test_plan.py && git diff tests/unit/golden
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from bringup.catalog import Catalog, load_catalog
from bringup.errors import BringupError
from bringup.hardware import HostFacts
from bringup.plan import Plan, make_plan
from bringup.plan.preflight import plan_blockers
from bringup.probe.host import parse_host
from bringup.recording import recording_named
from bringup.settings import Settings
from tests.unit.machines import bare_workstation, changed, demo_host, two_socket_server, workstation

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
CATALOG = load_catalog()
QWEN = CATALOG.model("qwen3-4b")
REVISION = "cdbee75f17c01a7cc42f958dc650907174af0554"


def settings(**data: Any) -> Settings:
    return Settings.model_validate(data)


def demo_settings(**data: Any) -> Settings:
    source = {"kind": "control-folder", "path": "/models/smollm2"}
    return settings(profile="cpu-demo", model="smollm2-135m", **({"model_source": source} | data))


def test_certificate_is_part_of_what_is_served() -> None:
    plain, named = (make_plan(demo_host(), demo_settings(), CATALOG, "x", tls_name=name) for name in (None, "0123456789ab"))
    assert "ssl-certfile" not in plain.vllm
    assert named.vllm["ssl-keyfile"] == "/etc/bringup/tls/0123456789ab/key.pem"
    assert named.digest != plain.digest
    assert named.changes_from({decision.key: decision.value for decision in plain.decisions}) == ["tls unset → 0123456789ab"]


def plan_4090d(catalog: Catalog = CATALOG, facts: HostFacts | None = None, **data: Any) -> Plan:
    return make_plan(facts or bare_workstation(), settings(**data), catalog, REVISION)


def with_card(**fields: Any) -> Catalog:
    """The catalog with another 4090 D."""
    card = CATALOG.gpus[0].model_copy(update=fields)
    return CATALOG.model_copy(update={"gpus": (card, *CATALOG.gpus[1:])})


def with_profile(name: str, **fields: Any) -> Catalog:
    return CATALOG.model_copy(update={"profiles": {**CATALOG.profiles, name: CATALOG.profile(name).model_copy(update=fields)}})


# --- golden plans


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("4090d-interactive", plan_4090d, id="4090d-interactive"),
        pytest.param("cpu-demo", lambda: make_plan(demo_host(), demo_settings(), CATALOG, "0123456789ab"), id="cpu-demo"),
    ],
)
def test_golden(name: str, make: Callable[[], Plan]) -> None:
    file = GOLDEN / f"{name}.yaml"
    shown = make().model_dump(mode="json", include={"decisions", "vllm", "environment", "service", "findings"})
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=132), encoding="utf-8")
    assert shown == yaml.safe_load(file.read_text(encoding="utf-8"))


def test_same_facts_give_the_same_plan_byte_for_byte_in_every_process() -> None:
    code = (
        "from tests.unit.test_plan import plan_4090d; from tests.unit.machines import two_socket_server; "
        "print(plan_4090d().record()); print(plan_4090d(facts=two_socket_server()).record())"
    )
    records = {
        # string hashes, and with them the order of sets, differ from seed to seed
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(records) == 1


# --- the digest


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"port": 8001}, id="port"),
        pytest.param({"listen_address": "10.0.0.1", "api_key_file": "/key"}, id="address"),
        pytest.param({"allowed_origins": ["https://chat.example.org"]}, id="origins"),
        pytest.param({"profile": "concurrent"}, id="profile"),
        pytest.param({"engine_settings": {"max-model-len": 8192}}, id="option"),
        pytest.param({"engine_settings": {"seed": 1}}, id="option-that-the-plan-leaves-to-vllm"),
        pytest.param({"engine_settings": {"shutdown-timeout": 60}}, id="stop-timeout"),
        pytest.param({"model_source": {"kind": "host-folder", "path": "/srv/model"}}, id="model-folder"),
    ],
)
def test_digest_changes_with_what_is_served(data: dict[str, Any]) -> None:
    assert plan_4090d(**data).digest != plan_4090d().digest


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"smoke": "always"}, id="smoke"),
        pytest.param({"acceptance": {"ttft_p50_ms": 1}}, id="acceptance"),
        pytest.param({"reports_dir": "elsewhere"}, id="reports"),
        pytest.param({"pip_index_url": "https://mirror.invalid/simple", "torch_backend": "none"}, id="package-source"),
        pytest.param({"model_source": {"kind": "hub", "endpoint": "https://mirror.invalid"}}, id="model-mirror"),
        pytest.param({"model": "qwen3-4b"}, id="alias-of-the-model"),
        pytest.param({"engine": "vllm-0.33.0-cuda"}, id="name-of-the-engine-it-has"),
        pytest.param({"engine_settings": {"gpu-memory-utilization": 0.85}}, id="option-with-the-plans-own-value"),
    ],
)
def test_digest_stays_with_what_is_not_served(data: dict[str, Any]) -> None:
    assert plan_4090d(**data).digest == plan_4090d().digest


def test_digest_follows_the_revision_and_the_cores_but_not_the_driver() -> None:
    facts = bare_workstation()
    fewer = changed(facts, cpu=facts.cpu.model_copy(update={"usable": tuple(range(16))}))
    in_place = settings(model_source={"kind": "host-folder", "path": "/srv/model"})
    for source in (settings(), in_place):
        assert make_plan(facts, source, CATALOG, "another").digest != make_plan(facts, source, CATALOG, REVISION).digest
    assert plan_4090d(facts=fewer).digest != plan_4090d().digest
    assert plan_4090d(facts=workstation()).digest == plan_4090d().digest


# --- memory


def test_cpu_demo_predicts_what_vllm_logged() -> None:
    """vLLM 0.32.0's CPU backend, SmolLM2-135M, 1 GiB: 46,592 tokens (2026-11-24)."""
    plan = make_plan(demo_host(), demo_settings(), CATALOG, "0123456789ab")
    assert plan.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert plan.predicted.kv_cache_tokens == 46_592


def tokens_on(cuda_visible_mib: int) -> int:
    try:
        return plan_4090d(with_card(cuda_visible_mib=cuda_visible_mib, vram_mib=cuda_visible_mib + 357)).predicted.kv_cache_tokens
    except BringupError as error:
        assert "does not fit" in error.message  # noqa: PT017 (the other outcome is as good)
        return 0


@given(st.integers(1024, 200_000), st.integers(0, 50_000))
def test_more_memory_never_holds_fewer_tokens(mib: int, more_mib: int) -> None:
    assert tokens_on(mib) <= tokens_on(mib + more_mib)


@given(st.integers(128, 300_000), st.integers(0, 100_000), st.integers(11_000, 80_000))
def test_longer_wish_never_gives_a_shorter_context(wanted: int, more: int, cuda_visible_mib: int) -> None:
    assume(tokens_on(cuda_visible_mib) >= 128)
    card = with_card(cuda_visible_mib=cuda_visible_mib, vram_mib=cuda_visible_mib + 357).gpus

    def context(tokens: int) -> int:
        catalog = with_profile("interactive", context_wanted=tokens).model_copy(update={"gpus": card})
        plan = plan_4090d(catalog)
        assert plan.vllm["max-model-len"] <= min(tokens, QWEN.max_context, plan.predicted.kv_cache_tokens)
        return int(plan.vllm["max-model-len"])

    assert context(wanted) <= context(wanted + more)


@given(st.integers(4096, 2_000_000), st.integers(1, 64), st.integers(128, 65_536))
def test_cpu_backend_takes_a_quarter_of_the_memory_at_most(total_mib: int, concurrency: int, wanted: int) -> None:
    facts = changed(demo_host(), memory={"total_mib": total_mib, "available_mib": total_mib})
    catalog = with_profile("cpu-demo", concurrency=concurrency, context_wanted=wanted)
    plan = make_plan(facts, demo_settings(), catalog, "0123456789ab")
    assert 1 <= int(plan.environment["VLLM_CPU_KVCACHE_SPACE"]) <= total_mib / 4 / 1024
    assert plan.needs.memory_mib > int(plan.environment["VLLM_CPU_KVCACHE_SPACE"]) * 1024


def test_fp8_kv_cache_doubles_the_tokens() -> None:
    plain, fp8 = plan_4090d(), plan_4090d(engine_settings={"kv-cache-dtype": "fp8"})
    assert fp8.predicted.kv_cache_tokens == pytest.approx(2 * plain.predicted.kv_cache_tokens, rel=0.01)


# --- speed of light


@pytest.mark.parametrize(
    ("acceptance", "impossible"),
    [
        pytest.param({}, ["e2e_p90_ms"], id="article"),
        pytest.param({"e2e_p90_ms": 2050}, ["e2e_p90_ms"], id="just-below-the-floor"),
        pytest.param({"e2e_p90_ms": 2055}, [], id="just-above-the-floor"),
        pytest.param({"e2e_p90_ms": 2055, "itl_p50_ms": 7}, ["itl_p50_ms"], id="between-tokens"),
        pytest.param({"e2e_p90_ms": 2055, "itl_p50_ms": 9}, [], id="between-tokens-above"),
        pytest.param({"e2e_p90_ms": 2055, "ttft_p50_ms": 1}, ["ttft_p50_ms"], id="first-token"),
    ],
)
def test_impossible_line_is_found_and_no_other(acceptance: dict[str, float], impossible: list[str]) -> None:
    findings = plan_4090d(acceptance=acceptance).findings
    texts = [finding.text for finding in findings if finding.level == "impossible"]
    assert [text.split()[0] for text in texts] == impossible
    assert all("acceptance" in text for text in texts)  # a way out


def test_twice_the_bandwidth_makes_the_articles_line_possible() -> None:
    findings = plan_4090d(with_card(bandwidth_gb_s=2 * 1008, memory_gbit_s_per_pin=42)).findings
    assert not [finding for finding in findings if finding.level == "impossible"]


# --- the user's own values


def test_overrides_win_and_are_marked_as_the_users() -> None:
    plan = plan_4090d(engine_settings={"max_model_len": 8192, "seed": 7})
    assert (plan.vllm["max-model-len"], plan.vllm["seed"]) == (8192, 7)
    decisions = {decision.key: decision for decision in plan.decisions}
    assert decisions["max-model-len"].source == decisions["seed"].source == "inventory: engine_settings"
    assert "32768" in decisions["max-model-len"].why  # what the plan had
    assert len(decisions) == len(plan.decisions)  # no key twice


def test_other_values_follow_an_override() -> None:
    plan = plan_4090d(engine_settings={"gpu-memory-utilization": 0.5, "shutdown-timeout": 100})
    assert plan.predicted.kv_cache_tokens < plan_4090d().predicted.kv_cache_tokens
    assert plan.vllm["max-model-len"] <= plan.predicted.kv_cache_tokens
    assert plan.service.stop_timeout_s > 100


def test_acceptance_replaces_single_lines() -> None:
    assert plan_4090d(acceptance={"ttft_p50_ms": 300}).smoke.lines == {"ttft_p50_ms": 300, "e2e_p90_ms": 1100}


def test_changes_are_told_in_words() -> None:
    before = {decision.key: decision.value for decision in plan_4090d().decisions}
    assert plan_4090d(engine_settings={"max-model-len": 8192, "seed": 7}).changes_from(before) == [
        "max-model-len 32768 → 8192",
        "seed unset → 7",
    ]


# --- what cannot be


@pytest.mark.parametrize(
    ("facts", "data", "said"),
    [
        pytest.param(
            bare_workstation(), {"engine_settings": {"max-model-len": 262_145}}, ("262145", "262144 tokens"), id="context"
        ),
        pytest.param(
            bare_workstation(),
            {"engine_settings": {"gpu-memory-utilization": 0.3}},
            ("does not fit", "RTX 4090 D", "0.3"),
            id="memory",
        ),
        pytest.param(
            changed(bare_workstation(), gpus=({**dict(bare_workstation().gpus[0]), "pci_id": "10de:1234"},)),
            {},
            ("10de:1234", "gpus.yaml"),
            id="unknown-card",
        ),
        pytest.param(
            bare_workstation(), {"engine": "vllm-0.32.0-cpu"}, ("vllm-0.32.0-cpu", "cpu", "cuda"), id="engine-of-the-other-device"
        ),
        pytest.param(
            changed(demo_host(), memory={"total_mib": 4000, "available_mib": 3000}), {}, ("4000 MiB", "4096 MiB"), id="main-memory"
        ),
    ],
)
def test_impossible_wish_is_refused(facts: HostFacts, data: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(BringupError) as caught:
        make_plan(facts, settings(**data), CATALOG, REVISION)
    for part in said:
        assert part in caught.value.message


def test_longest_context_of_the_model_is_accepted() -> None:
    assert plan_4090d(engine_settings={"max-model-len": 262_144}).vllm["max-model-len"] == 262_144


# --- the host around it


def test_service_keeps_to_the_cards_numa_node_and_spares_a_core() -> None:
    plan = plan_4090d(facts=two_socket_server())
    assert plan.service.cpus == "5-7"  # of 4-7,12-15: core 4 stays with the system, siblings idle
    assert plan.service.memory_nodes == "1"
    assert plan.sysctls["kernel.numa_balancing"] == "0"


def test_small_host_serves_on_all_its_cores() -> None:
    assert make_plan(demo_host(), demo_settings(), CATALOG, "x").service.cpus == "0-1"


def test_one_node_leaves_numa_alone() -> None:
    plan = plan_4090d()
    assert plan.sysctls == {"vm.swappiness": "10"}
    assert plan.service.memory_nodes == ""


def test_setting_that_the_kernel_refuses_becomes_a_finding_for_its_owner() -> None:
    def owner(facts: HostFacts) -> list[str]:
        return [f.text for f in make_plan(facts, demo_settings(), CATALOG, "x").findings if f.id == "owner-must-set"]

    swapping = changed(demo_host(), memory={**dict(demo_host().memory), "swap_mib": 1024})
    (text,) = owner(swapping)
    assert "sysctl -w vm.swappiness=10" in text
    assert owner(changed(swapping, sysctls={"vm.swappiness": "10"})) == []
    assert owner(demo_host()) == []  # without swap it does nothing


def test_plan_of_a_host_is_the_same_after_its_own_deploy() -> None:
    """What a deploy sets on the host is read back as a live value; it must not change the plan's file."""
    for facts in (workstation(), two_socket_server()):
        before = plan_4090d(facts=facts)
        after = plan_4090d(facts=changed(facts, sysctls={**facts.sysctls, **before.sysctls}, service_state="active"))
        assert after.record() == before.record()


def test_second_card_is_served_where_the_first_is_unknown() -> None:
    card = workstation().gpus[0]
    facts = changed(workstation(), gpus=(card.model_copy(update={"pci_id": "10de:1234"}), card))
    plan = plan_4090d(facts=facts)
    assert plan.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert any("2 cards" in finding.text for finding in plan.findings)


def test_every_decision_has_a_reason_and_a_source() -> None:
    for plan in (plan_4090d(), make_plan(demo_host(), demo_settings(), CATALOG, "x")):
        assert all(decision.why and decision.source for decision in plan.decisions)
        # what vLLM is told, beyond what the inventory itself says, is explained
        explained = {decision.key for decision in plan.decisions}
        assert set(plan.vllm) - explained == {"model", "served-model-name", "host", "port"}


# --- which card, which weights


def with_gpus(*gpus: Any) -> HostFacts:
    return changed(workstation(), gpus=gpus)


def card_like(**fields: Any) -> Any:
    return workstation().gpus[0].model_copy(update=fields)


SMALL = {"pci_id": "10de:2582", "pci_address": "0000:00:01.0"}  # RTX 3050


def test_card_that_serves_most_is_taken_whatever_its_place() -> None:
    plan = plan_4090d(facts=with_gpus(card_like(**SMALL), card_like()))
    assert (plan.gpu, plan.environment["CUDA_VISIBLE_DEVICES"]) == ("0000:01:00.0", "1")


@pytest.mark.parametrize("broken", [{"responds": False}, {"kernel_driver": "vfio-pci", "driver_version": None}])
def test_card_that_cannot_serve_is_left_out(broken: dict[str, Any]) -> None:
    other = card_like(pci_address="0000:02:00.0")
    assert plan_4090d(facts=with_gpus(card_like(**broken), other)).gpu == "0000:02:00.0"
    with pytest.raises(BringupError, match="can serve"):
        plan_4090d(facts=with_gpus(card_like(**{**broken, "driver_version": None, "kernel_driver": "vfio-pci"})))


def test_rebuilt_board_with_more_memory_is_taken_as_its_driver_sees_it() -> None:
    state = parse_host(recording_named("amd-two-ccd-4090d").probe_text(0)).gpus[0].state
    assert state is not None
    card = card_like(driver_memory_mib=49140, state=state.model_copy(update={"memory_total_mib": 49140}))
    plan = plan_4090d(facts=with_gpus(card))
    assert plan.predicted.kv_cache_tokens > 2 * plan_4090d().predicted.kv_cache_tokens
    assert "another-memory-size" in {finding.id for finding in plan.findings}


def test_folder_is_served_as_it_is_though_other_weights_would_meet_the_need() -> None:
    source = {"kind": "host-folder", "path": "/srv/model"}
    with pytest.raises(BringupError, match="nothing that vLLM"):
        plan_4090d(needs=["e2e_ms=1100"], model_source=source)
    assert plan_4090d(needs=["context=128K"], model_source=source).repository == QWEN.id


def test_repository_without_a_pinned_revision_is_refused_before_it_is_downloaded() -> None:
    plan = make_plan(workstation(), settings(needs=["e2e_ms=1100"], model_source={"kind": "hub", "revision": REVISION}), CATALOG)
    assert plan.repository != QWEN.id
    assert plan.model_revision != REVISION
    assert any("pins no revision" in blocker for blocker in plan_blockers(workstation(), plan))


def test_split_card_is_refused() -> None:
    state = parse_host(recording_named("amd-two-ccd-4090d").probe_text(0)).gpus[0].state
    assert state is not None
    facts = with_gpus(card_like(state=state.model_copy(update={"mig": True})))
    assert any("MIG" in blocker for blocker in plan_blockers(facts, plan_4090d(facts=facts)))


def test_engine_to_plan_with_is_never_installed() -> None:
    plan = plan_4090d(facts=workstation(), engine="vllm==0.24.0")
    assert any("never installed" in blocker for blocker in plan_blockers(workstation(), plan))


def test_turing_serves_in_float16() -> None:
    plan = plan_4090d(facts=with_gpus(card_like(pci_id="10de:1e30")))  # Quadro RTX 6000
    assert plan.vllm["dtype"] == "float16"
    assert "dtype" not in plan_4090d().vllm


def test_eight_bit_cache_on_ada_pins_the_backend_that_needs_no_compiler() -> None:
    plan = plan_4090d(needs=["context=128K"])
    assert (plan.vllm["kv-cache-dtype"], plan.vllm["attention-backend"]) == ("fp8", "TRITON_ATTN")
    assert "quality" in {finding.id for finding in plan.findings}
    assert plan.vllm["max-model-len"] == 131_072


@pytest.mark.parametrize(
    ("data", "id_"),
    [
        ({"engine_settings": {"max-model-len": 100_000}}, "context-does-not-fit"),
        ({"engine_settings": {"gpu-memory-utilization": 0.98}}, "card-overcommitted"),
        ({"engine_settings": {"cpu-offload-gb": 4}}, "not-counted"),
        ({"profile": "concurrent", "engine_settings": {"max-model-len": 65_536}}, "few-full-requests"),
        ({}, "uncalibrated"),
    ],
)
def test_finding_of_the_plan(data: dict[str, Any], id_: str) -> None:
    assert id_ in {finding.id for finding in plan_4090d(**data).findings}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"needs": ["context=128K"], "engine_settings": {"max-model-len": 8192}}, "contradicts"),
        ({"engine_settings": {"max-num-batched-tokens": 64, "max-num-seqs": 128}}, "less than max-num-seqs"),
        ({"engine_settings": {"enable-chunked-prefill": False}}, "without chunked prefill"),
        ({"engine_settings": {"kv-cache-dtype": "fp8", "attention-backend": "FLASH_ATTN"}}, "cannot serve this KV cache"),
    ],
)
def test_what_vllm_would_refuse_is_refused_by_the_plan(data: dict[str, Any], said: str) -> None:
    with pytest.raises(BringupError, match=said):
        plan_4090d(**data)


def test_option_of_the_other_engine_is_refused_once_the_engine_is_known() -> None:
    with pytest.raises(BringupError, match="kv-cache-dtype"):
        make_plan(demo_host(), demo_settings(engine_settings={"kv-cache-dtype": "nvfp4"}), CATALOG, "x")


def test_batch_follows_the_tokens_that_the_user_sets() -> None:
    assert plan_4090d(engine_settings={"max-num-batched-tokens": 128}).vllm["max-num-seqs"] == 128
    assert plan_4090d(needs=["concurrency=400@128"]).vllm["max-num-seqs"] == 400
