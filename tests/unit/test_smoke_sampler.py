"""Samples of a real process, of /proc, and of a card that a fake NVML stands for."""

import asyncio
import io
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bringup.smoke.sampler.__main__ import main
from bringup.smoke.sampler.card import CardUse
from bringup.smoke.sampler.child import parse_cpu_list, read_siblings, sample
from bringup.smoke.sampler.columns import timeline_of, unit_of
from bringup.smoke.sampler.loop import Bucket
from bringup.smoke.sampler.metrics import Metrics, kv_cache_tokens, parse_metrics
from bringup.smoke.sampler.proc import CoreUse, MemoryEvents, anonymous_mib_by_node, throttled_ms
from bringup.smoke.sampler.sampler import Sampler
from bringup.smoke.sampler.server import find_server
from bringup.smoke.timeline import Timeline
from deploys.bundle import host_bundle
from tests.unit.fake_nvml import FakeNvml
from tests.unit.fake_openai import FakeOpenAI, free_port, serving
from tests.unit.fake_vllm import vllm_process

RECORDED = Path(__file__).parent / "recordings"
CARD = {
    "gpu_util_percent": [97.0, 96.0],
    "gpu_memory_mib": [21000.0],
    "sm_clock_mhz": [2520.0],
    "power_w": [310.5],
    "throttle_reasons": [4.0],
    "pcie_generation": [4.0],
    "pcie_lanes": [16.0],
    "pcie_rx_mb_s": [12.0],
    "pcie_tx_mb_s": [3.0],
    "ecc": [0.0, 2.0],
}


def ask(url: str) -> None:
    body = json.dumps({"model": "smol", "messages": [], "max_completion_tokens": 4}).encode()
    with urllib.request.urlopen(f"{url}/v1/chat/completions", body, timeout=20) as answer:  # noqa: S310
        answer.read()


async def wait_for(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_servers_processes_and_metrics_are_sampled_beside_a_load() -> None:
    wanted = ("core_busy_percent", "process_cpu_percent", "run_queue_delay_ms_per_s", "rss_mib", "server_ttft_count")
    with vllm_process(prompt_burn_ms=20) as server:
        async with Sampler(server.url, time.monotonic()) as sampler:

            def has_all() -> bool:
                ask(server.url)
                seen = sampler.so_far()
                count = seen.one("server_ttft_count")
                return all(seen.one(name) for name in wanted) and bool(count and max(filter(None, count.values), default=0) >= 3)

            await wait_for(has_all)
        timeline = sampler.timeline
    assert timeline.server_is_local
    assert timeline.notes == ()
    assert {(process.pid, process.role) for process in timeline.processes} >= {(server.pid, "api-server")}
    assert [process.role for process in timeline.processes if process.pid == psutil.Process().pid] == ["client"]
    busy = timeline.one("process_cpu_percent", str(server.pid))
    assert busy is not None
    assert max(value for value in busy.values if value is not None) > 0
    assert timeline.at_s == tuple(sorted(timeline.at_s))
    assert timeline.at_s[0] >= 0
    assert timeline.sampler_cpu_percent is not None


async def test_a_sampler_that_is_killed_leaves_what_it_had_and_says_so() -> None:
    with serving(FakeOpenAI()) as url:
        async with Sampler(url, time.monotonic()) as sampler:
            await wait_for(lambda: len(sampler.so_far().at_s) >= 2)
            child = next(c for c in psutil.Process().children() if "bringup.smoke.sampler" in c.cmdline())
            child.kill()
    assert len(sampler.timeline.at_s) >= 2
    assert sampler.timeline.notes == ("the sampler ended early: exit code -9",)


async def test_a_server_elsewhere_is_sampled_from_here_alone() -> None:
    async with Sampler("http://192.0.2.1:8000", time.monotonic()) as sampler:
        await wait_for(lambda: len(sampler.so_far().at_s) >= 2)
    assert not sampler.timeline.server_is_local
    assert [process.role for process in sampler.timeline.processes] == ["client"]
    assert "the server runs elsewhere (192.0.2.1): only this side and its /metrics were sampled" in sampler.timeline.notes


def test_a_port_without_a_server_is_said() -> None:
    port = free_port()
    side = find_server(f"http://127.0.0.1:{port}")
    assert side.owners == ()
    assert side.note == f"no process is seen that listens on port {port}: the server's were not sampled"


def test_a_recorder_for_a_load_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.5", "--out", str(tmp_path / "trace.json")]) == 0
    recorded = Timeline.model_validate_json((tmp_path / "trace.json").read_text())
    assert recorded.one("core_busy_percent") is not None
    assert "% of one core" in capsys.readouterr().err


def test_the_recorder_runs_from_what_the_deploy_sends_to_the_host(tmp_path: Path) -> None:
    (tmp_path / "bringup.zip").write_bytes(host_bundle())
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    forbidden = "import sys; sys.modules.update(dict.fromkeys(['click', 'rich', 'yaml', 'jinja2', 'pyinfra']))"
    program = f"{forbidden}; import runpy; runpy.run_module('bringup.smoke.sampler', run_name='__main__', alter_sys=True)"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program, "--seconds", "0.3"],
        env={"PYTHONPATH": f"{tmp_path}/bringup.zip:{packages}"},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert Timeline.model_validate_json(ran.stdout).at_s


