"""Running programs: their progress while they run, their last words when they fail."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from bringup.errors import BringupError

SHOWN_LINES = 8  # enough for a Python traceback's end or apt's complaint, and still read at a glance


@contextmanager
def step(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Show that `title` is going on (a spinner on a terminal, else a line) and in the end how long it took.

    The function that it yields shows a detail beside the title, on a terminal only.
    """
    started = time.monotonic()
    if console.is_terminal:
        with console.status(escape(title)) as status:
            yield lambda detail: status.update(f"{escape(title)} [dim]{escape(detail[:60])}[/dim]")
    else:
        console.print(f"{title} ...", markup=False, highlight=False, soft_wrap=True)
        yield lambda detail: None
    console.print(f"{title}: {time.monotonic() - started:.0f} s", markup=False, highlight=False, soft_wrap=True)


def tool_path() -> str:
    """PATH with the folders of administrators' tools, which a root shell may lack (after `su` without `-`)."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def last_lines(text: str) -> str:
    """The end of a program's output, indented for an error message."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "".join(f"\n    {line}" for line in lines[-SHOWN_LINES:])


def run(
    *command: str | os.PathLike[str],
    failure: str,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> str:
    """Run a program to its end and return what it printed on both streams.

    `env` is added to this process's environment. If the program fails or is not there, raises BringupError of
    `failure` and its last lines. If we are interrupted, the program is ended first.
    """
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PATH": tool_path(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BringupError(f"{failure}: {command[0]} could not be started ({error.strerror}).") from error
    with process:
        try:
            for line in process.stdout or ():
                lines.append(line)
                on_line(line.strip())
        except BaseException:
            process.terminate()
            raise
    output = "".join(lines)
    if process.returncode:
        raise BringupError(f"{failure}{last_lines(output)}")
    return output
