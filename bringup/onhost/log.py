"""What people need of a log."""

import re


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
