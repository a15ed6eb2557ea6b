"""`bringup plan` as its users call it.

Golden pages are in golden/pages/. After a change that is meant, write them anew and look at the difference before committing it:

    UPDATE_GOLDEN=1 .venv/bin/pytest tests/unit/test_plan_cli.py && git diff tests/unit/golden
"""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from bringup.catalog import load_catalog
from bringup.cli import bringup
from bringup.errors import BringupError
from bringup.plan import make_plan
from bringup.probe.host import parse_host
from bringup.recording import recording_named, shipped_recordings
from bringup.report.plan import MemoryBar, cells, shares
from bringup.settings import Settings
from tests.unit.machines import NOW_UNIX_S

ROOT = Path(__file__).parents[2]
PAGES = Path(__file__).parent / "golden" / "pages"
CATALOG = load_catalog()
WORKSTATION = ("--recording", "4090d-workstation")
SERVER = ("--recording", "dual-socket-four-cards")
LAB = ("--recording", "lab-host", "--profile", "cpu-demo", "--model", "smollm2-135m")
MOST_LINES = 130
PAGE_COLUMNS = 150


def has_card(name: str) -> bool:
    return bool(parse_host(recording_named(name).probe_text(NOW_UNIX_S)).gpus)


WITH_CARD = tuple(name for name in shipped_recordings() if has_card(name))
SHOWN = [
    *((name, ("--profile", profile)) for name in WITH_CARD for profile in ("interactive", "concurrent", "long-document")),
    *((name, LAB[2:]) for name in shipped_recordings() if name not in WITH_CARD),
]


def run(*arguments: str | Path, columns: int = 400) -> Result:
    """Run `bringup plan`, as wide as no cell is folded, without colours."""
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1", "FORCE_COLOR": None, "TTY_COMPATIBLE": None}
    return CliRunner(env=environment).invoke(bringup, ["plan", *map(str, arguments)])


def page(*arguments: str | Path, columns: int = 400) -> str:
    result = run(*arguments, columns=columns)
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    return "\n".join(line.rstrip() for line in result.output.splitlines()) + "\n"


