"""Rules on what no test machine has: cards, memory nodes, a hypervisor that takes time; and the order of what is found.

A card's samples go through the sampler's own reading of NVML, /proc and cgroup files through its own readers.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bringup.hardware import HostFacts, MemoryFacts
from bringup.smoke.diagnosis.case import Case, Missed, Sent
from bringup.smoke.diagnosis.diagnose import RULES, causes_of, diagnose
from bringup.smoke.model import SmokeReport
from bringup.smoke.sampler.card import CardUse
from bringup.smoke.sampler.columns import timeline_of
from bringup.smoke.sampler.proc import CgroupUse, CoreUse, MemoryEvents, Reading
from bringup.smoke.timeline import Timeline
from tests.unit.fake_nvml import FakeNvml
from tests.unit.machines import changed, two_socket_server, workstation

MISSED = (Missed("e2e_p90_ms", 1100.0, 1500.0), Missed("ttft_p50_ms", 240.0, 300.0))
# an RTX 4090 D that decodes: the clocks of a card that boosts, P2's memory clock, a link that is awake
DECODING = {
    "gpu_util_percent": [97.0, 99.0, 96.0],
    "sm_clock_mhz": [2550.0, 2535.0],
    "memory_clock_mhz": [10251.0],
    "power_w": [330.0, 350.0],
    "temperature_c": [66.0],
    "throttle_reasons": [0.0],
    "pcie_generation": [4.0],
    "pcie_lanes": [16.0],
    "pcie_rx_mb_s": [20.0],
    "pcie_tx_mb_s": [5.0],
    "gpu_memory_mib": [21000.0],
}
RTX_4090D = {
    "name": "NVIDIA GeForce RTX 4090 D",
    "max_sm_clock_mhz": 3105,
    "max_memory_clock_mhz": 10501,
    "power_limit_w": 425.0,
    "default_power_limit_w": 425.0,
    "max_pcie_generation": 4,
    "max_pcie_lanes": 16,
}


def rows_of(read: Callable[[float], Reading], moments: int = 10) -> list[str]:
    return [json.dumps({"t": at / 5, "v": read(at / 5)}) for at in range(moments)]


def card_timeline(
    series: dict[str, list[float]],
    fixed: dict[str, Any],
    idle_moments: int = 0,
    processes: tuple[tuple[int, int], ...] = ((1, 2**34),),
) -> Timeline:
    """Ten moments of a card under load, after some in which the server has nothing to do."""
    cards = CardUse(FakeNvml(series={**DECODING, **series}, fixed={**RTX_4090D, **fixed}, processes=processes), None, lambda: [1])

    def read(at_s: float) -> Reading:
        link = cards.read_slowly(
            at_s,
        )
        card = {**cards.read(at_s), **cards.read_state(at_s), **link, **cards.read_traffic(at_s)}
        return {**card, "requests_running": 0.0 if at_s < idle_moments / 5 else 1.0}

    rows = rows_of(read, 10 + idle_moments)
    return timeline_of([*rows, json.dumps({"about": {"cards": cards.describe()}})], 0.2)


def keys(case: Case) -> list[str]:
    return [cause.key for cause in causes_of(case)]


def test_a_card_that_does_its_work_is_not_blamed() -> None:
    assert keys(Case(timeline=card_timeline({}, {}), missed=MISSED, facts=workstation())) == []


def test_an_idle_card_is_not_blamed_for_its_low_clocks() -> None:
    idle = {"throttle_reasons": [1.0], "sm_clock_mhz": [210.0], "memory_clock_mhz": [405.0], "pcie_generation": [1.0] * 5 + [4.0]}
    assert keys(Case(timeline=card_timeline(idle, {}, idle_moments=3), missed=MISSED)) == []


@pytest.mark.parametrize(
    ("series", "fixed", "key", "confidence", "said"),
    [
        (
            {"throttle_reasons": [0.0, 0x60, 0x20], "sm_clock_mhz": [1400.0], "temperature_c": [89.0]},
            {},
            "gpu-throttled",
            "high",
            (
                "hw_thermal_slowdown, sw_thermal_slowdown in 90% of the samples",
                "SM clock 1400 of 3105 MHz while it worked",
                "up to 89 °C",
            ),
        ),
        (
            {"throttle_reasons": [0x88], "sm_clock_mhz": [1400.0]},
            {},
            "gpu-throttled",
            "high",
            ("hw_power_brake_slowdown, hw_slowdown in 100% of the samples",),
        ),
        (
            {"throttle_reasons": [4.0], "sm_clock_mhz": [1800.0], "power_w": [250.0]},
            {"power_limit_w": 250.0},
            "gpu-power-capped",
            "high",
            ("sw_power_cap in 100% of the samples", "250 W on average of 250 W, 425 W is usual"),
        ),
        (
            {"throttle_reasons": [4.0], "sm_clock_mhz": [2300.0], "power_w": [424.0]},
            {},
            "gpu-power-capped",
            "medium",
            ("424 W on average of 425 W",),
        ),
        (
            {"throttle_reasons": [2.0], "sm_clock_mhz": [1200.0]},
            {},
            "gpu-clocks",
            "high",
            ("SM clock 1200 of 3105 MHz while it worked",),
        ),
        ({"memory_clock_mhz": [5001.0]}, {}, "gpu-clocks", "high", ("memory clock 5001 of 10501 MHz while it worked",)),
        ({"pcie_lanes": [4.0]}, {}, "pcie-link", "low", ("4 of 16 lanes",)),
        ({"pcie_generation": [1.0]}, {}, "pcie-link", "low", ("PCIe generation 1 of 4 while it worked",)),
        (
            {"pcie_lanes": [1.0], "pcie_rx_mb_s": [1600.0]},
            {},
            "pcie-link",
            "high",
            ("up to 1600 MB/s crossed it in one direction; it carries 1969 at most",),
        ),
        ({"ecc": [0.0, 3.0]}, {}, "gpu-memory-errors", "medium", ("3 uncorrectable errors came up on NVIDIA GeForce RTX 4090 D",)),
    ],
)
def test_faults_of_a_card(
    series: dict[str, list[float]], fixed: dict[str, Any], key: str, confidence: str, said: tuple[str, ...]
) -> None:
    (cause,) = causes_of(Case(timeline=card_timeline(series, fixed), missed=MISSED))
    assert (cause.key, cause.confidence) == (key, confidence)
    for sentence in said:
        assert any(evidence.startswith(sentence) for evidence in cause.evidence), cause.evidence
    assert cause.fix


@pytest.mark.parametrize(("mib", "use", "confidence"), [(300, {}, "low"), (2000, {}, "medium"), (300, {"other_use": 40}, "high")])
def test_another_program_on_the_card(mib: int, use: dict[str, int], confidence: str) -> None:
    others = ((1, 2**34), (os.getpid(), mib * 2**20))
    (cause,) = causes_of(Case(timeline=card_timeline({}, use, processes=others), missed=MISSED))
    assert (cause.key, cause.confidence) == ("gpu-shared", confidence)
    assert cause.evidence[0] == f"on the card besides the server: python3 ({os.getpid()}), {mib} MiB"
    assert cause.evidence[1:] == (("it worked for them 40 % of the time",) if use else ())


def steal(tmp_path: Path) -> Timeline:
    def read(at_s: float) -> Reading:
        ticks = round(at_s * 100)
        (tmp_path / "stat").write_text(f"cpu {ticks} 0 0 {ticks} 0 0 0 {ticks} 0 0\n")
        return cores.read(at_s)

    (tmp_path / "stat").touch()
    cores = CoreUse(tmp_path)
    return timeline_of(rows_of(read), 0.2)


def moved_pages(tmp_path: Path, name: str = "pgmigrate_success", a_second: int = 5000) -> Timeline:
    def read(at_s: float) -> Reading:
        (tmp_path / "vmstat").write_text(f"{name} {round(at_s * a_second)}\nnuma_hint_faults {round(at_s * 9000)}\n")
        return memory.read(at_s)

    (tmp_path / "vmstat").touch()
    memory = MemoryEvents(tmp_path)
    return timeline_of(rows_of(read), 0.2)


def memory_on_nodes(tmp_path: Path, here_mib: int, far_mib: int) -> Timeline:
    (tmp_path / "memory.numa_stat").write_text(f"anon N0={far_mib * 2**20} N1={here_mib * 2**20}\nfile N0=0 N1=0\n")
    on_node_1 = sorted(cpu for cpu, node in two_socket_server().cpu.node_of.items() if node == 1)
    process = {"pid": 7, "name": "vllm", "role": "api-server", "cpus": on_node_1, "threads": 4}
    rows = rows_of(CgroupUse(tmp_path, []).read)
    return timeline_of([*rows, json.dumps({"about": {"processes": [process]}})], 0.2)


def test_a_hypervisor_that_takes_the_cpus(tmp_path: Path) -> None:
    (cause,) = causes_of(Case(timeline=steal(tmp_path), missed=MISSED))
    assert (cause.key, cause.confidence) == ("cpu-steal", "high")
    assert cause.evidence == ("33 % of the CPU time was stolen (/proc/stat)",)


@pytest.mark.parametrize(("here", "far", "found"), [(6000, 4000, ["numa-remote"]), (9000, 300, []), (9000, 1000, [])])
def test_memory_on_another_node(tmp_path: Path, here: int, far: int, found: list[str]) -> None:
    case = Case(timeline=memory_on_nodes(tmp_path, here, far), missed=MISSED, facts=two_socket_server())
    assert keys(case) == found
    if found:
        (cause,) = causes_of(case)
        assert cause.evidence[0] == "its CPUs are on node 1, 4000 of 10000 MiB of its memory on node 0"


@pytest.mark.parametrize(
    ("facts", "a_second", "found"),
    [(two_socket_server(), 5000, ["numa-migrations"]), (two_socket_server(), 100, []), (workstation(), 5000, [])],
)
def test_pages_that_are_moved(tmp_path: Path, facts: HostFacts, a_second: int, found: list[str]) -> None:
    assert keys(Case(timeline=moved_pages(tmp_path, a_second=a_second), missed=MISSED, facts=facts)) == found


def test_memory_on_disk(tmp_path: Path) -> None:
    (cause,) = causes_of(Case(timeline=moved_pages(tmp_path, "pswpin"), missed=MISSED, facts=workstation()))
    assert (cause.key, cause.confidence) == ("swapping", "high")
    assert cause.evidence == ("19.5 MiB a second came back from swap",)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rated_mt_s": 6000, "configured_mt_s": 4800}, "memory is rated 6000 MT/s and runs at 4800 MT/s"),
        ({"channels": 1, "bandwidth_gb_s": 38.4}, "one memory channel is populated: 38 GB/s"),
    ],
)
@pytest.mark.parametrize(("gpu", "confidence"), [("0000:01:00.0", "low"), (None, "medium")])
def test_slow_memory(fields: dict[str, Any], said: str, gpu: str | None, confidence: str) -> None:
    known = workstation().memory_modules
    assert known is not None
    facts = changed(workstation(), memory_modules=MemoryFacts.model_validate({**dict(known), **fields}))
    nothing = Timeline(interval_s=0.2, at_s=(), series=())
    (cause,) = causes_of(Case(timeline=nothing, missed=MISSED, facts=facts, plan={"gpu": gpu}))
    assert (cause.key, cause.confidence) == ("memory-slow", confidence)
    assert cause.evidence == (said,)


@pytest.mark.parametrize(
    ("line", "measured", "floor", "key"),
    [
        (1100.0, 2300.0, 2053.0, "impossible-line"),
        (2100.0, 2300.0, 2053.0, "tight-line"),
        (2300.0, 4100.0, 2053.0, "tight-line"),  # as an H100 did
        (2300.0, 4300.0, 2053.0, None),
        (2100.0, 9000.0, 2053.0, None),  # far above what is possible: there must be another cause
        (9000.0, 9500.0, 2053.0, None),
        (1100.0, 2300.0, None, None),
    ],
)
def test_lines_and_floors(line: float, measured: float, floor: float | None, key: str | None) -> None:
    missed = (Missed("e2e_p90_ms", line, measured, floor),)
    found = causes_of(Case(timeline=Timeline(interval_s=0.2, at_s=(), series=()), missed=missed))
    assert [cause.key for cause in found] == ([key] if key else [])


def test_the_surest_comes_first_and_the_order_of_rules_decides_among_equals() -> None:
    series = {"throttle_reasons": [0x60], "sm_clock_mhz": [1400.0], "pcie_lanes": [4.0], "ecc": [0.0, 1.0]}
    impossible = (Missed("e2e_p90_ms", 1100.0, 2300.0, 2053.0),)
    found = causes_of(Case(timeline=card_timeline(series, {}), missed=impossible))
    assert [(cause.key, cause.confidence) for cause in found] == [
        ("impossible-line", "high"),
        ("gpu-throttled", "high"),
        ("gpu-memory-errors", "medium"),
        ("pcie-link", "low"),
    ]


def test_a_cause_that_does_not_act_on_the_missed_line_is_put_back() -> None:
    times = {"server_queue_count": (0.0, 10.0), "server_queue_sum_s": (0.0, 9.0)}
    rows = [json.dumps({"t": at, "v": {name: values[at] for name, values in times.items()}}) for at in (0, 1)]
    sent = tuple(Sent(0.1, 900.0, 1000.0) for _ in range(10))

    def confidence(metric: str) -> str:
        (cause,) = causes_of(Case(timeline=timeline_of(rows, 0.2), missed=(Missed(metric, 100.0, 200.0),), sent=sent))
        assert cause.key == "queueing"
        return cause.confidence

    assert confidence("ttft_p50_ms") == "high"
    assert confidence("itl_p50_ms") == "low"


def report(outcome: str, **changes: Any) -> SmokeReport:
    """A record whose stage ran from second 1 to 3, beside a card that was hot after it alone."""
    hot = card_timeline({"throttle_reasons": [0x20], "sm_clock_mhz": [1400.0]}, {})
    cool = card_timeline({}, {})
    merged = [
        one.model_copy(update={"values": (*one.values, *after.values)}) for one, after in zip(cool.series, hot.series, strict=True)
    ]
    at_s = (*(1 + at for at in cool.at_s), *(3.1 + at for at in hot.at_s))
    document: dict[str, Any] = {
        "started_at": "2026-11-25T00:00:00+00:00",
        "tool_version": "0",
        "host": "lab1",
        "request": {"base_url": "http://127.0.0.1:8000", "model": "smol", "host": "lab1"},
        "server": {},
        "stages": [
            {
                "name": "smoke",
                "load": {"kind": "closed", "concurrency": 1, "prompts": "advice", "output_tokens": 4},
                "begin_s": 1.0,
                "end_s": 3.0,
                "requests": [{"sent_s": 1.0, "ttft_ms": 300.0, "e2e_ms": 2000.0, "prompt_tokens": 7}],
                "summary": {"count": 1, "failed": 0},
            }
        ],
        "timeline": cool.model_copy(update={"at_s": at_s, "series": tuple(merged)}).model_dump(),
        "verdicts": [{"metric": "ttft_p50_ms", "at_most": 240.0, "measured": 300.0, "floor_ms": 250.0, "outcome": outcome}],
        "outcome": outcome,
        "reason": "",
    }
    return SmokeReport.model_validate({**document, **changes})


def test_a_record_is_diagnosed_on_the_judged_stage_when_it_missed_a_line() -> None:
    assert [cause.key for cause in diagnose(report("FAIL"))] == ["impossible-line"]
    assert diagnose(report("PASS")) == ()
    late = report("FAIL").stages[0].model_copy(update={"end_s": 6.0})
    assert [cause.key for cause in diagnose(report("FAIL", stages=[late]))] == ["impossible-line", "gpu-throttled"]


def test_a_record_with_facts_of_another_version_is_diagnosed_without_them() -> None:
    assert diagnose(report("INCONCLUSIVE", facts={"cpu": "what was that"}, timeline=None))[0].key == "impossible-line"


def test_nothing_sampled_blames_nobody() -> None:
    assert causes_of(Case(timeline=Timeline(interval_s=0.2, at_s=(), series=()), missed=MISSED)) == ()


def test_every_rule_is_tried_by_a_fault() -> None:
    """A rule that is added gets its fault here or in test_smoke_faults.py."""
    tried = "".join(Path(__file__).with_name(name).read_text() for name in ("test_smoke_diagnosis.py", "test_smoke_faults.py"))
    sources = {rule.find.__code__.co_filename for rule in RULES}
    named = {
        line.split('"')[1]
        for source in sources
        for line in Path(source).read_text().splitlines()
        if line.strip().startswith('key="')
    }
    assert len(named) >= len(RULES)
    assert [key for key in sorted(named) if f'"{key}"' not in tried] == []
