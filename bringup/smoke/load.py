"""Streams chat completions from a server and times what arrives; a failed request is a sample, never an exception."""

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any

import aiohttp
from pydantic import BaseModel, ValidationError

from bringup.errors import BringupError
from bringup.smoke.model import RequestSample, ServerInfo, SmokeRequest

OnSample = Callable[[str, int, RequestSample], None]
"""Called after each request: its phase (`warm-up` or `request`), how many of the phase have ended, the sample."""

_REQUESTS = 29
_INFO_TIMEOUT_S = 10  # for /version and /v1/models, which a healthy server answers at once
_ERROR_BODY_BYTES = 4096  # of an error's body, enough for the sentence that says what went wrong
_ERROR_TEXT_CHARS = 300  # of that sentence, so that ten failures stay readable


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


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    delta: _Delta | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None

    @property
    def has_content(self) -> bool:
        return any(choice.delta and choice.delta.content for choice in self.choices)


class _RequestError(Exception):
    """The server answered, but not with a completion; the text says how."""


@dataclass
class _Answer:
    """One streamed answer while it arrives."""

    content_at: list[float] = field(default_factory=list)
    usage: _Usage = field(default_factory=_Usage)
    done: bool = False

    def take(self, data: str, arrived: float) -> None:
        if data.strip() == "[DONE]":
            self.done = True
            return
        try:
            chunk = _Chunk.model_validate_json(data)
        except ValidationError:
            raise _RequestError(f"the stream held something that is no completion chunk: {data}") from None
        if chunk.error is not None:
            raise _RequestError(f"the server reported an error in the stream: {_error_message(data)}")
        if chunk.has_content:
            self.content_at.append(arrived)
        self.usage = chunk.usage or self.usage

    def sample(self, sent: float, began: float, error: str | None) -> RequestSample:
        at = self.content_at
        tokens = self.usage.completion_tokens
        return RequestSample(
            intended_s=round(sent - began, 6),
            sent_s=round(sent - began, 6),
            ttft_ms=_ms(at[0] - sent) if at else None,
            itl_ms=tuple(_ms(after - before) for before, after in pairwise(at)),
            e2e_ms=_ms(at[-1] - sent) if at and error is None else None,
            tpot_ms=_ms((at[-1] - at[0]) / (tokens - 1)) if at and error is None and tokens and tokens > 1 else None,
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
            error=error,
        )


