"""How long a plan takes, for one host and for an inventory of ten thousand: `python -m benchmarks.plans`."""

import time
from collections.abc import Callable
from statistics import median

from rich.console import Console
from rich.table import Table

from bringup.catalog import load_catalog
from bringup.plan import make_plan
from bringup.probe.host import parse_host
from bringup.recording import recording_named, shipped_recordings
from bringup.settings import Settings

REPEATS = 50
FLEET = 10_000


def milliseconds(call: Callable[[], object]) -> float:
    """Median of `REPEATS` calls."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return median(times)


def main() -> None:
    """Plan each recording, and print what it takes."""
    catalog = load_catalog()
    table = Table("Recording", "ms to parse", "ms to plan", "ms with two needs", f"minutes for {FLEET} such hosts")
    for name in shipped_recordings():
        text = recording_named(name).probe_text(0)
        facts = parse_host(text)
        small = {} if facts.gpus else {"profile": "cpu-demo", "model": "smollm2-135m"}
        settings = Settings.model_validate(small)
        parse_ms = milliseconds(lambda text=text: parse_host(text))
        plan_ms = milliseconds(lambda facts=facts, settings=settings: make_plan(facts, settings, catalog))
        with_needs = Settings(needs=("context=131072", "e2e_ms=1100"))
        needs_ms = milliseconds(lambda facts=facts, s=with_needs: make_plan(facts, s, catalog)) if facts.gpus else None
        minutes = (parse_ms + plan_ms) * FLEET / 60_000
        table.add_row(name, f"{parse_ms:.1f}", f"{plan_ms:.1f}", f"{needs_ms:.1f}" if needs_ms else "–", f"{minutes:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
