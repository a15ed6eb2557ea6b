"""The A/B benchmark of settings: its statistics, and that a setting is undone whatever happens."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.arms import Affinity, Nothing, Written, arms
from benchmarks.paired import change
from benchmarks.tuning import compare
from bringup.errors import BringupError

FIGURES = {"ttft_p50_ms": 100.0, "itl_p50_ms": 10.0}


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    """A process with a child and threads, as a server of models has."""
    script = "import threading, time, subprocess, sys\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    script += "child = subprocess.Popen([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'])\n"
    script += "print('up', flush=True)\nchild.wait()\n"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert {process.stdout.readline().strip() for _ in range(2)} == {"1", "up"}
    yield process
    for child in psutil.Process(process.pid).children():
        child.kill()
    process.wait(10)


def affinities(pid: int) -> set[frozenset[int]]:
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    return {frozenset(os.sched_getaffinity(thread.id)) for process in processes for thread in process.threads()}


def test_the_same_ratio_in_every_pair_is_that_change() -> None:
    found = change([(100, 110), (200, 220), (50, 55), (10, 11), (1, 1.1)])
    assert found.percent == pytest.approx(10)
    assert (found.least_percent, found.most_percent) == (pytest.approx(10), pytest.approx(10))
    assert found.shown


def test_noise_is_taken_for_a_change_in_one_of_twenty_cases() -> None:
    source = random.Random(1)  # noqa: S311
    shown = sum(
        change([(source.lognormvariate(0, 0.1), source.lognormvariate(0, 0.1)) for _ in range(5)]).shown for _ in range(2000)
    )
    assert 70 <= shown <= 130


@pytest.mark.parametrize("pairs", [[(1.0, 2.0)], [(1.0, 2.0), (0.0, 1.0)]])
def test_too_little_is_refused(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="two pairs or more"):
        change(pairs)


def test_every_thread_is_moved_and_put_back(server: subprocess.Popen[str]) -> None:
    before = affinities(server.pid)
    cpu = min(os.sched_getaffinity(0))
    with Affinity("one", server.pid, frozenset({cpu})).applied():
        assert affinities(server.pid) == {frozenset({cpu})}
    assert affinities(server.pid) == before


def test_values_are_put_back_after_a_failure_too(tmp_path: Path) -> None:
    switch, number = tmp_path / "enabled", tmp_path / "swappiness"
    switch.write_text("always [madvise] never\n")
    number.write_text("60\n")

    def use() -> None:
        with Written("both", (switch, number), "10").applied():
            assert number.read_text() == "10"
            raise BringupError("the load failed")

    with pytest.raises(BringupError, match="the load failed"):
        use()
    assert (switch.read_text(), number.read_text()) == ("madvise", "60")


def test_every_second_pair_begins_with_the_change(tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text("old")
    seen: list[str] = []

    def measure() -> dict[str, float]:
        seen.append(file.read_text())
        return {figure: value * (2 if seen[-1] == "new" else 1) for figure, value in FIGURES.items()}

    measured = compare(Written("value", (file,), "new"), measure, 3, lambda _: None)
    assert seen == ["old", "new", "new", "old", "old", "new"]
    assert all(b["ttft_p50_ms"] == 2 * a["ttft_p50_ms"] for a, b in measured)


def test_the_first_setting_is_none_so_that_noise_is_seen() -> None:
    assert [arm.name for arm in arms(["vm.swappiness=10"], None)] == [Nothing().name, "vm.swappiness=10"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("thp", "say NAME=VALUE"), ("cpus=0-1", "--pid or --unit"), ("vm.no_such=1", "this host has no vm.no_such")],
)
def test_what_cannot_be_compared_is_refused(text: str, says: str) -> None:
    with pytest.raises(BringupError, match=says):
        arms([text], None)
