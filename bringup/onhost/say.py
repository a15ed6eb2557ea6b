"""Progress for people, a line at a time."""

import contextlib


def say(text: str) -> None:
    """Print a line at once; a reader that went away (a cut SSH connection) does not stop the work half-way."""
    with contextlib.suppress(OSError):
        print(text, flush=True)
