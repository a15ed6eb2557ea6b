"""Recorded hosts: what the probe printed on a machine, kept as a folder, so that a plan can be made without the machine.

A recording is a folder of `recording.yaml`, which says where it comes from, and one `<section>.txt` for each section of the probe,
empty where the section is: one that is not there was not asked for.
"""

import datetime
import re
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from bringup.catalog.loader import nearest
from bringup.errors import BringupError
from bringup.hardware import Frozen
from bringup.probe.sections import MARK, split_sections
from bringup.scrub import scrub

_INFO = "recording.yaml"
_SECTION_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class RecordingInfo(Frozen):
    """Where a recording comes from; the content of recording.yaml."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = Field(min_length=1)
    """One line for people."""
    kind: Literal["composed", "recorded"]
    """``recorded`` on a machine, or ``composed`` from what is publicly known of such machines."""
    date: datetime.date
    """When it was recorded or composed."""
    made_from: str = Field(min_length=1)
    """On what it was recorded and how, or the public sources that it was composed from."""


class Recording(Frozen):
    """What the probe printed on one host."""

    info: RecordingInfo
    sections: dict[str, str]
    """Section to its lines."""

    def probe_text(self, now_unix_s: int) -> str:
        """Return what the probe would print if it ran now, so that the host's clock does not look wrong.

        Args:
            now_unix_s: the time that the section ``clock`` tells, in seconds since 1970.
        """
        _, *more = self.sections.get("clock", "").split("\n")
        sections = {**self.sections, "clock": "\n".join([str(now_unix_s), *more]), "end": ""}
        return "".join(f"{MARK}{name}\n" + (f"{body}\n" if body else "") for name, body in sections.items())


def load_recording(folder: Path | Traversable) -> Recording:
    """Read a recording's folder.

    Raises:
        BringupError: it is no recording; the message says what is missing or wrong in which file.
    """
    try:
        raw = yaml.safe_load(folder.joinpath(_INFO).read_text(encoding="utf-8"))
        info = RecordingInfo.model_validate(raw)
        sections = {
            file.name.removesuffix(".txt"): file.read_text(encoding="utf-8").strip("\n")
            for file in sorted(folder.iterdir(), key=lambda entry: entry.name)
            if file.name.endswith(".txt")
        }
    except (OSError, UnicodeDecodeError) as error:
        raise BringupError(f"{folder} is no recording of a host: {error}") from error
    except yaml.YAMLError as error:
        raise BringupError(f"{folder}/{_INFO} is not YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in error.errors())
        raise BringupError(f"{folder}/{_INFO} is wrong: {wrong}") from error
    _check_sections(sections, str(folder))
    return Recording(info=info, sections=sections)


def _check_sections(sections: Mapping[str, str], where: str) -> None:
    """A section's name becomes a file's name, and a mark within a section would start another one."""
    if not sections:
        raise BringupError(f"{where} holds no section of the probe's output")
    for name, body in sections.items():
        if not _SECTION_NAME.fullmatch(name) or name == "end":
            raise BringupError(f"{where}: {name!r} is no section's name; sections have small letters, digits and dashes")
        if re.search(rf"^{MARK}", body, re.M):
            raise BringupError(
                f"{where}: section {name} holds a line that begins with {MARK.strip()!r}, which starts another section"
            )


_OF_THE_MOMENT = ("clock", "run-lock", "end")


def save_recording(text: str, directory: Path, info: RecordingInfo) -> Recording:
    """Scrub the probe's output and write it to a new folder; what is scrubbed never reaches the disk.

    Raises:
        BringupError: the text is not the probe's, the folder exists, or it cannot be written.
    """
    try:
        sections = scrub(split_sections(text))
    except ValueError as error:
        raise BringupError(f"nothing was recorded: {error}") from error
    recording = Recording(info=info, sections={name: body for name, body in sections.items() if name not in _OF_THE_MOMENT})
    _check_sections(recording.sections, "the probe's output")
    if directory.exists():
        raise BringupError(f"{directory} exists: name a folder that does not, or remove it")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as made:
            content = Path(made, "recording")
            content.mkdir()
            _write(recording, content)
            content.rename(directory)
    except OSError as error:
        raise BringupError(f"the recording cannot be written to {directory}: {error}") from error
    return recording


def _write(recording: Recording, folder: Path) -> None:
    info = yaml.safe_dump(recording.info.model_dump(), sort_keys=False, allow_unicode=True, width=120)
    folder.joinpath(_INFO).write_text(info, encoding="utf-8")
    for name, body in recording.sections.items():
        folder.joinpath(f"{name}.txt").write_text(f"{body}\n" if body else "", encoding="utf-8")


def _shipped() -> Traversable:
    return files("bringup").joinpath("recordings")


def shipped_recordings() -> tuple[str, ...]:
    """Return the names of the recordings that come with bringup."""
    return tuple(sorted(entry.name for entry in _shipped().iterdir() if entry.joinpath(_INFO).is_file()))


def recording_named(name_or_path: str) -> Recording:
    """Find a recording: a folder on this machine, or else one that comes with bringup.

    Raises:
        BringupError: there is none; the message names the nearest. Or it is damaged.
    """
    if Path(name_or_path, _INFO).is_file():
        return load_recording(Path(name_or_path))
    if name_or_path in shipped_recordings():
        return load_recording(_shipped().joinpath(name_or_path))
    if Path(name_or_path).is_dir():
        raise BringupError(f"the folder {name_or_path} is no recording of a host: it has no {_INFO}")
    raise BringupError(f"unknown recording '{name_or_path}': {nearest(name_or_path, shipped_recordings())}")
