"""The labelled sections that probe.sh prints."""

import shlex
from importlib.resources import files

MARK = "@@bringup "
"""What a line begins with that starts a section; the section's name follows."""


def probe_script(model_folder: str | None = None) -> str:
    """Return the POSIX shell script that prints the sections.

    Args:
        model_folder: a folder on the host that should hold a model; whether it does is a section of its own.
    """
    script = f"{bounded_function()}{_script('probe.sh')}"
    return f"model_folder={shlex.quote(model_folder)}\n{script}" if model_folder else script


def bounded_function() -> str:
    """Return the shell function that gives a program a limit of time, whatever it hangs in."""
    return _script("bounded.sh")


def _script(name: str) -> str:
    return files("bringup.probe").joinpath(name).read_text(encoding="utf-8")


def split_sections(text: str) -> dict[str, str]:
    """Split the probe's output into section name → body.

    Raises:
        ValueError: the output is not the probe's, or it was cut off before its end.
    """
    sections: dict[str, str] = {}
    name = None
    body: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith(MARK):
            if name is not None:
                sections[name] = "\n".join(body).strip("\n")
            name, body = line.removeprefix(MARK).strip(), []
        else:
            body.append(line)
    if name is None:
        raise ValueError("the host printed nothing that the probe script prints; is its login shell a POSIX shell?")
    if name != "end":
        raise ValueError(f"the probe's output ends in section '{name}'; the connection or the script was cut off")
    return sections


def key_values(text: str) -> dict[str, str]:
    """Parse ``KEY=value`` lines as in /etc/os-release, quotes removed; other lines are ignored."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def fields(line: str) -> dict[str, str]:
    """Parse one line of ``name=value`` words; words of another form are ignored."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
