"""Learning from a server's start-up log: what a real log says, what comes of a formula that is off, and what is refused."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from bringup.catalog import load_catalog
from bringup.catalog.calibration import Calibration
from bringup.cli import bringup
from bringup.errors import BringupError
from bringup.plan import Plan, make_plan
from bringup.plan.calibrate import as_yaml, learn, merged, planned_server, read_calibrations, read_startup_log, with_calibrations
from bringup.probe.host import parse_host
from bringup.recording import recording_named
from bringup.settings import Settings, check_inventory
from tests.unit.machines import NOW_UNIX_S, WORKSTATION, workstation

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()
H100 = parse_host(recording_named("h100-datacenter").probe_text(NOW_UNIX_S))
UTILIZATION = 0.2560036292745129
"""24 GB of an H100's memory."""

# vLLM 0.24.0 on an H100 80GB HBM3, 2026-11-25: the server that was planned with UTILIZATION and the context 84736
SERVED = """
(APIServer pid=1) INFO 11-25 00:28:39 [api_utils.py:339]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.24.0
(APIServer pid=1) INFO 11-25 00:28:39 [api_utils.py:339]   █▄█▀ █     █     █     █  model   /srv/model
(APIServer pid=1) INFO 11-25 00:28:39 [api_utils.py:273] non-default args: {'host': '127.0.0.1', 'model': '/srv/model', \
'max_model_len': 84736, 'served_model_name': ['Qwen/Qwen3-4B-Instruct-2507'], 'load_format': 'dummy', \
'gpu_memory_utilization': 0.2560036292745129, 'max_num_batched_tokens': 2048, 'max_num_seqs': 256, 'shutdown_timeout': 30}
(EngineCore pid=2) INFO 11-25 00:29:04 [core.py:114] Initializing a V1 LLM engine (v0.24.0) with config: model='/srv/model'
(EngineCore pid=2) INFO 11-25 00:29:07 [flash_attn.py:670] Using FlashAttention version 3
(EngineCore pid=2) INFO 11-25 00:29:08 [model_runner.py:302] Model loading took 7.64 GiB and 2.238348 seconds
(EngineCore pid=2) INFO 11-25 00:29:47 [gpu_worker.py:508] Available KV cache memory: 11.66 GiB
(EngineCore pid=2) INFO 11-25 00:29:47 [kv_cache_utils.py:2146] GPU KV cache size: 84,912 tokens
(EngineCore pid=2) INFO 11-25 00:29:47 [kv_cache_utils.py:2147] Maximum concurrency for 84,736 tokens per request: 1.00x
(EngineCore pid=2) INFO 11-25 00:29:53 [model_runner.py:726] Graph capturing finished in 6 secs, took 0.60 GiB
(APIServer pid=1) INFO:     Application startup complete.
"""
# the same with the context 88972, which does not fit
REFUSED = (
    SERVED[: SERVED.index("(EngineCore pid=2) INFO 11-25 00:29:47 [kv_cache_utils.py:2146]")].replace("84736", "88972")
    + "(EngineCore pid=2) ValueError: To serve at least one request with the model's max seq len (88972), (12.22 GiB KV cache is "
    "needed, which is larger than the available KV cache memory (11.66 GiB). Based on the available memory, the estimated maximum "
    "model length is 84912.\n"
)


def h100_plan(catalog: Any = CATALOG, **options: Any) -> Plan:
    set_by_user = {"gpu-memory-utilization": UTILIZATION, "max-model-len": 84736} | options
    return make_plan(H100, Settings(engine="vllm==0.24.0", engine_settings=set_by_user), catalog)


def record(plan: Plan) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(plan.record())
    return content


def learnt(text: str, plan: Plan, base: Calibration | None = None) -> Calibration:
    base = base or CATALOG.calibration("0.24.0", "9.0")
    return learn(read_startup_log(text), planned_server(record(plan)), base, "9.0", "a test")


def left_mib(plan: Plan) -> float:
    """What the formula leaves for the KV cache, before the margin."""
    assert plan.predicted.memory is not None
    return (plan.predicted.memory.kv_cache_bytes + plan.predicted.memory.margin_bytes) / 2**20


def tokens_without_margin(plan: Plan) -> int:
    memory = plan.predicted.memory
    assert memory is not None
    return memory.model_copy(update={"kv_cache_bytes": memory.kv_cache_bytes + memory.margin_bytes}).kv_cache_tokens


