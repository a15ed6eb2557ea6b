"""How much a folder's safetensors files hold, by their headers: no weight is read."""

import json
import struct
from pathlib import Path
from reprlib import repr as short
from typing import Any

from bringup.errors import BringupError

_INDEX = "model.safetensors.index.json"
_MOST_HEADER_BYTES = 100_000_000
"""The format's own limit (safetensors, "Format")."""
_MOST_JSON_BYTES = 64 * 2**20
"""An index of a model with 100,000 tensors has about 10 MB."""


def read_json(file: Path, most_bytes: int = _MOST_JSON_BYTES) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        BringupError: it cannot be read, is larger than `most_bytes`, or holds something else.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(most_bytes + 1)
    except OSError as error:
        raise BringupError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(text) > most_bytes:
        raise BringupError(f"{file} is larger than {most_bytes} bytes: not what its name says")
    return _json_object(text, str(file))


def stored_bytes(folder: Path) -> int | None:
    """Bytes of all tensors that vLLM would load from a folder; None where it holds neither weights nor an index of them.

    With an index, the files that it names count, and no others: some repositories hold the weights a second time. An index
    alone tells the size too.

    Raises:
        BringupError: a file is missing or broken.
    """
    index_file = folder / _INDEX
    if not index_file.is_file():
        single = folder / "model.safetensors"
        files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
        return sum(_tensor_bytes(file) for file in files) if files else None
    index = read_json(index_file)
    names = _file_names(index, index_file)
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return sum(_tensor_bytes(folder / name) for name in names)
    if len(missing) < len(names):
        raise BringupError(
            f"{folder} is incomplete: {len(missing)} of {len(names)} files are missing, {missing[0]} first; get it again"
        )
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    # some tools write it as 16060522496.0
    if isinstance(total, bool) or not isinstance(total, int | float) or not 0 < total < 2**63:
        raise BringupError(f"{index_file}: metadata.total_size is {short(total)}, not a number of bytes")
    return int(total)


def _file_names(index: dict[str, Any], index_file: Path) -> list[str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BringupError(f"{index_file}: weight_map does not name the files of the weights")
    names = {name for name in weight_map.values() if isinstance(name, str)}
    strange = [name for name in weight_map.values() if not isinstance(name, str) or Path(name).name != name or "\0" in name]
    if strange:
        raise BringupError(f"{index_file}: weight_map names {short(strange[0])}, not a file beside it")
    return sorted(names)


def _tensor_bytes(file: Path) -> int:
    """Bytes of the tensors in one safetensors file: 8 bytes that tell the header's length, the header in JSON, the tensors."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length_field = stream.read(8)
            length = struct.unpack("<Q", length_field)[0] if len(length_field) == 8 else _MOST_HEADER_BYTES + 1
            if length > min(size - 8, _MOST_HEADER_BYTES):
                raise BringupError(f"{file} is no safetensors file, or was cut off: its header cannot be read; get it again")
            header = _json_object(stream.read(length), f"the header of {file}")
    except OSError as error:
        raise BringupError(f"{file} cannot be read: {error.strerror or error}") from error
    total = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        match tensor:
            case {"data_offsets": [int(begin), int(end)]} if 0 <= begin <= end:
                total += end - begin
            case _:
                raise BringupError(f"the header of {file}: tensor {short(name)} has no data_offsets")
    if total > size - 8 - length:
        raise BringupError(
            f"{file} was cut off: its header tells of {total} bytes, {max(0, size - 8 - length)} are there; get it again"
        )
    return total


def _json_object(text: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BringupError(f"{where} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BringupError(f"{where} holds no JSON object")
    return content
