"""What the service logged, and what people need of it."""

import re
import subprocess

from bringup.onhost.systemd import SERVICE


def service_log(since_unix_s: float, lines: int = 25) -> str:
    """Return the last lines that the service logged since a time (seconds since 1970)."""
    # not with --lines: together with --since it counts from the oldest line (systemd 252)
    command = ["journalctl", "-u", SERVICE, "--since", f"@{int(since_unix_s)}", "--no-pager", "-o", "cat"]
    log = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    return "\n".join(log.strip().splitlines()[-lines:])


def first_error(log: str) -> str:
    """Find the exception that came first in a log; empty when there is none.

    vLLM's other processes follow with exceptions that only point to it ("See root cause above").
    """
    found = re.findall(r"(?:^|[\])]\s+)((?:\w+\.)*\w*(?:Error|Exception): .+)$", log, re.MULTILINE)
    return next((text.strip() for text in found if not re.search("root cause|stack trace", text)), "")


def without_tracebacks(log: str) -> str:
    """Leave out the indented lines of tracebacks, which tell people nothing."""
    return "\n".join(line for line in log.splitlines() if line.strip() and not re.search(r"^\s|\]\s{2,}", line))


def last_words(text: str, lines: int = 3) -> str:
    """Reduce a program's error output to its last lines that are not blank."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