def sampled(library: FakeNvml, until: Callable[[Timeline], bool]) -> Timeline:
    """Sample this machine with `library` as its driver until the condition holds."""
    out, stop = io.StringIO(), threading.Event()
    thread = threading.Thread(target=sample, args=(out, stop, time.monotonic()), kwargs={"library": library})
    thread.start()
    limit = time.monotonic() + 20
    try:
        while not until(timeline_of(out.getvalue().splitlines(), 0.2)):
            assert time.monotonic() < limit, "the condition did not hold in time"
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join()
    return timeline_of(out.getvalue().splitlines(), 0.2)


def count(timeline: Timeline, name: str) -> int:
    series = timeline.one(name)  # type: ignore[arg-type]
    return sum(value is not None for value in series.values) if series else 0


def test_a_card_is_sampled() -> None:
    fixed = {"name": "NVIDIA GeForce RTX 4090 D", "max_sm_clock_mhz": 3105, "power_limit_w": 425.0, "max_pcie_lanes": 16}
    timeline = sampled(FakeNvml(series=CARD, fixed=fixed), lambda seen: count(seen, "pcie_lanes") > 1)
    (card,) = timeline.cards
    assert (card.pci_address, card.name, card.power_limit_w, card.slowdown_c) == ("0000:01:00.0", fixed["name"], 425.0, None)
    assert card.uncorrectable_ecc_errors == 2
    assert timeline.notes == ()
    for name, unit, value in (("gpu_util_percent", "%", 97.0), ("power_w", "W", 310.5), ("pcie_rx_mb_s", "MB/s", 12.0)):
        series = timeline.one(name)  # type: ignore[arg-type]
        assert series is not None
        assert (series.unit, series.of, series.label) == (unit, "0000:01:00.0", fixed["name"])
        assert next(found for found in series.values if found is not None) == value
    assert timeline.one("temperature_c") is None  # which it does not tell


def test_a_card_that_is_lost_leaves_a_gap_and_one_sentence() -> None:
    timeline = sampled(
        FakeNvml(series=CARD, lost_after=3), lambda seen: count(seen, "gpu_util_percent") >= 3 and len(seen.at_s) > 12
    )
    series = timeline.one("gpu_util_percent")
    assert series is not None
    assert count(timeline, "gpu_util_percent") == 3
    assert series.values[-1] is None
    (note,) = timeline.notes
    assert note.startswith("0000:01:00.0 did not answer from ")
    assert note.endswith(" s on: GPU is lost")
    assert timeline.one("core_busy_percent") is not None


