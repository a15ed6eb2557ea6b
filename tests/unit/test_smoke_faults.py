"""Each fault of a server that can be made without a card is made, and must be named; a healthy server must not be blamed.

The servers are real processes with real limits; a card, where there is one, is what a fake NVML says.
"""

import http.client
import io
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.delayed_link import FAR_ADDRESS, delayed_link
from bringup.errors import BringupError
from bringup.smoke.diagnosis.case import Case, Missed, Sent
from bringup.smoke.diagnosis.diagnose import causes_of
from bringup.smoke.diagnosis.model import Cause
from bringup.smoke.model import AcceptanceLine, SmokeRequest
from bringup.smoke.run import run_smoke
from bringup.smoke.sampler.child import sample
from bringup.smoke.sampler.columns import timeline_of
from bringup.smoke.timeline import Timeline
from tests.unit.fake_nvml import FakeNvml
from tests.unit.fake_vllm import Running, hurry, spinning_processes, vllm_process

ALL_CPUS = tuple(sorted(os.sched_getaffinity(0)))
NO_CARD = FakeNvml(fixed={"missing": True})
_LIMIT_S = 40.0


def ask(url: str, zero: float) -> Sent:
    """Send one request and time its stream, as the load client does."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_LIMIT_S)
    sent = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "smol", "messages": [], "max_completion_tokens": 4}))
    stream = connection.getresponse()
    first = None
    for line in stream:
        if first is None and '"content": "量"'.encode() in line:
            first = time.monotonic()
    ended = time.monotonic()
    connection.close()
    assert first is not None
    return Sent(sent - zero, (first - sent) * 1000, (ended - sent) * 1000, prompt_tokens=7, completion_tokens=4)


def measure(
    url: str,
    library: FakeNvml = NO_CARD,
    streams: int = 1,
    strangers: int = 0,
    client_pid: int | None = None,
    system: Path = Path("/sys"),
    plan: dict[str, Any] | None = None,
) -> Case:
    """Sample the server while `streams` of ours (and `strangers`) ask it, until each source has told enough; miss a line."""
    zero, out, stop, enough = time.monotonic(), io.StringIO(), threading.Event(), threading.Event()
    sent: list[Sent] = []
    sampler = threading.Thread(
        target=sample,
        args=(out, stop, zero, url),
        kwargs={"library": library, "client_pid": client_pid or os.getpid(), "system": system, "slow_s": 0.2},
    )

    def load(keep: Callable[[Sent], object]) -> None:
        hurry()
        while not enough.is_set():
            keep(ask(url, zero))

    clients = [threading.Thread(target=load, args=(sent.append,)) for _ in range(streams)]
    clients += [threading.Thread(target=load, args=(lambda _: None,)) for _ in range(strangers)]
    sampler.start()
    try:
        while not _has_enough(out.getvalue(), sent, time.monotonic() - zero):
            for client in clients:
                if client.ident is None:
                    client.start()
            time.sleep(0.1)
    finally:
        enough.set()
        for client in clients:
            client.join()
        stop.set()
        sampler.join()
    ttft = statistics.fmean(one.ttft_ms or 0 for one in sent)
    e2e = statistics.fmean(one.e2e_ms or 0 for one in sent)
    missed = (Missed("ttft_p50_ms", ttft * 0.5, ttft), Missed("e2e_p50_ms", e2e * 0.5, e2e))
    return Case(timeline=timeline_of(out.getvalue().splitlines(), 0.2), missed=missed, sent=tuple(sent), plan=plan or {})


def _has_enough(rows: str, sent: list[Sent], passed_s: float) -> bool:
    assert passed_s < _LIMIT_S, "the sources did not tell enough in time"
    seen = timeline_of(rows.splitlines(), 0.2)
    return len(sent) >= 4 and _count(seen, "memory_available_mib") >= 4 and _count(seen, "server_ttft_count") >= 4


def _count(timeline: Timeline, name: str) -> int:
    series = timeline.one(name)  # type: ignore[arg-type]
    return sum(value is not None for value in series.values) if series else 0


def keys(causes: tuple[Cause, ...]) -> list[str]:
    return [cause.key for cause in causes]


def without_other_load(case: Case) -> list[str]:
    """Keys of what was found; what the load of other programs on the test's own machine does to a run is left out."""
    busy = sum(case.mean("core_busy_percent", str(cpu)) or 0 for cpu in ALL_CPUS) / 100
    ours = case.used_cpus(case.timeline.processes)
    found = keys(causes_of(case))
    return found if busy - ours < 0.3 else [key for key in found if key not in ("cpu-contended", "network")]


