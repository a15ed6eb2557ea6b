"""Server-sent events: from the bytes of a stream to what a completion server says in them."""

import json
from dataclasses import dataclass, field
from typing import Any

from bringup.errors import BringupError


@dataclass
class SseDecoder:
    """Takes an event stream in pieces, split anywhere, and gives back the data of each complete event.

    Comments (keep-alives) and other fields are dropped, as is an event that is cut short. Lines end in LF or CRLF.
    """

    _rest: bytes = b""
    _data: list[bytes] = field(default_factory=list)

    def feed(self, piece: bytes) -> list[str]:
        """Return the data of the events that `piece` completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line.removeprefix(b"data:").removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data).decode(errors="replace"))
                self._data = []
        return events


class StreamError(BringupError):
    """The server answered, but not with a completion; the message says how."""


@dataclass(frozen=True)
class Chunk:
    """What one event of a completion stream says."""

    text: str = ""
    """Content, or the words of a model that reasons aloud; empty in events that hold only a role, usage or the end."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    done: bool = False


def parse_chunk(data: str) -> Chunk:
    """Read one event of `/v1/chat/completions` or `/v1/completions`.

    Raises:
        StreamError: it is no completion chunk, or reports an error.
    """
    if data.strip() == "[DONE]":
        return Chunk(done=True)
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise StreamError(f"the stream held something that is no completion chunk: {data}")
    if event.get("error") is not None:
        raise StreamError(f"the server reported an error in the stream: {error_message(data)}")
    usage = _dict(event.get("usage"))
    choices = event.get("choices")
    return Chunk(
        text="".join(_text(choice) for choice in choices if isinstance(choice, dict)) if isinstance(choices, list) else "",
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def error_message(text: str) -> str:
    """Return the message of an error in one of the shapes that such servers use, or the text as it came."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    for key in ("error", "message"):
        found = found.get(key, found) if isinstance(found, dict) else found
    return found if isinstance(found, str) else text


def _text(choice: dict[str, Any]) -> str:
    delta = _dict(choice.get("delta"))
    parts = (delta.get("content"), delta.get("reasoning_content"), delta.get("reasoning"), choice.get("text"))
    return "".join(part for part in parts if isinstance(part, str))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