def changed(text: str, **values: str) -> str:
    """The log with other numbers, by the words in front of them."""
    patterns = {
        "loaded": r"(?<=loading took )[\d.]+",
        "kv_gib": r"(?<=KV cache memory: )[\d.]+",
        "tokens": r"(?<=KV cache size: )[\d,]+",
        "graphs": r"(?<=secs, took )[\d.]+",
    }
    for name, value in values.items():
        text, found = re.subn(patterns[name], value, text)
        assert found
    return text


def test_what_a_real_log_confirms_stays_as_it_was_measured() -> None:
    base = CATALOG.calibration("0.24.0", "9.0")
    entry = learnt(SERVED, h100_plan())
    assert entry == base.model_copy(update={"margin": 0.005, "source": "a test"})
    assert tokens_without_margin(h100_plan(with_calibrations(CATALOG, [entry]))) == 84912


# 100 MiB more weights, 300 MiB less and more in all, fewer graphs, and all at once; blocks of the cache are 2.25 MiB
LOGS = {
    "weights": ({"loaded": "7.74", "kv_gib": "11.56", "tokens": "84,192"}, 84192),
    "more-libraries": ({"kv_gib": "11.36", "tokens": "82,752"}, 82752),
    "less-libraries": ({"kv_gib": "11.76", "tokens": "85,632"}, 85632),
    "graphs-are-on-top": ({"graphs": "0.20"}, 84912),
    "all": ({"loaded": "7.54", "kv_gib": "11.36", "tokens": "82,752", "graphs": "1.10"}, 82752),
}


@pytest.mark.parametrize(("values", "tokens"), LOGS.values(), ids=LOGS)
def test_formula_gives_the_logged_kv_cache_with_what_was_learnt(values: dict[str, str], tokens: int) -> None:
    entry = learnt(changed(SERVED, **values), h100_plan())
    again = h100_plan(with_calibrations(CATALOG, [entry]))
    memory = again.predicted.memory
    assert memory is not None
    assert tokens_without_margin(again) == tokens
    assert 0.993 < again.predicted.kv_cache_tokens / tokens < 0.997, "half a percent is kept back"
    assert again.predicted.calibrated
    assert memory.weights_bytes / 2**30 == pytest.approx(float(values.get("loaded", "7.64")), abs=0.005)
    assert memory.graphs_bytes / 2**30 == pytest.approx(float(values.get("graphs", "0.60")), abs=0.005)


def test_graphs_never_take_less_than_nothing_with_fewer_sequences() -> None:
    entry = learnt(changed(SERVED, graphs="0.20"), h100_plan())
    memory = h100_plan(with_calibrations(CATALOG, [entry]), **{"max-num-seqs": 8}).predicted.memory
    assert memory is not None
    assert 0 < memory.graphs_bytes < 0.2 * 2**30


def test_refused_start_teaches_as_much_as_it_measured() -> None:
    entry = learnt(REFUSED.replace("memory: 11.66", "memory: 11.36"), h100_plan(**{"max-model-len": 88972}))
    assert left_mib(h100_plan(with_calibrations(CATALOG, [entry]))) == pytest.approx(11.36 * 1024, abs=1)
    assert entry.graphs_mib == CATALOG.calibration("0.24.0", "9.0").graphs_mib


# 0.33.0 says the size of the KV cache and the requests in one line, subtracts an estimate of its graphs, and loads "GiB memory"
# (v1/worker/gpu/model_runner.py, gpu_worker.py, v1/core/kv_cache_utils.py); it was never run on a card
NEWER = """
INFO 11-25 00:28:39 [startup.py:30] vLLM server version 0.33.0, serving model /srv/model
INFO 11-25 00:28:39 [startup.py:96] non-default args: {'max_model_len': 32768, 'gpu_memory_utilization': 0.85}
INFO 11-25 00:29:08 [model_runner.py:429] Model loading took 7.66 GiB memory and 2.238348 seconds
INFO 11-25 00:29:47 [gpu_worker.py:773] Available KV cache memory: %.2f GiB
INFO 11-25 00:29:47 [kv_cache_utils.py:1147] GPU KV cache size: %s tokens, Maximum concurrency for 32,768 tokens per request: 2.00x
INFO 11-25 00:29:53 [model_runner.py:1164] Graph capturing finished in 6 secs, took 0.70 GiB
INFO 11-25 00:29:54 [gpu_worker.py:1002] CUDA graph pool memory: 0.7 GiB (actual), 0.4 GiB (estimated), difference: 0.3 GiB.
"""


