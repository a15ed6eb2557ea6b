"""What a host's files say, beside what they should."""

from pyinfra import host
from pyinfra.facts.files import FileContents


def read_text(path: str) -> str:
    """The file's text on the host, without the line break at its end; empty where there is none."""
    return "\n".join(host.get_fact(FileContents, path=path) or [])


def differs(path: str, content: str) -> bool:
    """Whether the file on the host says something else than `content`."""
    return read_text(path) != content.rstrip("\n")