def test_a_driver_that_hangs_holds_up_nothing_else() -> None:
    library = FakeNvml(series=CARD, hangs_after=2)
    try:
        timeline = sampled(library, lambda seen: count(seen, "gpu_util_percent") >= 2 and seen.at_s[-1] > 3.5)
    finally:
        library.hang.set()
    assert any(note.startswith("NVML gave nothing from ") for note in timeline.notes)
    cores = timeline.one("core_busy_percent")
    assert cores is not None
    assert cores.values[-1] is not None
    assert [card.pci_address for card in timeline.cards] == ["0000:01:00.0"]


def test_other_programs_on_the_card_are_told_apart(tmp_path: Path) -> None:
    for pid in (10, 20):
        (tmp_path / str(pid)).mkdir()
    on_card = ((10, 5 * 2**30), (20, 2 * 2**30), (30, 2**30))  # 30 is no process of this machine, as seen from a container
    cards = CardUse(FakeNvml(series=CARD, processes=on_card), None, lambda: [10], tmp_path)
    assert cards.read_slowly(1.0)["gpu_other_memory_mib/0000:01:00.0"] == 2048
    assert cards.describe()[0]["others"] == ["python3 (20), 2048 MiB"]


def test_the_card_that_the_server_is_on_is_sampled_where_the_plan_names_another() -> None:
    library = FakeNvml(series=CARD, processes=((10, 2**30),), other_cards=("0000:02:00.0",))
    for planned, notes in (("0000:01:00.0", 0), ("0000:02:00.0", 1)):
        cards = CardUse(library, planned, lambda: [10])
        assert [card["pci_address"] for card in cards.describe()] == ["0000:01:00.0"]
        assert len(cards.notes) == notes
    assert [card["pci_address"] for card in CardUse(library, "0000:02:00.0", lambda: [77]).describe()] == ["0000:02:00.0"]


def test_a_card_that_is_not_there_is_said() -> None:
    assert "no card was sampled: Not Found" in next(iter(CardUse(FakeNvml(), "0000:99:00.0").notes.values()))


def test_a_host_without_a_driver_has_nothing_to_say() -> None:
    assert CardUse(FakeNvml(fixed={"missing": True})).notes == {}


def test_metrics_of_a_real_server() -> None:
    found = parse_metrics((RECORDED / "vllm-0.32.0-metrics.txt").read_bytes())
    assert found["requests_running"] == 1
    assert found["server_requests_total"] == 310  # of all reasons to end
    assert found["server_ttft_count"] == 311
    assert found["server_ttft_sum_s"] == pytest.approx(30.4794, abs=1e-4)
    assert found["kv_use_percent"] == pytest.approx(0.2755, abs=1e-4)
    assert found["preemptions_total"] == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ((RECORDED / "vllm-0.32.0-metrics.txt").read_bytes(), 46592),
        (b'vllm:cache_config_info{block_size="16",num_gpu_blocks="5307"} 1.0\n', 84912),
        (b'vllm:cache_config_info{block_size="16",kv_cache_size_tokens="None",num_gpu_blocks="None"} 1.0\n', None),
        (b"vllm:num_requests_running 3\n", None),
    ],
)
def test_the_size_of_the_kv_cache_is_read(text: bytes, tokens: int | None) -> None:
    assert kv_cache_tokens(text) == tokens


def test_metrics_of_several_engines_are_added_up() -> None:
    lines = [f'vllm:{name}{{engine="{n}"}} {n + 0.5}' for n in (0, 1) for name in ("num_requests_waiting", "kv_cache_usage_perc")]
    found = parse_metrics("\n".join([*lines, "vllm:num_requests_running broken", "# vllm:num_requests_running 3"]).encode())
    assert found == {"requests_waiting": 2.0, "kv_use_percent": 100.0}


