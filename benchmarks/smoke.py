"""How true the smoke benchmark is: its figures beside a server's known times, a stall, its start and its size (`make bench-smoke`).

The limits are those of the project: against TTFT 100 ms and 64 tokens of 10 ms each, P50 at most 2 ms off with one stream and 6 ms
with 32 (P90 15 ms), on two cores; a stall of one second shows in the open-loop P99; the first request is sent within a second; the
environment on the host has at most 40 MB.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import distribution
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.mock_server import ITL_S, TTFT_S
from bringup.catalog.loader import tool_requirements
from bringup.smoke.model import Quantiles, SmokeReport, SmokeRequest, Summary
from bringup.smoke.run import run_smoke

TOKENS = 64
TRUTH_MS = {"ttft": 1000 * TTFT_S, "itl": 1000 * ITL_S, "e2e": 1000 * (TTFT_S + (TOKENS - 1) * ITL_S)}
P50_LIMIT_MS = {1: 2.0, 32: 6.0}
P90_LIMIT_MS = 15.0
STALL_S = 1.0
START_LIMIT_S = 1.0
SIZE_LIMIT_MB = 40.0


@contextmanager
def mock_server(*options: str) -> Iterator[str]:
    """Run the server of known times; yield its address."""
    command = [sys.executable, "-m", "benchmarks.mock_server", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def measure(url: str, **changes: object) -> SmokeReport:
    """Run the smoke benchmark as a host would, with its samples."""
    asked = {"base_url": url, "model": "mock", "max_tokens": TOKENS, "host": "here"}
    return run_smoke(SmokeRequest.model_validate({**asked, **changes}), lambda *_: None)


def bias(summary: Summary) -> dict[str, tuple[float, float]]:
    """Metric to how far P50 and P90 are off, in milliseconds."""
    found: dict[str, Quantiles | None] = {"ttft": summary.ttft, "itl": summary.itl, "e2e": summary.e2e}
    return {name: (value.p50 - TRUTH_MS[name], value.p90 - TRUTH_MS[name]) for name, value in found.items() if value is not None}


def start_s(url: str) -> float:
    """Seconds from the start of `python -m bringup.smoke` until it has sent its first request, by its own clock."""
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder, "request.json")
        asked = {"base_url": url, "model": "mock", "max_tokens": 1, "requests": 1, "warmup_requests": 1, "host": "here"}
        request.write_text(json.dumps(asked))
        began = time.time()
        command = [sys.executable, "-m", "bringup.smoke", str(request), "--record-dir", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        record = SmokeReport.model_validate_json(Path(folder, "latest.json").read_bytes())
    started = datetime.fromisoformat(record.started_at).timestamp()
    return float(started - began + record.stages[0].requests[0].sent_s)


def size_mb() -> float:
    """Megabytes of the packages in the environment on the host, as they are installed here (without Python and pip)."""
    names = [line.split("==")[0].strip() for line in tool_requirements("smoke").splitlines() if "==" in line]
    files = (file.locate() for name in names for file in distribution(name).files or ())
    return sum(Path(str(file)).stat().st_size for file in files if Path(str(file)).is_file()) / 1e6


def main() -> int:
    """Print what was seen; return 1 when something is beyond its limit."""
    console = Console(width=120)
    table = Table("Streams", "Metric", "True", "P50 off by", "P90 off by", "Limit P50, P90", title="Against known times (ms)")
    good = True
    with mock_server() as url:
        for streams, requests in ((1, 30), (32, 160)):
            [stage] = measure(url, concurrency=streams, requests=requests).stages
            for name, (p50, p90) in bias(stage.summary).items():
                limit = P50_LIMIT_MS[streams]
                good &= abs(p50) <= limit and abs(p90) <= P90_LIMIT_MS
                table.add_row(str(streams), name.upper(), f"{TRUTH_MS[name]:g}", f"{p50:+.2f}", f"{p90:+.2f}", f"{limit:g}, 15")
        start = start_s(url)
    with mock_server("--stall-at", "50", "--stall-s", str(STALL_S)) as url:
        [stage] = measure(url, rate_rps=20.0, arrivals="poisson", requests=150, warmup_requests=10).stages
    console.print(table)
    stalled = stage.summary.ttft
    p99 = stalled.p99 if stalled else 0.0
    console.print(f"A stall of {STALL_S:g} s, open loop at 20/s: TTFT P50 {stalled.p50 if stalled else 0:.0f} ms, P99 {p99:.0f} ms")
    console.print(f"Start of `python -m bringup.smoke` to its first request: {start:.2f} s (limit {START_LIMIT_S:g} s)")
    size = size_mb()
    console.print(f"Packages of the environment on the host: {size:.1f} MB (limit {SIZE_LIMIT_MB:g} MB)")
    good &= p99 >= 900 * STALL_S and start <= START_LIMIT_S and size <= SIZE_LIMIT_MB
    console.print("All within the limits." if good else "Something is beyond its limit.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