def test_newer_version_on_a_card_that_was_never_measured_becomes_calibrated() -> None:
    settings = Settings(engine="vllm==0.33.0")
    before = make_plan(workstation(), settings, CATALOG)
    assert before.vllm["max-model-len"] == 32768
    assert not before.predicted.calibrated
    tokens = before.predicted.kv_cache_tokens // 16 * 16 + 160
    log = read_startup_log(NEWER % ((tokens + 8) * 147456 / 2**30, f"{tokens:,}"))
    base = CATALOG.calibration("0.33.0", "8.9")
    entry = learn(log, planned_server(record(before)), base, "8.9", "a test")
    after = make_plan(workstation(), settings, with_calibrations(CATALOG, [entry]))
    assert after.predicted.calibrated
    assert "uncalibrated" not in {finding.id for finding in after.findings}
    assert tokens_without_margin(after) == tokens
    memory = after.predicted.memory
    assert memory is not None
    assert memory.graphs_bytes / 2**30 == pytest.approx(0.4, abs=0.005), "what was subtracted, not what was captured"


def test_last_start_of_a_service_counts_whatever_stands_before_its_lines() -> None:
    earlier = changed(SERVED, kv_gib="1.00", tokens="7,280").replace("0.24.0", "0.23.0")
    journal = "\n".join(f"Nov 25 00:29:47 gpu1 vllm[123]: \x1b[32m{line}\x1b[0m" for line in (earlier + SERVED).splitlines())
    assert read_startup_log(journal) == read_startup_log(SERVED)
    with pytest.raises(BringupError, match=r"last start of vLLM 0\.24\.0 .* does not say"):
        read_startup_log(earlier + SERVED[: SERVED.index("(EngineCore pid=2) INFO 11-25 00:29:08")])


def test_context_that_fills_no_whole_blocks_is_accounted_for() -> None:
    """vLLM logs what whole requests fill: 5307 blocks of 16 tokens hold 84.238 requests of 1000 tokens in 63 blocks each."""
    log = SERVED.replace("84736", "1000").replace("84,736", "1,000").replace("84,912", "84,238")
    entry = learnt(log, h100_plan(**{"max-model-len": 1000}))
    assert entry.non_torch_mib == CATALOG.calibration("0.24.0", "9.0").non_torch_mib


BAD_LOGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "empty": ("", ("no log of vLLM's start", "Initializing a V1 LLM engine")),
    "another-server": ("INFO: Uvicorn running on http://127.0.0.1:8000\nKV cache size: 1\n", ("no log of vLLM's start",)),
    "cut-off": (
        SERVED[: SERVED.index("(EngineCore pid=2) INFO 11-25 00:29:08")],
        ("'Model loading took", "'Available KV cache", "cut off"),
    ),
    "no-kv-cache": (SERVED.replace("Available KV", "Reserved KV"), ("no line with 'Available KV cache memory: … GiB'", "CPU")),
    "other-version": (SERVED.replace("0.24.0", "0.25.1"), ("vLLM 0.25.1", "0.24.0")),
    "other-context": (SERVED.replace("84,736", "32,768"), ("another server", "max-model-len is 32768", "84736")),
    "other-utilization": (SERVED.replace(str(UTILIZATION), "0.9"), ("gpu-memory-utilization is 0.9", str(UTILIZATION))),
    "two-cards": (
        SERVED.replace("'load_format'", "'tensor_parallel_size': 2, 'load_format'"),
        ("tensor-parallel-size is 2", "not set"),
    ),
    "other-model": (changed(SERVED, loaded="1.20"), ("another model", "1.2 GiB", "7.64 GiB")),
    "other-kv-dtype": (SERVED.replace("84,912", "169,824"), ("kv-cache-dtype", "23.32 GiB", "11.66 GiB")),
    "other-card": (changed(SERVED, kv_gib="13.66", tokens="99,472"), ("larger than the plan's gpu-memory-utilization",)),
}


@pytest.mark.parametrize(("text", "said"), BAD_LOGS.values(), ids=BAD_LOGS)
def test_log_that_teaches_nothing_is_refused_with_the_reason(text: str, said: tuple[str, ...]) -> None:
    with pytest.raises(BringupError) as error:
        learnt(text, h100_plan())
    for part in said:
        assert part in error.value.message