@dataclass
class _Client:
    """Sends the requests of one smoke run over one session."""

    _session: aiohttp.ClientSession
    _request: SmokeRequest
    _api_key: str | None
    _began: float

    async def send(self) -> RequestSample:
        answer, decoder = _Answer(), SseDecoder()
        body = self._body()
        error = None
        sent = perf_counter()
        try:
            async with self._session.post(f"{self._request.base_url}/v1/chat/completions", data=body) as response:
                if response.status != 200:
                    raise _RequestError(f"HTTP {response.status}: {await _error_body(response)}")
                if response.content_type != "text/event-stream":
                    raise _RequestError(f"{response.content_type} instead of a stream: {await _error_body(response)}")
                async for piece in response.content.iter_any():
                    arrived = perf_counter()
                    for data in decoder.feed(piece):
                        answer.take(data, arrived)
            if not answer.done:
                error = f"the stream ended early, after {len(answer.content_at)} chunks with content"
            elif not answer.content_at:
                error = "the answer held no content"
        except _RequestError as problem:
            error = str(problem)
        except (aiohttp.ClientError, OSError) as problem:
            error = self._transport_error(problem, len(answer.content_at))
        return answer.sample(sent, self._began, self._plain(error) if error else None)

    def _body(self) -> bytes:
        payload = {
            "model": self._request.model,
            "messages": [{"role": "user", "content": self._request.prompt}],
            "max_completion_tokens": self._request.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            # vLLM's own: exactly the asked length, and no prefill spared because the prefix cache holds the same prompt
            "ignore_eos": True,
            "cache_salt": uuid.uuid4().hex,
        }
        return json.dumps(payload).encode()

    def _transport_error(self, problem: Exception, chunks: int) -> str:
        if isinstance(problem, TimeoutError):
            return f"no complete answer within {self._request.timeout_s:g} s ({chunks} chunks with content had come)"
        if isinstance(problem, aiohttp.ClientConnectorError):
            return f"cannot connect to {self._request.base_url}: {problem.os_error.strerror or problem.os_error}"
        if isinstance(problem, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
            return f"the server closed the connection early, after {chunks} chunks with content"
        return f"{type(problem).__name__}: {problem}"

    def _plain(self, text: str) -> str:
        """Make a server's words fit for a record and a terminal: one line, no control characters, no key."""
        if self._api_key:
            text = text.replace(self._api_key, "[API key]")
        text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return text if len(text) <= _ERROR_TEXT_CHARS else text[: _ERROR_TEXT_CHARS - 3] + "..."


async def run_load(request: SmokeRequest, api_key: str | None, on_sample: OnSample) -> tuple[ServerInfo, tuple[RequestSample, ...]]:
    """Ask the server what it is, warm it up and measure it; return the samples in the order in which they ended."""
    began = perf_counter()
    async with _session(api_key, request.timeout_s, request.concurrency) as session:
        server = ServerInfo(
            vllm_version=_text(await _get(session, f"{request.base_url}/version"), "version"),
            max_model_len=next(
                (
                    model["max_model_len"]
                    for model in _models(await _get(session, f"{request.base_url}/v1/models"))
                    if model.get("id") == request.model and isinstance(model.get("max_model_len"), int)
                ),
                None,
            ),
        )
        client = _Client(session, request, api_key, began)
        warm_up = await _send_all(client, "warm-up", request.warmup_requests, request.concurrency, on_sample)
        samples = await _send_all(client, "request", request.requests or _REQUESTS, request.concurrency, on_sample)
        return server, (*(sample.model_copy(update={"warm_up": True}) for sample in warm_up), *samples)


async def first_model(base_url: str, api_key: str | None) -> str:
    """Return the name of the first model that the server lists; BringupError when it lists none."""
    async with _session(api_key, _INFO_TIMEOUT_S, 1) as session:
        for model in _models(await _get(session, f"{base_url}/v1/models")):
            if isinstance(model.get("id"), str):
                return str(model["id"])
    raise BringupError(f"{base_url}/v1/models names no model: check the address and the API key, or name the model.")


async def _send_all(client: _Client, phase: str, count: int, concurrency: int, on_sample: OnSample) -> tuple[RequestSample, ...]:
    samples: list[RequestSample] = []
    tickets = iter(range(count))

    async def send_in_turn() -> None:
        for _ in tickets:
            samples.append(await client.send())
            on_sample(phase, len(samples), samples[-1])

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(send_in_turn())
    return tuple(samples)


def _session(api_key: str | None, timeout_s: float, connections: int) -> aiohttp.ClientSession:
    # identity: a compressed stream would be held back until a block is full
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        connector=aiohttp.TCPConnector(limit=connections),
    )


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    """Return the JSON at `url`, or None: these pages tell more about the server, but a run does not hang on them."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=_INFO_TIMEOUT_S)) as response:
            return await response.json() if response.status == 200 else None
    except (aiohttp.ClientError, OSError, ValueError):
        return None


def _models(page: Any) -> list[dict[str, Any]]:
    models = page.get("data") if isinstance(page, dict) else None
    return [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []


def _text(page: Any, key: str) -> str | None:
    value = page.get(key) if isinstance(page, dict) else None
    return value if isinstance(value, str) else None


async def _error_body(response: aiohttp.ClientResponse) -> str:
    return _error_message((await response.content.read(_ERROR_BODY_BYTES)).decode(errors="replace")) or "no text"


def _error_message(text: str) -> str:
    """Return the message of an error in one of the shapes that such servers use, or the text as it came."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    for key in ("error", "message"):
        found = found.get(key, found) if isinstance(found, dict) else found
    return found if isinstance(found, str) else text


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
