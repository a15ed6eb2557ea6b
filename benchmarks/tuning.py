"""What a setting of the host brings: interleaved A/B pairs on one machine, each figure with its interval.

    make bench-tuning                                                    # on the demo's host
    make bench-tuning URL=http://127.0.0.1:8000 UNIT=vllm.service SETTINGS="cpus=0-7 thp=madvise governor=performance"

Run it as root on the machine that serves. A is the host as it is, B the host with one setting changed while the server runs; each
pair is measured one right after the other, every second one in reverse order. The first line compares A with itself: what it shows
is noise. With 95 % intervals, one line in twenty shows a difference where there is none.
"""

import asyncio
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.arms import Arm, Nothing, arms
from benchmarks.paired import LEAST_PAIRS, Change, change
from bringup.cpu_list import parse_cpu_list
from bringup.errors import BringupError
from bringup.lab.state import lab_dir, read_state
from bringup.smoke.client import first_model
from bringup.smoke.model import SmokeRequest
from bringup.smoke.run import run_smoke
from bringup.smoke.summary import measured

FIGURES = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "tokens_per_s")
# after a change, so that caches and clocks follow it before anything counts
SETTLING_REQUESTS = 4
# about 130 tokens, the size of the advice's prompt
WORDS = (
    "Explain in plain words how a computer keeps what it is told, from the keyboard to the disk, and what may be lost on the way. "
)


@dataclass(frozen=True)
class Load:
    """What is sent for each figure."""

    url: str
    model: str
    requests: int
    concurrency: int
    output_tokens: int
    prompt_repeats: int

    def run(self) -> dict[str, float]:
        """Send it and return the figures.

        Raises:
            BringupError: a request failed, so that the figures would not be comparable.
        """
        request = SmokeRequest(
            base_url=self.url,
            model=self.model,
            prompt=WORDS * self.prompt_repeats,
            max_tokens=self.output_tokens,
            requests=self.requests,
            warmup_requests=SETTLING_REQUESTS,
            concurrency=self.concurrency,
            timeout_s=600,
            host=platform.node(),
        )
        [stage] = run_smoke(request, lambda *_: None, sample=False).stages
        samples = measured(stage.requests)
        failed = [sample.error for sample in samples if sample.error]
        if failed:
            raise BringupError(f"{len(failed)} of {len(samples)} requests failed, first with: {failed[0]}")
        ttft = [sample.ttft_ms for sample in samples if sample.ttft_ms is not None]
        gaps = [gap for sample in samples for gap in sample.itl_ms]
        return {
            "ttft_p50_ms": quantiles(ttft, n=100)[49],
            "ttft_p99_ms": quantiles(ttft, n=100)[98],
            "itl_p50_ms": quantiles(gaps, n=100)[49],
            "itl_p99_ms": quantiles(gaps, n=100)[98],
            "tokens_per_s": stage.summary.output_tokens_per_s or 0.0,
        }


def compare(
    arm: Arm, measure: Callable[[], dict[str, float]], pairs: int, say: Callable[[str], None]
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Measure the pairs of one setting: A without it, B with it; every second pair begins with B."""
    measured = []
    for number in range(pairs):
        found = {}
        for side in "AB" if number % 2 == 0 else "BA":
            with arm.applied() if side == "B" else Nothing().applied():
                found[side] = measure()
        measured.append((found["A"], found["B"]))
        shown = ", ".join(f"{side} TTFT {found[side]['ttft_p50_ms']:.1f} ITL {found[side]['itl_p50_ms']:.2f} ms" for side in "AB")
        say(f"{arm.name}: pair {number + 1} of {pairs}: {shown}")
    return measured


def changes(measured: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Change]:
    """Reduce the pairs of one setting to the change of each figure."""
    return {figure: change([(a[figure], b[figure]) for a, b in measured]) for figure in FIGURES}


def table(results: dict[str, dict[str, Change]]) -> Table:
    """Lay the changes out: a row a setting; what leaves out zero is bold."""
    shown = Table("setting", *FIGURES, box=SIMPLE, title="B against A, 95 % interval")
    for name, found in results.items():
        shown.add_row(name, *(f"[bold]{found[figure]}[/]" if found[figure].shown else str(found[figure]) for figure in FIGURES))
    return shown


def _main_pid(unit: str | None, pid: int | None) -> int | None:
    if pid is not None or unit is None:
        return pid
    command = ["systemctl", "show", "--property=MainPID", "--value", unit]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if said in ("", "0"):
        raise BringupError(f"{unit} does not run here")
    return int(said)


def _of_demo() -> tuple[str, int]:
    """Address and process of the demo's server, whose host shares this machine's kernel.

    Raises:
        BringupError: the demo does not run.
    """
    for host in read_state(lab_dir()).hosts:
        command = ["ss", "-Hltnp", f"sport = :{host.service_port}"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if "pid=" in said:
            return f"http://127.0.0.1:{host.service_port}", int(said.split("pid=")[1].split(",")[0])
    raise BringupError("no demo runs on this machine: make demo first, or name a server with --url and --unit or --pid")


@click.command()
@click.option("--url", help="Server to load; the demo's where it is left out.")
@click.option("--unit", help="Its systemd unit, for cpus=.")
@click.option("--pid", type=int, help="Its main process, for cpus=.")
@click.option("--model", help="The first that the server lists.")
@click.option("--pairs", default=LEAST_PAIRS, show_default=True, type=click.IntRange(LEAST_PAIRS))
@click.option("--requests", default=30, show_default=True, type=click.IntRange(10))
@click.option("--concurrency", default=1, show_default=True, type=click.IntRange(1))
@click.option("--output-tokens", default=64, show_default=True, type=click.IntRange(2))
@click.option("--prompt-repeats", default=5, show_default=True, type=click.IntRange(1), help="Of a sentence of about 27 tokens.")
@click.option("--client-cpus", help="CPUs of this client, such as 14,15: away from the server's.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON with every pair.")
@click.argument("settings", nargs=-1)
def main(
    url: str | None,
    unit: str | None,
    pid: int | None,
    model: str | None,
    pairs: int,
    client_cpus: str | None,
    out: Path | None,
    settings: tuple[str, ...],
    **load: int,
) -> None:
    """Measure what each of SETTINGS brings: cpus=0-7, thp=madvise, governor=performance, smt=off, vm.swappiness=10…"""
    try:
        if client_cpus:
            os.sched_setaffinity(0, parse_cpu_list(client_cpus))
        main_pid = _main_pid(unit, pid)
        if url is None:
            url, main_pid = _of_demo()
        _run(Load(url=url, model=model or asyncio.run(first_model(url, None)), **load), arms(settings, main_pid), pairs, out)
    except BringupError as error:
        sys.exit(f"error: {error.message}")


def _run(load: Load, settings: Sequence[Arm], count: int, out: Path | None) -> None:
    say = Console(stderr=True, highlight=False).print
    pairs = {arm.name: compare(arm, load.run, count, say) for arm in settings}
    results = {name: changes(measured) for name, measured in pairs.items()}
    Console().print(table(results))
    if out is not None:
        record = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "load": asdict(load),
            "pairs": pairs,
            "changes": {name: {figure: asdict(found) for figure, found in row.items()} for name, row in results.items()},
        }
        out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
