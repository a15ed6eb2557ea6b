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
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web

from tests.unit.fake_openai import FakeOpenAI, serving


@dataclass
class FakeVllm(FakeOpenAI):
    """Answers `max_num_seqs` requests at once, and computes: `prompt_burn_ms` before the first token, `token_burn_ms` for each."""

    max_num_seqs: int = 256
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
                passed = {"ttft": ready - came, "queue": began - came, "prefill": ready - began, "e2e": ended - came}
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
def vllm_process(cpus: set[int] | None = None, **settings: Any) -> Iterator[Running]:
    """Start the server with `settings` of `FakeVllm`, on `cpus` alone where they are given."""
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.fake_vllm", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Running(process.stdout.readline().strip(), process.pid)
        finally:
            process.stdin.close()
            process.wait(timeout=20)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("ttft_s", "itl_s", "prompt_burn_ms", "kv_use"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("max_num_seqs", "preemptions"):
        parser.add_argument(f"--{name}", type=int)
    settings = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    fake = FakeVllm(**settings)
    with serving(fake, [web.get("/metrics", fake.metrics)]) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