@pytest.mark.parametrize("running", [True, False])
def test_a_server_without_metrics_is_said(running: bool) -> None:
    with serving(FakeOpenAI()) as url:
        metrics = Metrics(url if running else f"http://127.0.0.1:{free_port()}")
        assert metrics.read(0.0) == {}
    assert ("tells HTTP 404" in metrics.note) if running else ("Connection refused" in metrics.note)


def test_the_kernels_counters_become_rates(tmp_path: Path) -> None:
    def write(busy: int, idle: int, steal: int, migrated: int) -> None:
        lines = [f"{name} {busy} 0 0 {idle} 0 0 0 {steal} 0 0" for name in ("cpu", "cpu0", "cpu11")]
        (tmp_path / "stat").write_text("\n".join([*lines, "intr 1 2 3"]))
        (tmp_path / "vmstat").write_text(f"numa_hit 5\npgmigrate_success {migrated}\nnuma_miss 0\n")

    (tmp_path / "meminfo").write_text("MemTotal: 64000 kB\nMemAvailable: 32768 kB\n")
    write(100, 100, 0, 50)
    cores, some, memory = CoreUse(tmp_path), CoreUse(tmp_path, [11]), MemoryEvents(tmp_path)
    assert cores.read(1.0) == some.read(1.0) == {}
    assert memory.read(1.0) == {"memory_available_mib": 32}
    write(160, 120, 20, 250)
    assert cores.read(3.0) == {"cpu_steal_percent": 20.0, "core_busy_percent/0": 80.0, "core_busy_percent/11": 80.0}
    assert some.read(3.0) == {"cpu_steal_percent": 20.0, "core_busy_percent/11": 80.0}
    assert memory.read(3.0) == {"memory_available_mib": 32, "pages_migrated_per_s": 100.0, "numa_miss_per_s": 0.0}


def test_cgroup_files() -> None:
    assert throttled_ms(b"usage_usec 5\nnr_throttled 3\nthrottled_usec 1500\n") == 1.5
    assert throttled_ms(b"nr_periods 5\nthrottled_time 2000000\n") == 2.0
    assert throttled_ms(b"usage_usec 5\n") is None
    assert anonymous_mib_by_node(b"anon N0=1048576 N1=0\nfile N0=9 N1=9\n") == {0: 1.0, 1: 0.0}


def test_siblings_and_lists_of_cpus(tmp_path: Path) -> None:
    for cpu, text in ((0, "0,8\n"), (8, "0,8\n"), (1, "1\n")):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text)
    assert read_siblings(tmp_path) == {0: (8,), 8: (0,)}
    assert parse_cpu_list("0-2,8\n") == (0, 1, 2, 8)


def test_several_moments_are_put_into_one() -> None:
    written: list[dict[str, object]] = []
    bucket = Bucket(2, written.append)
    bucket.add(0.2, {"power_w": 100, "throttle_reasons/a": 4, "preemptions_total": 1})
    bucket.add(0.4, {"power_w": 200, "throttle_reasons/a": 8})
    bucket.add(0.6, {"power_w": 300})
    bucket.flush(0.7)
    assert written == [
        {"t": 0.4, "v": {"power_w": 150, "throttle_reasons/a": 12, "preemptions_total": 1}},
        {"t": 0.7, "v": {"power_w": 300}},
    ]


def test_rows_that_were_cut_short_are_left_out() -> None:
    rows = ['{"about":{"notes":["one"]}}', '{"t":0.2,"v":{"power_w/0000:01:00.0":5,"newer_than_this/1":2}}', '{"t":0.4,"v":{"po']
    timeline = timeline_of(rows, 0.2)
    assert (timeline.at_s, [series.name for series in timeline.series], timeline.notes) == ((0.2,), ["power_w"], ("one",))


@pytest.mark.parametrize(
    ("name", "unit"),
    [("power_w", "W"), ("run_queue_delay_ms_per_s", "ms/s"), ("server_ttft_sum_s", "s"), ("server_ttft_count", "")],
)
def test_units_stand_in_the_names(name: str, unit: str) -> None:
    assert unit_of(name) == unit