def test_graphs_that_were_not_planned_are_another_server() -> None:
    with pytest.raises(BringupError, match="enforce-eager"):
        learnt(SERVED, h100_plan(**{"enforce-eager": True}))


def test_constants_that_the_plan_was_not_made_with_are_refused() -> None:
    entry = learnt(changed(SERVED, kv_gib="11.36", tokens="82,752"), h100_plan())
    made_with_it = h100_plan(with_calibrations(CATALOG, [entry]))
    with pytest.raises(BringupError, match="other constants"):
        learnt(SERVED, made_with_it)
    assert tokens_without_margin(h100_plan(with_calibrations(CATALOG, [learnt(SERVED, made_with_it, entry)]))) == 84912


# the command


def run(*words: object, text: str | None = None) -> Result:
    return CliRunner().invoke(bringup, [str(word) for word in words], input=text)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(h100_plan().record())
    return path


def test_command_prints_what_differs_and_an_entry_that_plan_takes(tmp_path: Path, plan_file: Path) -> None:
    log = changed(SERVED, kv_gib="11.36", tokens="82,752")
    run_to_screen = run("calibrate", "-", "--plan", plan_file, text=log)
    assert run_to_screen.exit_code == 0, run_to_screen.output
    assert re.search(r"84,752 tokens +82,752 tokens +-2,000 \(-2.36%\)", run_to_screen.stderr)
    assert re.search(r"weights, loaded +7.639 GiB +7.64 GiB", run_to_screen.stderr)
    (entry,) = yaml.safe_load(run_to_screen.stdout)["calibrations"]
    assert (entry["engine_version"], entry["compute_capability"], entry["calibrated"]) == ("0.24.0", "9.0", True)
    assert re.fullmatch(r"bringup calibrate, \d{4}-\d\d-\d\d, H100 SXM5 80 GB: Qwen/.*82,752 tokens", entry["source"])

    own = tmp_path / "own.yaml"
    own.write_text(run_to_screen.stdout)
    options = ("--engine", "vllm==0.24.0", "--set", f"gpu_memory_utilization={UTILIZATION}", "--json", "--calibration", own)
    planned = json.loads(run("plan", "--recording", "h100-datacenter", *options).stdout)
    assert planned["predicted"]["kv_cache_tokens"] == pytest.approx(0.995 * 82752, abs=16)
    assert planned["predicted"]["calibrated"]


def test_out_keeps_entries_of_other_cards(tmp_path: Path, plan_file: Path) -> None:
    own = tmp_path / "own.yaml"
    (tmp_path / "log").write_text(SERVED)
    for version in ("0.24.0", "0.33.0"):
        base = CATALOG.calibration("0.24.0", "9.0").model_copy(update={"engine_version": version, "load_mib": 1.0})
        entries = merged(read_calibrations(own) if own.exists() else (), base)
        own.write_text(yaml.safe_dump({"calibrations": [entry.model_dump(mode="json") for entry in entries]}))
    done = run("calibrate", tmp_path / "log", "--plan", plan_file, "--out", own)
    assert done.exit_code == 0, done.output
    assert "84,912 tokens" in done.stdout
    assert {(entry.engine_version, entry.load_mib) for entry in read_calibrations(own)} == {("0.24.0", 32.1), ("0.33.0", 1.0)}


def test_facts_name_the_card_where_the_plan_does_not(tmp_path: Path, plan_file: Path) -> None:
    content = json.loads(plan_file.read_text())
    content["decisions"] = []
    plan_file.write_text(json.dumps(content))
    assert "does not name its card" in str(run("calibrate", "-", "--plan", plan_file, text=SERVED).exception)
    facts = tmp_path / "facts.json"
    facts.write_text(H100.model_dump_json())
    assert run("calibrate", "-", "--plan", plan_file, "--facts", facts, text=SERVED).exit_code == 0
    facts.write_text(workstation().model_dump_json())
    assert "another host" in str(run("calibrate", "-", "--plan", plan_file, "--facts", facts, text=SERVED).exception)


def without_memory(content: dict[str, Any]) -> None:
    content["predicted"]["memory"] = None


def without_prediction(content: dict[str, Any]) -> None:
    del content["predicted"]


