"""The caller's side of sampling: starts the process, stops it, and reads what it left."""

import asyncio
import math
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from bringup.smoke.sampler.columns import timeline_of
from bringup.smoke.sampler.loop import INTERVAL_S
from bringup.smoke.timeline import Timeline

_STOP_LIMIT_S = 5.0
"""For the process to end after it was told to; the threads that it waits for have a second each."""
_MOST_ROWS = 3000
"""In a record: ten minutes at 5 Hz; longer runs put several moments into one."""
_ERROR_CHARS = 300


class Sampler:
    """Samples beside a load: `async with Sampler(url, zero) as sampler: …`, then `sampler.timeline`.

    It never raises: what could not be sampled is a note in the timeline.
    """

    def __init__(self, base_url: str, zero: float, pci_address: str | None = None, expected_s: float = 0.0) -> None:
        """Prepare; nothing is started yet.

        Args:
            base_url: the server that is under load.
            zero: time.monotonic() (or perf_counter(), the same clock on Linux) at the run's start.
            pci_address: the card that serves, as the plan names it; None finds it.
            expected_s: how long the run may take; beyond ten minutes several moments are put into one.
        """
        self._bucket = max(1, math.ceil(expected_s / INTERVAL_S / _MOST_ROWS))
        self._arguments = ["--url", base_url, "--zero", repr(zero), "--client", str(os.getpid()), "--bucket", str(self._bucket)]
        if pci_address:
            self._arguments += ["--gpu", pci_address]
        self._process: asyncio.subprocess.Process | None = None
        self.timeline = Timeline(interval_s=INTERVAL_S, at_s=(), series=())
        """What was sampled; complete once the block has ended."""

    async def __aenter__(self) -> Self:
        """Start the process and return at once; its first samples come within a second."""
        self._folder = tempfile.TemporaryDirectory(prefix="bringup-sampler-")
        self._rows, self._errors = Path(self._folder.name, "rows"), Path(self._folder.name, "errors")
        # the caller may have been started from a zip, or with a path of its own
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            with self._errors.open("wb") as errors:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "bringup.smoke.sampler",
                    *self._arguments,
                    "--rows",
                    str(self._rows),
                    stdin=asyncio.subprocess.PIPE,  # it ends when this closes, also when this program is killed
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=errors,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the caller, which then stops it in order
                )
        except OSError as error:
            self.timeline = self._empty(f"the sampler could not be started: {error}")
        return self

    def so_far(self) -> Timeline:
        """What has been sampled up to now, while it goes on."""
        return self._read("")

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the process and read what it left."""
        process = self._process
        if process is not None:
            note = await self._end(process)
            self.timeline = self._read(note)
        self._folder.cleanup()

    async def _end(self, process: asyncio.subprocess.Process) -> str:
        if process.stdin is not None:
            process.stdin.close()
        try:
            code = await asyncio.wait_for(process.wait(), _STOP_LIMIT_S)
        except TimeoutError:
            process.kill()
            return "the sampler did not end when it was told to, and was killed"
        if code == 0:
            return ""
        said = self._errors.read_text(errors="replace").strip().splitlines()
        return f"the sampler ended early: {said[-1][:_ERROR_CHARS] if said else f'exit code {code}'}"

    def _read(self, note: str) -> Timeline:
        try:
            with self._rows.open(encoding="utf-8", errors="replace") as rows:
                timeline = timeline_of(rows, round(INTERVAL_S * self._bucket, 3))
        except OSError:
            return self._empty(note or "the sampler left nothing")
        return timeline.model_copy(update={"notes": (*timeline.notes, note)}) if note else timeline

    def _empty(self, note: str) -> Timeline:
        return Timeline(interval_s=INTERVAL_S, at_s=(), series=(), notes=(note,))
