"""What it is worth that a host's facts are one SSH command: counts commands, and times them over a link with delay.

Run it with `make bench`, as root. It boots a throw-away host behind a link whose delay it sets, and takes about five minutes.
"""

import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.delayed_link import FAR_ADDRESS, DelayedLink, delayed_link
from benchmarks.distant_host import DistantHost, distant_host
from benchmarks.sections import section_scripts
from bringup.errors import BringupError
from bringup.probe.host import parse_host

ROOT = Path(__file__).parents[1]
ROUND_TRIP_MS = 50
LIMIT_S = 300
# the relay waits in whole milliseconds, each way, and this machine may have other work
TOLERANCE_MS = 5
CONNECTS = 11
ATTEMPTS = 5
# facts that are others a second later: the clock, and free memory and disk space
CHANGING = {"clock_unix_s", "memory", "disks"}


@dataclass(frozen=True)
class Way:
    """One way to ask, as the words after `pyinfra INVENTORY`."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One run of pyinfra, from start to exit, and the SSH commands that it sent."""

    wall_s: float
    commands: tuple[str, ...]
    stdout: str

    @property
    def probes(self) -> int:
        """How many of its commands are the probe or a part of it."""
        return sum("@@bringup" in command for command in self.commands)


@dataclass(frozen=True)
class Measured:
    """All runs, and what a round trip took on the link when it had delay."""

    runs: Mapping[tuple[Way, int], Sequence[Run]]
    round_trip_ms: float

    def median_s(self, way: Way, round_trip_ms: int) -> float:
        """The median wall time of one way to ask."""
        return statistics.median(run.wall_s for run in self.runs[way, round_trip_ms])

    def added_s(self, way: Way) -> float:
        """What the delay added to it."""
        return self.median_s(way, ROUND_TRIP_MS) - self.median_s(way, 0)


HOSTNAME = Way("server.Hostname", ("fact", "server.Hostname"))
# HostProbe sends the same and parses it, but pyinfra's command line cannot print what comes of that
PROBE = Way("the probe", ("fact", "facts.host.HostProbeText"))
SECTIONS = Way(
    "the probe by sections",
    ("fact", *(word for name in section_scripts() for word in ("benchmarks.sections.ProbeSection", f"section={name}"))),
)
DRY_RUN = Way("dry run of qwen.py", ("deploys/qwen.py", "--dry"))
WAYS = (HOSTNAME, PROBE, SECTIONS, DRY_RUN)


def ask(host: DistantHost, way: Way, *options: str) -> Run:
    """Run pyinfra once.

    Raises:
        BringupError: pyinfra failed.
    """
    # a dry run downloads nothing, so the model may as well lie on a hub
    data = host.data | {"model_source": json.dumps({"kind": "hub", "revision": "main"})}
    command = [str(Path(sys.executable).parent / "pyinfra"), *options, "inventories/lab.py", *way.words]
    command += [word for name, value in data.items() for word in ("--data", f"{name}={value}")]
    host.forget_commands()
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | host.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise BringupError(f"pyinfra failed at {way.name}:\n{done.stderr}")
    return Run(wall_s, tuple(host.take_commands()), done.stdout)


def set_round_trip(link: DelayedLink, host: DistantHost, round_trip_ms: float) -> float:
    """Set the link's delay and return what a round trip now takes, in ms: the median time until a TCP connection stands.

    Raises:
        BringupError: it takes less, or much more, so that what is measured over the link would mean nothing.
    """
    link.one_way_ms = round_trip_ms / 2
    for _ in range(ATTEMPTS):
        measured_ms = statistics.median(_connect_ms(host) for _ in range(CONNECTS))
        if round_trip_ms <= measured_ms <= round_trip_ms + TOLERANCE_MS:
            return measured_ms
    raise BringupError(
        f"A TCP connection over the link takes {measured_ms:.1f} ms instead of {round_trip_ms:.0f} ms: "
        "try again when this machine has less to do."
    )


def _connect_ms(host: DistantHost) -> float:
    started = time.perf_counter()
    with socket.create_connection((FAR_ADDRESS, host.ssh_port), timeout=10):
        return (time.perf_counter() - started) * 1000


