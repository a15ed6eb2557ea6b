"""A model's folder on the control machine: which files it holds, and their checksums."""

import hashlib
from functools import lru_cache
from pathlib import Path

from bringup.errors import BringupError
from bringup.hardware import Frozen


class FolderManifest(Frozen):
    """Files of a folder with their SHA-256."""

    sha256_of: dict[str, str]
    """Path below the folder to hex digest."""
    size_mib: int

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that name exactly these files."""
        return fingerprint(self.checksums())

    def checksums(self) -> str:
        """Return the list as `sha256sum --check` reads it."""
        return "".join(f"{digest}  {name}\n" for name, digest in sorted(self.sha256_of.items()))


def fingerprint(checksums: str) -> str:
    """Name the files of a checksum list by twelve hex digits."""
    return hashlib.sha256(checksums.encode()).hexdigest()[:12]


def read_folder(path: str) -> FolderManifest:
    """Read a folder that holds a model.

    Raises:
        BringupError: it is not there, or is not a model's folder.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise BringupError(f"{path} on the control machine is no model's folder: it has no config.json")
    # a hub's client leaves time stamps of its downloads in .cache
    files = sorted(
        file
        for file in folder.rglob("*")
        if (file.is_file() or (file.is_symlink() and not file.is_dir())) and not _hidden(file.relative_to(folder))
    )
    if not any(file.suffix == ".safetensors" for file in files):
        raise BringupError(f"{path} on the control machine holds no weights (*.safetensors)")
    try:
        return _manifest(folder, files)
    except OSError as error:
        raise BringupError(f"{path} on the control machine cannot be read: {error}") from error


def _manifest(folder: Path, files: list[Path]) -> FolderManifest:
    stats = {file: file.stat() for file in files}
    return FolderManifest(
        sha256_of={str(file.relative_to(folder)): _sha256(file, stats[file].st_size, stats[file].st_mtime_ns) for file in files},
        size_mib=sum(stat.st_size for stat in stats.values()) // 2**20,
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@lru_cache(maxsize=4096)
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    """Checksum of a file; size and time are there so that a changed file is read again, an equal one once for all hosts."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
