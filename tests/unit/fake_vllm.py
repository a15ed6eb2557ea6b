"""A server process with vLLM's outside (streams, /metrics, a port of its own) whose CPU use and limits are known beforehand.

`vllm_process()` starts it as a process of its own, so that it can be pinned, limited and crowded out like the real one.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

from tests.unit.fake_openai import FakeOpenAI, serving


@dataclass
class FakeVllm(FakeOpenAI):
    """Answers `max_num_seqs` requests at once, and computes before the first token: in front of its queue and behind it."""

    max_num_seqs: int = 256
    front_burn_ms: float = 0.0
    prompt_burn_ms: float = 0.0
    kv_use: float = 0.1
    preemptions: int = 0
    """For each request."""
    waiting: int = 0
    running: int = 0
    finished: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("ttft", "queue", "prefill", "e2e"), 0.0))

    def __post_init__(self) -> None:
        self.seats = asyncio.Semaphore(self.max_num_seqs)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        came = time.perf_counter()
        burn(self.front_burn_ms / 1000)
        taken = time.perf_counter()
        self.waiting += 1
        async with self.seats:
            self.waiting -= 1
            self.running += 1
            began = time.perf_counter()
            burn(self.prompt_burn_ms / 1000)
            ready = time.perf_counter() + self.ttft_s
            try:
                return await super().chat(request)
            finally:
                self.running -= 1
                self.finished += 1
                ended = time.perf_counter()
                passed = {"ttft": ready - came, "queue": began - taken, "prefill": ready - began, "e2e": ended - came}
                for name, seconds in passed.items():
                    self.sums[name] += seconds

    async def metrics(self, _: web.Request) -> web.Response:
        values: dict[str, float] = {
            "num_requests_running": self.running,
            "num_requests_waiting": self.waiting,
            "kv_cache_usage_perc": self.kv_use if self.running else 0.0,
            "num_preemptions_total": self.preemptions * self.finished,
            "request_success_total": self.finished,
        }
        times = {
            "ttft": "time_to_first_token",
            "queue": "request_queue_time",
            "prefill": "request_prefill_time",
            "e2e": "e2e_request_latency",
        }
        for key, name in times.items():
            values |= {f"{name}_seconds_sum": self.sums[key], f"{name}_seconds_count": self.finished}
        lines = [f'vllm:{name}{{engine="0",model_name="smol"}} {value}' for name, value in values.items()]
        return web.Response(text="\n".join(["# HELP vllm:num_requests_running Requests", *lines, ""]))


def burn(seconds: float) -> None:
    """Use one CPU for so much CPU time, however long that takes."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


class Running(NamedTuple):
    url: str
    pid: int


@contextmanager
def vllm_process(
    cpus: set[int] | None = None, enter: tuple[str, ...] = (), hurried: bool = False, **settings: Any
) -> Iterator[Running]:
    """Start the server with `settings` of `FakeVllm` and of `main`.

    `cpus` are those it may use, `enter` the words before its command; `hurried` gives it priority over what else runs here.
    """
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [*enter, sys.executable, "-m", "tests.unit.fake_vllm", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: place(cpus, hurried),
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Running(process.stdout.readline().strip(), process.pid)
        finally:
            process.stdin.close()
            process.wait(timeout=20)


def place(cpus: set[int] | None, hurried: bool) -> None:
    """Give this process its CPUs and, where that is allowed, priority, so that a busy machine does not disturb what is measured."""
    if cpus:
        os.sched_setaffinity(0, cpus)
    if hurried:
        hurry()


def hurry() -> None:
    """Give this thread, and what it starts, priority over what else runs here, where that is allowed."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # a nice value counts within one login session only


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ttft_s", "itl_s", "front_burn_ms", "prompt_burn_ms", "kv_use"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("max_num_seqs", "preemptions"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--spinning", type=int, default=0, help="processes that compute without end, as vLLM's engine does")
    parser.add_argument("--address", default="127.0.0.1")
    settings = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    spinning, address = settings.pop("spinning"), settings.pop("address")
    fake = FakeVllm(**settings)
    with spinning_processes(spinning), serving(fake, [web.get("/metrics", fake.metrics)], address) as url:
        print(url, flush=True)
        sys.stdin.read()


@contextmanager
def spinning_processes(count: int, cpus: set[int] | None = None, hurried: bool = False) -> Iterator[list[int]]:
    """Have `count` processes that use all the CPU time they get; yield their numbers."""
    program = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): [n * n for n in range(10000)]"
    spinning = [
        subprocess.Popen([sys.executable, "-c", program, str(os.getpid())], preexec_fn=lambda: place(cpus, hurried))
        for _ in range(count)
    ]
    try:
        yield [process.pid for process in spinning]
    finally:
        for process in spinning:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
