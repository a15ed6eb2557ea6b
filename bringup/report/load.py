"""Reads smoke records."""

import json
from pathlib import Path

from pydantic import ValidationError

from bringup.errors import BringupError
from bringup.smoke.model import SCHEMA_VERSION, SmokeReport, validation_sentence


def reports_of(reports_dir: Path, host: str) -> Path:
    """The folder of a host's records on the control machine; hosts have slashes in their names where a connector is named."""
    return reports_dir / host.replace("/", "_")


def records_of(reports_dir: Path, host: str) -> list[Path]:
    """A host's records on the control machine."""
    return list(reports_of(reports_dir, host).glob("*.json"))


def read_record(path: Path) -> SmokeReport:
    """Return the report that the record file holds; BringupError when it is missing, damaged or of another schema."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BringupError(f"Cannot read the smoke record {path}: {error.strerror}.") from None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BringupError(f"The smoke record {path} is not JSON: {error}.") from None
    if not isinstance(document, dict) or "schema_version" not in document:
        raise BringupError(f"{path} is no smoke record: it has no schema_version.")
    if document["schema_version"] == 1:
        raise BringupError(
            f"The smoke record {path} has schema version 1, without bounds, stages and samples, and this bringup shows"
            f" version {SCHEMA_VERSION}: measure again; `python -m bringup.smoke {path} --record-dir DIR` repeats its request."
        )
    if document["schema_version"] != SCHEMA_VERSION:
        raise BringupError(
            f"The smoke record {path} has schema version {document['schema_version']!r}, and this bringup reads version"
            f" {SCHEMA_VERSION}: use the bringup that wrote it."
        )
    try:
        return SmokeReport.model_validate_json(text)
    except ValidationError as error:
        raise BringupError(f"The smoke record {path} is damaged: {validation_sentence(error)}.") from None