def plan(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def decisions(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {decision["key"]: decision for decision in made["decisions"]}


def refusal(*arguments: str | Path) -> str:
    """What a person is told; anything but a message that was written for people fails."""
    result = run(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, (BringupError, SystemExit)), repr(result.exception)
    return result.exception.message if isinstance(result.exception, BringupError) else result.output


def real(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The installed command, which drives the real pyinfra."""
    command = [str(Path(sys.executable).parent / "bringup"), "plan", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def facts_file(tmp_path: Path, *names: str) -> Path:
    """What `bringup facts --json` prints, of one recording or several."""
    hosts: dict[str, Any] = {}
    for name in names:
        printed = CliRunner().invoke(bringup, ["facts", "--recording", name, "--json"])
        hosts |= json.loads(printed.stdout)["hosts"]
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({"hosts": hosts}))
    return path


# --- pages


@pytest.mark.parametrize(("name", "options"), [pytest.param(*case, id=f"{case[0]}--{case[1][1]}") for case in SHOWN])
def test_golden_page(name: str, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.5)  # the page of a recording is the same at any time
    file = PAGES / f"{name}--{options[1]}.txt"
    shown = page("--recording", name, *options, columns=PAGE_COLUMNS)
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")
    assert len(shown.splitlines()) <= MOST_LINES


def test_no_golden_page_is_left_of_a_recording_that_is_gone() -> None:
    assert {path.name for path in PAGES.iterdir()} == {f"{name}--{options[1]}.txt" for name, options in SHOWN}


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        pytest.param(LAB, "fits", id="cpu"),
        pytest.param(SERVER, "fits, but cannot meet e2e_p90_ms", id="line-impossible"),
        pytest.param(
            (*SERVER, "--need", "e2e_ms=1100"),  # whose weights have no pinned revision
            "would be refused as the host is now; once that is mended: fits, but e2e_p90_ms will hardly be met",
            id="line-tight",
        ),
        pytest.param((*SERVER, "--set", "max_model_len=100000"), "does not fit: a context longer than the KV cache", id="context"),
        pytest.param((*SERVER, "--set", "gpu_memory_utilization=0.98"), "does not fit: 42 MiB more than the card has", id="memory"),
        pytest.param(
            WORKSTATION,
            "fits, but cannot meet e2e_p90_ms",
            id="no-driver",
        ),
    ],
)
def test_verdict_comes_first(arguments: tuple[str, ...], verdict: str) -> None:
    assert page(*arguments).splitlines()[0] == verdict


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        pytest.param(SERVER, "32,768 tokens a request (all that profile and needs ask for)", id="wish"),
        pytest.param(
            (*SERVER, "--profile", "long-document", "--set", "gpu_memory_utilization=0.7"), "(limited by memory)", id="memory"
        ),
        pytest.param((*SERVER, "--model", "smollm2-135m"), "8,192 tokens a request (limited by the model)", id="model"),
        pytest.param((*SERVER, "--set", "max_model_len=4096"), "4,096 tokens a request (as you set it)", id="user"),
    ],
)
def test_what_limits_the_context_is_named(arguments: tuple[str, ...], limit: str) -> None:
    (line,) = [line for line in page(*arguments).splitlines() if line.startswith("context ")]
    assert limit in line


def test_first_token_of_small_weights_is_limited_by_arithmetic() -> None:
    assert "the first token by its arithmetic" in page(*SERVER, "--need", "e2e_ms=1100")
    assert "the first token by its arithmetic" not in page(*SERVER)


def test_same_finding_about_several_cards_is_told_once() -> None:
    told = [line for line in page("--recording", "rented-container").splitlines() if "not given to this container" in line]
    assert len(told) == 1
    for address in ("0000:01:00.0", "0000:41:00.0", "0000:c1:00.0"):
        assert address in told[0]
    assert "3 cards" in told[0]


def test_what_is_already_so_is_not_offered() -> None:
    offered = [setting for setting in plan(*SERVER)["host"] if not setting["default_on"]]
    assert "transparent_hugepage" in {setting["key"] for setting in offered}  # it is madvise on this machine
    shown = page(*SERVER)
    assert "transparent_hugepage" not in shown
    assert "cpu_idle_latency_us" in shown


def test_long_list_of_what_was_tried_is_cut_on_the_page_and_whole_where_it_is_asked_for() -> None:
    needs = ("--need", "e2e_ms=1100", "--need", "context=128K")
    made = plan(*SERVER, *needs)
    why = decisions(made)["weights"]["why"]
    assert why not in page(*SERVER, *needs, columns=4000)
    assert why in page(*SERVER, *needs, "--explain", "weights", columns=4000)
    assert len(page(*SERVER, *needs, columns=PAGE_COLUMNS).splitlines()) <= MOST_LINES


# --- the card's memory


def budget(name: str, **engine_settings: Any) -> Any:
    facts = parse_host(recording_named(name).probe_text(NOW_UNIX_S))
    made = make_plan(facts, Settings.model_validate({"engine_settings": engine_settings}), CATALOG)
    assert made.predicted.memory is not None
    return made.predicted.memory


@pytest.mark.parametrize("name", WITH_CARD)
@hypothesis_settings(deadline=None, max_examples=15)
@given(
    utilization=st.integers(50, 97),
    sequences=st.integers(1, 1024),
    tokens=st.integers(1024, 16384),
    width=st.integers(60, 200),
)
def test_parts_of_the_bar_add_up_to_the_card(name: str, utilization: int, sequences: int, tokens: int, width: int) -> None:
    memory = budget(name, gpu_memory_utilization=utilization / 100, max_num_seqs=sequences, max_num_batched_tokens=tokens)
    parts = shares(memory)
    if memory.left_bytes >= 0:
        assert sum(share.size_bytes for share in parts) == memory.total_bytes
    assert sum(share.size_bytes for share in parts if share.in_budget) == memory.budget_bytes

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(MemoryBar(memory))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    bar = shown.splitlines()[0].split("GiB", 1)[1].strip()
    assert len(shown.splitlines()[0].rstrip()) <= width
    inside, outside = bar[1:].split("]")
    drawn = sum(inside.count(share.letter) + outside.count(share.letter) for share in parts)
    for share in parts:
        where = inside if share.in_budget else outside
        assert where.count(share.letter) == pytest.approx(share.size_bytes / memory.total_bytes * drawn, abs=len(parts))
        assert (share.letter in bar) == (share.size_bytes > 0)
    total, of_vllm, beyond = map(float, re.findall(r"^ *([0-9.]+) GiB", shown, re.M))
    assert total == pytest.approx(of_vllm + beyond, abs=0.011)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=9).filter(any), st.integers(9, 200))
def test_cells_are_all_given_away_and_none_is_forgotten(sizes: list[int], total: int) -> None:
    given_away = cells(sizes, total)
    assert sum(given_away) == total
    assert all((count > 0) == (size > 0) for count, size in zip(given_away, sizes, strict=True))


# --- --explain


@pytest.mark.parametrize("name", WITH_CARD)
def test_formula_adds_up_to_the_kv_cache(name: str) -> None:
    arguments = ("--recording", name)
    predicted = plan(*arguments)["predicted"]
    said = page(*arguments, "--explain", "max-model-len")
    cache, rest = said.split("The rest of the card")

    def numbers(text: str, sign: str) -> list[int]:
        return [int(number.replace(",", "")) for number in re.findall(rf"^{sign} +([0-9,]+)  ", text, re.M)]

    (budget_bytes,), subtracted, (kv_bytes, tokens), (block_bytes,) = (numbers(cache, sign) for sign in (" ", "-", "=", "/"))
    assert budget_bytes - sum(subtracted) == kv_bytes
    assert len(subtracted) >= 5
    assert kv_bytes // block_bytes * 16 == tokens == predicted["kv_cache_tokens"]
    (beyond,), taken, (left,) = (numbers(rest, sign) for sign in (" ", "-", "="))
    assert beyond - sum(taken) == left
    assert budget_bytes + beyond == predicted["memory"]["total_bytes"]
    assert f"would start with up to {predicted['max_model_len']:,}" in rest


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("max_model_len", ("max-model-len = 32768", "why ", "source ", "in whole blocks")),
        ("--max-model-len", ("max-model-len = 32768",)),
        ("kv-cache", ("in whole blocks", "budget: gpu-memory-utilization ×")),
        ("gpu-memory-utilization", ("gpu-memory-utilization = 0.85", "left for a display")),
        ("cpu-affinity", ("cpu-affinity = ", "plan/placement.py", "measured:")),
        ("kernel.numa_balancing", ("kernel.numa_balancing = 0", "now ", "read back with  sysctl -n kernel.numa_balancing")),
        ("smt", ("smt = off (offered, not set)", "evidence        folklore", "read back with ")),
        ("nofile", ("nofile = 65536", "why ", "set_ulimit", "prlimit")),
    ],
)
def test_value_is_explained_in_depth(key: str, words: tuple[str, ...]) -> None:
    said = page(*SERVER, "--explain", key)
    for word in words:
        assert word in said
    assert "Acceptance line" not in said  # no page beside it


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        (SERVER, "max-modl-len", "did you mean max-model-len"),
        (SERVER, "nonsense-of-mine", "known: "),
        (LAB, "kv-cache", "kv-cache-space-gib"),  # the CPU's has no formula of a card
    ],
)
def test_unknown_key_is_told_with_the_nearest(arguments: tuple[str, ...], key: str, words: str) -> None:
    said = refusal(*arguments, "--explain", key)
    assert f"'{key}'" in said
    assert words in said


# --- --set


def test_own_values_are_shown_as_the_users() -> None:
    own = ("gpu_memory_utilization=0.5", "kv_cache_dtype=fp8", "max-num-seqs=32", "enforce_eager=true", "seed=7")
    arguments = [word for text in own for word in ("--set", text)]
    made = plan(*SERVER, *arguments)
    values = {"gpu-memory-utilization": 0.5, "kv-cache-dtype": "fp8", "max-num-seqs": 32, "enforce-eager": True, "seed": 7}
    assert {key: made["vllm"][key] for key in values} == values
    assert {decisions(made)[key]["source"] for key in values} == {"inventory: engine_settings"}
    shown = page(*SERVER, *arguments)
    assert "set by you; the plan had " in shown
    assert "set by you; the plan leaves it to vLLM" in shown
    assert made["predicted"]["memory"]["graphs_bytes"] == 0  # the memory follows: no graphs with enforce-eager
    assert made["predicted"]["memory"]["budget_bytes"] == made["predicted"]["memory"]["total_bytes"] // 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_modl_len=5", "did you mean max-model-len"),
        ("gpu_memory_utilization=7", "must be from 0.05 to 0.98"),
        ("max-num-seqs=many", "max-num-seqs is 'many'"),
        ("kv-cache-dtype=fp16", "allowed: auto"),
        ("max-num-seqs", "write it as KEY=VALUE"),
        ("=5", "write it as KEY=VALUE"),
        ("seed={", "cannot be read"),
        ("port=9000", "port"),  # the inventory's own setting
    ],
)
def test_wrong_own_value_is_refused(text: str, words: str) -> None:
    assert words in refusal(*SERVER, "--set", text)


# --- --need


def test_several_needs_are_met_together() -> None:
    made = plan(*SERVER, "--need", "context=128K", "--need", "e2e_ms=1100", "--need", "concurrency=1@131072")
    assert made["predicted"]["max_model_len"] >= made["vllm"]["max-model-len"] == 131_072
    assert made["predicted"]["e2e_floor_ms"] <= 1100
    assert "AWQ" in made["repository"]
    assert "e2e_ms=1100" in decisions(made)["weights"]["why"]


def test_impossible_needs_say_what_comes_nearest_and_what_would_do() -> None:
    said = refusal(*WORKSTATION, "--need", "context=262144", "--need", "e2e_ms=300")
    for words in (
        "meets context=262144, e2e_ms=300",
        "comes nearest: ",
        "what would do: H100",
        "two GeForce RTX 4090 D would not (estimate)",
    ):
        assert words in said
    assert said.index("comes nearest") < said.index("what would do")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*WORKSTATION, "--need", "contxt=5"), "did you mean context"),
        ((*WORKSTATION, "--need", "throughput=900"), "known: concurrency, context, e2e_ms"),
        ((*WORKSTATION, "--need", "concurrency=16"), "REQUESTS@TOKENS"),
        ((*WORKSTATION, "--need", "context=400000"), "takes 262144 tokens at most"),
        ((*LAB, "--need", "context=4096"), "this host has none"),
    ],
)
def test_need_that_cannot_be_planned_for_is_refused(arguments: tuple[str, ...], words: str) -> None:
    assert words in refusal(*arguments)


# --- --json


def test_json_holds_what_programs_ask_for() -> None:
    made = plan(*SERVER)
    assert all({"key", "value", "why", "source"} == decision.keys() for decision in made["decisions"])
    assert made["predicted"]["kv_cache_tokens"] == 74_256
    assert made["predicted"]["max_model_len"] == 74_240
    assert made["predicted"]["ms_per_token_floor"] == pytest.approx(7.98, abs=0.005)
    assert {check["metric"]: check["verdict"] for check in made["checks"]} == {
        "ttft_p50_ms": "comfortable",
        "e2e_p90_ms": "impossible",
    }


def test_json_of_a_host_without_a_card_knows_no_floor() -> None:
    predicted = plan(*LAB)["predicted"]
    assert predicted["kv_cache_tokens"] == 46_592
    assert predicted["ms_per_token_floor"] is None
    assert predicted["memory"] is None


def test_same_plan_byte_for_byte_in_every_process() -> None:
    for arguments in (SERVER, (*WORKSTATION, "--need", "context=128K")):
        # string hashes, and with them the order of sets, differ from seed to seed
        printed = {real(*arguments, "--json", PYTHONHASHSEED=seed).stdout for seed in ("1", "2")}
        assert len(printed) == 1
        assert json.loads(printed.pop())["decisions"]


# --- where the host comes from


@pytest.mark.parametrize("name", shipped_recordings())
def test_facts_of_one_host_give_the_plan_of_its_recording(name: str, tmp_path: Path) -> None:
    options = () if name in WITH_CARD else LAB[2:]
    assert plan("--facts", facts_file(tmp_path, name), *options) == plan("--recording", name, *options)


def test_facts_of_several_hosts_are_refused(tmp_path: Path) -> None:
    path = facts_file(tmp_path, "lab-host", "4090d-workstation")
    assert f"{path} holds 2 hosts" in refusal("--facts", path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("{}", "holds no facts of a host"),
        ("[]", "holds no facts of a host"),
        ('{"hosts": {}}', "holds 0 hosts"),
        ('{"hosts": {"a": {}}}', "holds no facts of a host"),
        ('{"hosts": {"a": {"facts": {"gpus": 5}}}}', "holds no facts of a host"),
    ],
)
def test_file_without_facts_is_refused(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(content.encode("latin-1"))
    said = refusal("--facts", path)
    assert str(path) in said
    assert words in said


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nothing.json"
    assert f"{path} cannot be read" in refusal("--facts", path)


def test_card_that_the_catalog_does_not_know_is_named(tmp_path: Path) -> None:
    path = facts_file(tmp_path, "4090d-workstation")
    path.write_text(path.read_text().replace("10de:2685", "10de:ffff"))
    said = refusal("--facts", path)
    assert "10de:ffff" in said
    assert "catalog/gpus.yaml" in said


def test_host_is_looked_at_through_pyinfra() -> None:
    done = real("@replay/4090d-workstation", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == plan(*WORKSTATION)


# --- what is served


def test_engine_can_be_named_by_its_version() -> None:
    assert plan(*SERVER, "--engine", "vllm==0.24.0")["engine"] == "vllm-0.24.0-cuda"
    shown = page(*SERVER, "--engine", "vllm==0.24.0")
    assert shown.startswith("would be refused")
    assert "vllm-0.24.0-cuda is there to plan with and is never installed" in shown


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("--engine", "vllm==9.9", "vllm-0.33.0-cuda"),
        ("--engine", "vllm-0.32.0-cpu", "this host would serve on cuda"),
        ("--model", "Qwen3-5B", "did you mean Qwen/"),
        ("--profile", "interactif", "did you mean interactive"),
    ],
)
def test_unknown_name_is_told_with_the_nearest(option: str, name: str, words: str) -> None:
    said = refusal(*SERVER, option, name)
    assert name.removeprefix("vllm==") in said
    assert words in said


# --- --compare


def saved(path: Path, *arguments: str) -> Path:
    path.write_text(run(*arguments, "--json").stdout)
    return path


def test_plans_that_decide_the_same_say_so(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "a.json", *SERVER), saved(tmp_path / "b.json", *SERVER)
    assert page("--compare", one, other) == "The plans decide the same.\n"


def test_difference_of_two_plans_is_shown_with_its_reason(tmp_path: Path) -> None:
    before = saved(tmp_path / "a.json", *SERVER, "--set", "seed=1")
    after = saved(tmp_path / "b.json", *SERVER, "--need", "e2e_ms=1100", "--set", "max-model-len=4096")
    rows = {re.split("  +", line)[0]: re.split("  +", line)[1:] for line in page("--compare", before, after).splitlines()}
    assert rows["max-model-len"] == ["32768", "4096", "set by you; the plan had 32768"]
    assert rows["seed"] == ["1", "unset", "the second plan leaves it alone"]
    assert rows["weights"][0].startswith("bf16 of")
    assert rows["weights"][1].startswith("int4 of")
    assert rows["KV cache, tokens"][0] == "74,256"
    assert rows["e2e_p90_ms"][:2] == ["impossible", "tight"]
    assert "engine" not in rows  # what is the same is left out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("{}", "is no plan"),
        ('{"decisions": 5}', "is no plan"),
        ('{"decisions": [{}]}', "is no plan"),
        ("[]", "is no plan"),
    ],
)
def test_file_that_is_no_plan_is_named(content: str, words: str, tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "a.json", *SERVER), tmp_path / "b.json"
    bad.write_text(content)
    for pair in ((good, bad), (bad, good)):
        said = refusal("--compare", *pair)
        assert str(bad) in said
        assert words in said


# --- wrong usage


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="no-host"),
        pytest.param((*WORKSTATION, "@local"), id="two-hosts"),
        pytest.param((*WORKSTATION, "--facts", "facts.json"), id="recording-and-facts"),
        pytest.param((*WORKSTATION, "--json", "--explain", "weights"), id="json-and-explain"),
        pytest.param(("--compare", "a.json", "b.json", *WORKSTATION), id="compare-and-host"),
        pytest.param(("--compare", "a.json"), id="compare-with-one"),
        pytest.param((*WORKSTATION, "--jsn"), id="unknown-option"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == click.UsageError.exit_code
    assert "Error: " in result.output
    assert not result.stdout  # no page, no JSON
