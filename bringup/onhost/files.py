"""Small ways with files."""

from pathlib import Path


def read(path: Path) -> str:
    """Text of a file, its NULs (between words in /proc) as spaces; empty when there is none, or the process is gone."""
    try:
        return path.read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def stat_fields(process: Path) -> list[str]:
    """Fields of /proc/PID/stat from the third on: state, parent, group, session… (proc(5)); empty once the process is gone."""
    return read(process / "stat").rpartition(")")[2].split()


def staged(path: Path) -> Path:
    """Where what is to replace a file is written first, so that a full disk shows itself before anything is changed."""
    return path.with_name(f"{path.name}.new")