def without_decisions(content: dict[str, Any]) -> None:
    del content["decisions"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(without_memory, "on the CPU"), (without_prediction, "predicted: Field required"), (without_decisions, "is no plan")],
)
def test_plan_that_cannot_be_used_is_named(plan_file: Path, spoil: Callable[[dict[str, Any]], None], said: str) -> None:
    content = json.loads(plan_file.read_text())
    spoil(content)
    plan_file.write_text(json.dumps(content))
    assert said in str(run("calibrate", "-", "--plan", plan_file, text=SERVED).exception)


# files of one's own


def entry_text(**fields: Any) -> Mapping[str, Any]:
    return CATALOG.calibration("0.24.0", "9.0").model_dump(mode="json") | fields


BAD_FILES = {
    "missing": (None, ("cannot be read", "No such file")),
    "yaml": ("calibrations: [", ("is not YAML",)),
    "shape": ("- 1", ("no list 'calibrations'",)),
    "empty": ("calibrations: []", ("calibrations", "at least 1")),
    "type": (yaml.safe_dump({"calibrations": [entry_text(load_mib="much")]}), ("calibrations.0.load_mib", "number")),
    "unknown": (yaml.safe_dump({"calibrations": [entry_text(load_gib=1)]}), ("calibrations.0.load_gib", "not permitted")),
    "capability": (yaml.safe_dump({"calibrations": [entry_text(compute_capability=9.0)]}), ("compute_capability", "string")),
    "infinite": (yaml.safe_dump({"calibrations": [entry_text(load_mib=float("inf"))]}), ("load_mib", "is inf")),
    "twice": (yaml.safe_dump({"calibrations": [entry_text(), entry_text()]}), ("0.24.0", "9.0", "more than once")),
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_calibration_file_is_named_with_its_field(tmp_path: Path, text: str | None, said: tuple[str, ...]) -> None:
    path = tmp_path / "own.yaml"
    if text is not None:
        path.write_text(text)
    error = run("plan", "--recording", "h100-datacenter", "--calibration", path).exception
    assert isinstance(error, BringupError)
    for part in (str(path), *said):
        assert part in error.message


def test_setting_names_a_file_by_its_absolute_path() -> None:
    assert check_inventory({"gpu1": {"calibration_file": "/srv/own.yaml"}}, CATALOG)["gpu1"].calibration_file == "/srv/own.yaml"
    with pytest.raises(BringupError, match=r"calibration_file: must be an absolute path, not 'own\.yaml'"):
        check_inventory({"gpu1": {"calibration_file": "own.yaml"}}, CATALOG)


def dry_run(calibration_file: Path) -> "subprocess.CompletedProcess[str]":
    """What a deploy with that file would do, as a user types it."""
    words = (f"@replay/{WORKSTATION}", "deploys/qwen.py", "--dry", "--diff", "--data", f"calibration_file={calibration_file}")
    command = [str(Path(sys.executable).parent / "pyinfra"), *words]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "300"}
    return subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_deploy_takes_the_file_on_the_control_machine_and_refuses_a_bad_one_beforehand(tmp_path: Path) -> None:
    own = CATALOG.calibration("0.33.0", "8.9").model_copy(update={"compute_capability": "8.9", "calibrated": True})
    (tmp_path / "own.yaml").write_text(as_yaml([own]))
    done = dry_run(tmp_path / "own.yaml")
    assert done.returncode == 0, done.stderr
    assert '"calibrated": true' in done.stderr
    refused = dry_run(tmp_path / "nothing.yaml")
    assert refused.returncode == 1
    assert f"the calibration file {tmp_path}/nothing.yaml cannot be read" in refused.stderr


def test_release_is_another_one_exactly_when_what_is_served_changes() -> None:
    def planned(profile: str, **values: str) -> Plan:
        own = with_calibrations(CATALOG, [learnt(changed(SERVED, **values), h100_plan())]) if values else CATALOG
        options = {"gpu-memory-utilization": UTILIZATION}
        return make_plan(H100, Settings(engine="vllm==0.24.0", profile=profile, engine_settings=options), own)

    less = {"kv_gib": "8.24", "tokens": "60,000"}
    short, long = planned("interactive"), planned("long-document")
    assert planned("interactive", **less).predicted.kv_cache_tokens < short.predicted.kv_cache_tokens
    assert planned("interactive", **less).digest == short.digest, "a context that fits either way is served alike"
    assert planned("long-document", **less).vllm["max-model-len"] < 60000 < long.vllm["max-model-len"]
    assert planned("long-document", **less).digest != long.digest
