"""Programs with a time limit that holds even where the kernel does not let go of them."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_AFTER_KILL_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    code: int | None
    """Exit status; None where it did not end in time, or could not be started."""
    text: str
    """What it wrote until then, standard output first."""
    timed_out: bool = False
    missing: bool = False
    """There is no such program."""

    @property
    def ok(self) -> bool:
        """It ended in time and without an error."""
        return self.code == 0


def run_bounded(command: Sequence[str], limit_s: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a program for `limit_s` seconds at most.

    A program that waits inside a broken driver cannot be killed: it is left to the kernel, and nobody waits for it. For that its
    output goes to files and not through pipes, which it would keep open.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=None if environment is None else dict(environment),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(code=None, text=str(error), missing=isinstance(error, FileNotFoundError))
        code: int | None = None
        timed_out = False
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            if process.returncode is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_AFTER_KILL_S)
        parts = []
        for file in (output, errors):
            file.seek(0)
            parts.append(file.read().decode(errors="replace"))
        return Outcome(code=code, text="\n".join(part.rstrip("\n") for part in parts if part.strip()), timed_out=timed_out)