def test_a_healthy_server_is_not_blamed() -> None:
    with vllm_process(hurried=True, ttft_s=0.05, itl_s=0.005) as server:
        case = measure(server.url, FakeNvml(series={"gpu_util_percent": [97.0]}), plan={"vllm": {"max-num-seqs": 256}})
    assert without_other_load(case) == []


def test_programs_on_the_servers_cpus() -> None:
    with vllm_process(prompt_burn_ms=40) as server, spinning_processes(3 * len(ALL_CPUS), set(ALL_CPUS)):
        causes = causes_of(measure(server.url))
    assert causes[0].key == "cpu-contended"
    assert causes[0].confidence == "high"
    assert "CPUs' time beside the server's" in causes[0].evidence[0]


def test_one_cpu_for_all_of_the_servers_processes() -> None:
    with vllm_process({ALL_CPUS[0]}, hurried=True, prompt_burn_ms=10, spinning=2) as server:
        causes = causes_of(measure(server.url))
    assert causes[0].key == "too-few-cpus"
    assert causes[0].confidence == "high"
    assert f"the server may use CPU {ALL_CPUS[0]}" in causes[0].evidence[0]


@contextmanager
def quota_of(pid: int, share: float) -> Iterator[None]:
    """Move a process into a cgroup that grants it `share` of a CPU (version 2, or 1 where that has the controller).

    The cgroup has the greatest weight, so that on a busy machine it is the quota that stops it.
    """
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    folder = (root if unified else root / "cpu") / f"bringup-test-{os.getpid()}"
    try:
        if unified:
            (root / "cgroup.subtree_control").write_text("+cpu")
        folder.mkdir()
        if unified:
            (folder / "cpu.max").write_text(f"{int(share * 100_000)} 100000")
            (folder / "cpu.weight").write_text("10000")
        else:
            (folder / "cpu.cfs_quota_us").write_text(str(int(share * 100_000)))
            (folder / "cpu.shares").write_text("262144")
    except OSError as error:
        pytest.skip(f"no cgroup with a CPU quota can be made here: {error}")
    before = next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if unified or ":cpu:" in line)
    try:
        (folder / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        back = folder.parent / before.split(":", 2)[2].lstrip("/")
        for left in (folder / "cgroup.procs").read_text().split():
            (back / "cgroup.procs").write_text(left)
        folder.rmdir()


def test_a_cpu_quota() -> None:
    with vllm_process(prompt_burn_ms=20) as server, quota_of(server.pid, 0.2):
        causes = causes_of(measure(server.url))
    assert causes[0].key == "cpu-quota"
    assert causes[0].confidence == "high"


@pytest.mark.skipif(len(ALL_CPUS) < 2, reason="needs two CPUs")
def test_neighbours_on_the_servers_cores(tmp_path: Path) -> None:
    ours, other = ALL_CPUS[:2]
    for cpu in (ours, other):  # as if both were one core's threads
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{ours},{other}")
    with vllm_process({ours}, spinning=1) as server, spinning_processes(1, {other}):
        causes = causes_of(measure(server.url, system=tmp_path))
    (cause,) = (cause for cause in causes if cause.key == "smt-neighbours")
    assert f"CPU {other}, on one core with the server's CPU {ours}" in cause.evidence[0]


def test_a_queue_before_the_engine() -> None:
    with vllm_process(hurried=True, ttft_s=0.05, max_num_seqs=1) as server:
        causes = causes_of(measure(server.url, streams=4, plan={"vllm": {"max-num-seqs": 1}}))
    assert causes[0].key == "queueing"
    assert causes[0].confidence == "high"
    assert "max-num-seqs is 1: all places were taken" in causes[0].evidence
    assert causes[0].fix == "raise max-num-seqs (engine_settings)"


def test_the_benchmark_itself_names_the_cause_in_its_record() -> None:
    with vllm_process(hurried=True, ttft_s=0.05, max_num_seqs=1) as server:
        request = SmokeRequest(
            base_url=server.url,
            model="smol",
            prompt="Hello",
            max_tokens=4,
            requests=40,
            concurrency=4,
            lines=(AcceptanceLine(metric="ttft_p50_ms", at_most=60),),
            host="lab1",
        )
        report = run_smoke(request, lambda *_: None)
    assert report.outcome == "FAIL"
    assert report.timeline is not None
    assert report.timeline.one("process_cpu_percent", str(server.pid)) is not None
    assert report.causes[0].key == "queueing"


def test_a_full_kv_cache() -> None:
    with vllm_process(hurried=True, ttft_s=0.05, max_num_seqs=2, preemptions=1, kv_use=0.99) as server:
        causes = causes_of(measure(server.url, streams=3, plan={"predicted": {"kv_cache_tokens": 2048}}))
    assert causes[0].key == "kv-exhausted"
    assert "requests were preempted" in causes[0].evidence[0]
    assert "99 % full of 2,048 planned tokens" in causes[0].evidence[1]


def test_others_who_use_the_server() -> None:
    with vllm_process(hurried=True, ttft_s=0.05) as server:
        causes = causes_of(measure(server.url, strangers=3))
    assert causes[0].key == "other-clients"
    assert causes[0].confidence == "high"


def test_an_api_server_that_is_busy_with_tokenising() -> None:
    with vllm_process(hurried=True, front_burn_ms=60, ttft_s=0.02) as server:
        causes = causes_of(measure(server.url))
    assert "tokenizer" in keys(causes)
    (cause,) = (cause for cause in causes if cause.key == "tokenizer")
    assert cause.confidence == "high"
    assert "prompts of 7 tokens on average" in cause.evidence


def test_a_slow_network() -> None:
    try:
        link = delayed_link()
        with link as far, vllm_process(hurried=True, enter=far.enter, ttft_s=0.02, address=FAR_ADDRESS) as server:
            far.one_way_ms = 40
            case = measure(server.url)
    except BringupError as error:
        pytest.skip(error.message)
    causes = causes_of(case)
    assert not case.timeline.server_is_local
    assert keys(causes) == ["network"]
    assert causes[0].confidence == "high"


def test_a_load_client_without_cpu_time() -> None:
    with vllm_process(hurried=True, ttft_s=0.05) as server, spinning_processes(1, hurried=True) as (busy,):
        case = measure(server.url, client_pid=busy)
    if (case.mean("process_cpu_percent", str(busy)) or 0) < 90:
        pytest.skip("other programs leave the client less than a CPU, which it then cannot fill")
    assert "client-saturated" in keys(causes_of(case))


@pytest.mark.parametrize(("util", "blamed"), [([35.0, 60.0, 20.0], True), ([97.0], False)])
def test_a_card_that_waits_for_a_thread(util: list[float], blamed: bool) -> None:
    library = FakeNvml(series={"gpu_util_percent": util * 100})
    with vllm_process(hurried=True, ttft_s=0.05, spinning=1) as server:
        case = measure(server.url, library)
    spinning = [process for process in case.server_processes if process.pid != server.pid]
    if all((case.mean("hottest_thread_cpu_percent", str(process.pid)) or 0) < 90 for process in spinning):
        pytest.skip("other programs leave no thread a whole CPU")
    assert ("gpu-waits-for-cpu" in keys(causes_of(case))) is blamed


def test_a_server_is_found_with_its_children() -> None:
    with vllm_process(hurried=True, ttft_s=0.01, spinning=1) as server:
        case = measure(server.url)
    assert isinstance(server, Running)
    assert {process.role for process in case.server_processes} == {"api-server", "server"}