def check_same_knowledge(host: DistantHost) -> None:
    """See that the sections asked one by one say what the one probe says.

    Raises:
        BringupError: they do not, for example because one section uses another's variables.
    """
    (probed,) = _answers(ask(host, PROBE, "--json"))
    asked = "\n".join([*_answers(ask(host, SECTIONS, "--json")), "@@bringup end"])
    try:
        one, other = (parse_host(text).model_dump() for text in (probed, asked))
    except ValueError as error:
        raise BringupError(f"The sections asked one by one are not the probe: {error}") from error
    if differing := {name for name in one if one[name] != other[name]} - CHANGING:
        raise BringupError(f"The sections asked one by one differ from the probe in {', '.join(sorted(differing))}.")


def _answers(run: Run) -> list[str]:
    """What the one host answered to each fact."""
    return [answer for by_host in json.loads(run.stdout).values() for answer in by_host.values()]


def measure(link: DelayedLink, host: DistantHost, repeats: int, console: Console) -> Measured:
    """Ask in every way over a link without and with delay, in turns, so that a change of the machine's load meets all alike."""
    check_same_knowledge(host)
    runs: dict[tuple[Way, int], list[Run]] = defaultdict(list)
    round_trips_ms = []
    for repeat in range(repeats):
        for round_trip_ms in (0, ROUND_TRIP_MS):
            measured_ms = set_round_trip(link, host, round_trip_ms)
            console.print(f"repeat {repeat + 1} of {repeats}: TCP connects in {measured_ms:.2f} ms", highlight=False)
            if round_trip_ms:
                round_trips_ms.append(measured_ms)
            for way in WAYS:
                runs[way, round_trip_ms].append(ask(host, way))
    return Measured(runs, statistics.median(round_trips_ms))


def table(measured: Measured) -> Table:
    """One row a way: commands that are the probe's and others; medians and ranges of the wall times, from pyinfra's start to its
    exit; what the delay added to the median, also as a number of round trips."""
    view = Table(title="What one run of pyinfra costs: SSH commands, and wall time in seconds", box=SIMPLE)
    view.add_column("asked")
    for heading in ("probe", "other", "at 0 ms", f"at {ROUND_TRIP_MS} ms", "added", "round\ntrips"):
        view.add_column(heading, justify="right", no_wrap=True)
    for way in WAYS:
        runs = [*measured.runs[way, 0], *measured.runs[way, ROUND_TRIP_MS]]
        view.add_row(
            way.name,
            _range(run.probes for run in runs),
            _range(len(run.commands) - run.probes for run in runs),
            *(
                f"{measured.median_s(way, trip_ms):.2f}\n{_range((run.wall_s for run in measured.runs[way, trip_ms]), digits=2)}"
                for trip_ms in (0, ROUND_TRIP_MS)
            ),
            f"{measured.added_s(way):.2f}",
            f"{measured.added_s(way) * 1000 / measured.round_trip_ms:.0f}",
        )
    return view


def _range(values: Iterable[float], digits: int = 0) -> str:
    """The least and the greatest, or the one value where all are equal."""
    found = sorted(values)
    ends = dict.fromkeys(f"{value:.{digits}f}" for value in (found[0], found[-1]))
    return "-".join(ends)


def ratios(measured: Measured) -> str:
    """How much more it costs to ask section by section."""
    sections, probe = (len(measured.runs[way, 0][0].commands) for way in (SECTIONS, PROBE))
    near, far = (measured.median_s(SECTIONS, trip_ms) / measured.median_s(PROBE, trip_ms) for trip_ms in (0, ROUND_TRIP_MS))
    a_command = (measured.added_s(SECTIONS) - measured.added_s(PROBE)) * 1000 / measured.round_trip_ms / (sections - probe)
    return (
        f"Section by section against the one probe: {sections} commands instead of {probe}, {far:.1f} times the wall time at "
        f"{ROUND_TRIP_MS} ms, {near:.1f} times at 0 ms. Each further command waits for {a_command:.1f} round trips."
    )


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, too, end the block as an exception, so that everything is cleaned up."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command()
@click.option("--repeats", type=click.IntRange(1, 100), default=7, show_default=True, help="How often each way is timed.")
def main(repeats: int) -> None:
    """Count the SSH commands that a host's facts cost, and time them over a link with delay."""
    console = Console()
    try:
        with (
            _terminated_like_interrupted(),
            tempfile.TemporaryDirectory(prefix="bringup-bench-") as folder,
            delayed_link() as link,
            distant_host(link, Path(folder), console) as host,
        ):
            measured = measure(link, host, repeats, console)
    except BringupError as error:
        raise click.ClickException(error.message) from error
    console.print(table(measured))
    console.print(ratios(measured), highlight=False)
    console.print(
        f"{repeats} repeats; a round trip took {measured.round_trip_ms:.1f} ms; "
        f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
