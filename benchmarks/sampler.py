"""What sampling costs beside a server with as many processes and threads as vLLM has: `python -m benchmarks.sampler [URL]`.

Without a URL, the server is a stand-in: five processes with sixty threads each, all of which wake twenty times a second, and a
/metrics page of vLLM's size. What NVML's calls cost on a card is not in it; on a GPU host give the URL of its server.
"""

import argparse
import asyncio
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from statistics import median

from rich.console import Console
from rich.table import Table

from bringup.smoke.sampler.sampler import Sampler

SECONDS = 20
MOST_PERCENT, LEAST_HZ = 1.0, 5.0
"""What is promised: 5 Hz or better at under one percent of a core."""
PROCESSES, THREADS, WAKE_S = 5, 60, 0.05
"""Counted on a lab host with vLLM 0.32.0's CPU build (four processes, 12 to 46 threads); with a card PyTorch starts more."""
METRICS = (
    b"".join(
        b'vllm:request_prefill_time_seconds_bucket{engine="0",le="%d",model_name="Qwen/Qwen3-4B-Instruct-2507"} 1.0\n' % n
        for n in range(600)
    )
    + b'vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-4B-Instruct-2507"} 4.0\n'
)
"""64 KB in 629 lines, as that server's page was."""


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(METRICS)))
        self.end_headers()
        self.wfile.write(METRICS)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002
        """Say nothing."""


def _wake_again_and_again() -> None:
    for _ in range(THREADS):
        threading.Thread(target=_tick, daemon=True).start()
    threading.Event().wait()


def _tick() -> None:
    while True:
        time.sleep(WAKE_S)


def _serve(ready: Connection) -> None:
    for _ in range(PROCESSES - 1):
        multiprocessing.get_context("fork").Process(target=_wake_again_and_again, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    ready.send(server.server_address[1])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ready.recv()  # an end in order takes its children with it


@contextmanager
def stand_in() -> Iterator[str]:
    """Have the stand-in; yield its address."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(its,))  # not a daemon, since those may have no children
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        ours.send("end")
        process.join()


async def cost(url: str) -> tuple[float, float, int, tuple[str, ...]]:
    """Sample for a while; return percent of a core, moments a second, threads that were looked at, and what could not be."""
    async with Sampler(url, time.monotonic()) as sampler:
        await asyncio.sleep(SECONDS)
    timeline = sampler.timeline
    gaps = [after - before for before, after in zip(timeline.at_s, timeline.at_s[1:], strict=False)]
    threads = sum(process.threads for process in timeline.processes)
    return timeline.sampler_cpu_percent or float("nan"), 1 / median(gaps), threads, timeline.notes


def main() -> int:
    """Measure and print; return 1 when the promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", help="a server on this machine")
    url = parser.parse_args().url
    if url:
        measured = asyncio.run(cost(url))
    else:
        with stand_in() as url:
            measured = asyncio.run(cost(url))
    percent, hertz, threads, notes = measured
    table = Table("Server", "threads", "moments a second", "% of one core", "promised")
    kept = percent < MOST_PERCENT and hertz > LEAST_HZ * 0.98
    table.add_row(
        url,
        str(threads),
        f"{hertz:.2f}",
        f"{percent:.2f}",
        f"{LEAST_HZ:g} Hz, < {MOST_PERCENT:g} %: {'kept' if kept else 'MISSED'}",
    )
    Console().print(table)
    for note in notes:
        print(note, file=sys.stderr)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
