"""Shell scripts of more than a line, as one command for a host."""

import shlex
from collections.abc import Mapping


def shell_command(variables: Mapping[str, str], *parts: str) -> str:
    """The command that sets the variables and runs the parts: functions first, their call last."""
    head = (f"{name}={shlex.quote(value)}" for name, value in variables.items())
    return f"sh -c {shlex.quote(chr(10).join((*head, *parts)))}"
