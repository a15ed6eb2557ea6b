"""Small ways with files."""

from pathlib import Path


def read(path: Path) -> str:
    """Text of a file of /proc, its NULs as spaces; empty when the process is gone."""
    try:
        return path.read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def staged(path: Path) -> Path:
    """Where what is to replace a file is written first, so that a full disk shows itself before anything is changed."""
    return path.with_name(f"{path.name}.new")
