"""Packs the part of `bringup` that runs on hosts into one file."""

import io
import zipfile
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_ON_HOST = (
    "__init__.py",
    "address.py",
    "best_seen.py",
    "cpu_list.py",
    "errors.py",
    "hardware",
    "pip_settings.py",
    "onhost",
    "smoke",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


@lru_cache(maxsize=1)
def host_bundle() -> bytes:
    """Return a zip of the package's files that hosts need; equal sources give equal bytes, so that a second run changes nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _ON_HOST:
            _add(archive, files("bringup").joinpath(name), f"bringup/{name}")
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, source: Traversable, name: str) -> None:
    if source.is_dir():
        for child in sorted(source.iterdir(), key=lambda entry: entry.name):
            _add(archive, child, f"{name}/{child.name}")
    elif name.endswith((".py", ".txt")):
        archive.writestr(zipfile.ZipInfo(name, _EPOCH), source.read_bytes())
