"""`python -m bringup.smoke.sampler --seconds 20 --out trace.json`: records card, CPUs and a server beside a load of your own."""

import argparse
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bringup.smoke.sampler.child import sample
from bringup.smoke.sampler.loop import INTERVAL_S


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample for some seconds and write a Timeline as JSON, or rows for the process that started this one until it closes stdin."""
    parser = argparse.ArgumentParser(prog="python -m bringup.smoke.sampler", description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long; without it until Ctrl-C, or end of input with --rows")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where the timeline goes; stdout without it")
    parser.add_argument("--url", help="server to look at, http://127.0.0.1:8000: its processes on this machine, and its /metrics")
    parser.add_argument("--gpu", metavar="PCI-ADDRESS", help="card to look at, 0000:01:00.0; else the server's, else all")
    for name in ("--rows", "--zero", "--client", "--bucket"):  # what the smoke benchmark itself gives
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    if options.rows:
        threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    if options.seconds is not None:
        threading.Timer(options.seconds, stop.set).start()
    with Path(options.rows).open("w", encoding="utf-8") if options.rows else io.StringIO() as out:
        sample(
            out,
            stop,
            float(options.zero) if options.zero else time.monotonic(),
            options.url,
            options.gpu,
            int(options.client) if options.client else None,
            int(options.bucket or 1),
        )
        if isinstance(out, io.StringIO):
            _write_timeline(out.getvalue(), options.out)
    return 0


def _stop_at_end_of_input(stop: threading.Event) -> None:
    # not through sys.stdin, whose lock a thread that still reads would hold when the program ends
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _write_timeline(rows: str, file: Path | None) -> None:
    from bringup.smoke.sampler.columns import timeline_of  # pydantic takes a while to import, which rows do without

    timeline = timeline_of(rows.splitlines(), INTERVAL_S)
    text = timeline.model_dump_json()
    if file is None:
        print(text)
        return
    file.write_text(text + "\n", encoding="utf-8")
    cost = "" if timeline.sampler_cpu_percent is None else f", at {timeline.sampler_cpu_percent:.2f} % of one core"
    print(f"{file}: {len(timeline.at_s)} moments of {len(timeline.series)} series{cost}", file=sys.stderr)
    for note in timeline.notes:
        print(f"  {note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
