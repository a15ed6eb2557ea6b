"""Sends one streamed request and times what arrives; a failed request is a sample, never an exception.

While an answer streams, pieces are only stamped and kept; they are decoded when it has ended, so that one stream's decoding does
not delay the stamps of the others.
"""

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any

import aiohttp

from bringup.errors import BringupError
from bringup.smoke.model import RequestSample, ServerInfo, SmokeRequest
from bringup.smoke.sampler.metrics import kv_cache_tokens
from bringup.smoke.sse import Chunk, SseDecoder, StreamError, error_message, parse_chunk

_INFO_TIMEOUT_S = 10  # for /version and /v1/models, which a healthy server answers at once
_ERROR_BODY_BYTES = 4096  # of an error's body, enough for the sentence that says what went wrong
_ERROR_TEXT_CHARS = 300  # of that sentence, so that ten failures stay readable


@dataclass(frozen=True)
class Ask:
    """One request to send."""

    prompt: str
    output_tokens: int
    prompt_index: int = 0
    model: str | None = None
    """None: the run's."""
    exact: bool = True
    """Exactly `output_tokens`, where the server can be told so; else at most."""
    temperature: float | None = None
    """None: the server's own."""


@dataclass
class Answer:
    """One streamed answer."""

    intended: float
    """perf_counter() when it was to be sent."""
    sent: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    text: str = ""
    content_at: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    done: bool = False

    def decode(self) -> None:
        """Find the chunks with content among the pieces; StreamError when the stream is not one of a completion."""
        decoder, texts = SseDecoder(), []
        for arrived, piece in self.pieces:
            for data in decoder.feed(piece):
                chunk: Chunk = parse_chunk(data)
                if chunk.text:
                    texts.append(chunk.text)
                    self.content_at.append(arrived)
                self.prompt_tokens = chunk.prompt_tokens if chunk.prompt_tokens is not None else self.prompt_tokens
                self.completion_tokens = chunk.completion_tokens if chunk.completion_tokens is not None else self.completion_tokens
                self.done = self.done or chunk.done
        self.text = "".join(texts)
        self.pieces.clear()

    def sample(self, ask: Ask, zero: float, error: str | None, warm_up: bool) -> RequestSample:
        """Return it as it stands in the record; `zero` is perf_counter() at the run's start."""
        at, tokens = self.content_at, self.completion_tokens
        complete = bool(at) and error is None
        return RequestSample(
            intended_s=round(self.intended - zero, 6),
            sent_s=round(self.sent - zero, 6),
            ttft_ms=_ms(at[0] - self.intended) if at else None,
            itl_ms=tuple(_ms(after - before) for before, after in pairwise(at)),
            e2e_ms=_ms(at[-1] - self.intended) if complete else None,
            tpot_ms=_ms((at[-1] - at[0]) / (tokens - 1)) if complete and tokens and tokens > 1 else None,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=tokens,
            error=error,
            warm_up=warm_up,
            prompt_index=ask.prompt_index,
            model=ask.model,
        )


class Client:
    """Sends the requests of one smoke run over one session."""

    def __init__(self, session: aiohttp.ClientSession, request: SmokeRequest, api_key: str | None, zero: float) -> None:
        """Take what is the same for every request; `zero` is perf_counter() at the run's start."""
        self._session, self._request, self._api_key, self.zero = session, request, api_key, zero
        self._is_vllm = False
        self._counts = True
        """Whether /tokenize has not failed yet."""

    async def look_at_server(self) -> ServerInfo:
        """Ask the server what it is; what it does not say is None."""
        url = self._request.base_url
        version = _text(await _get(self._session, f"{url}/version"), "version")
        self._is_vllm = version is not None
        models = _models(await _get(self._session, f"{url}/v1/models"))
        own = next((model for model in models if model.get("id") == self._request.model), {})
        length = own.get("max_model_len")
        return ServerInfo(
            vllm_version=version,
            max_model_len=length if isinstance(length, int) else None,
            served_models=tuple(str(model["id"]) for model in models if isinstance(model.get("id"), str)),
            kv_cache_tokens=kv_cache_tokens(await _get_bytes(self._session, f"{url}/metrics")) if self._is_vllm else None,
        )

    async def send(self, ask: Ask, *, intended: float | None = None, warm_up: bool = False) -> RequestSample:
        """Send one request now and wait for its end.

        Args:
            ask: what to send.
            intended: perf_counter() when it should have been sent; None: now.
            warm_up: it does not count. A cancellation of the task then ends the request, and is used up by that.
        """
        return (await self.send_for_text(ask, intended=intended, warm_up=warm_up, stoppable=warm_up))[0]

    async def send_for_text(
        self, ask: Ask, *, intended: float | None = None, warm_up: bool = False, stoppable: bool = False
    ) -> tuple[RequestSample, str]:
        """Send one request, and return what was answered as well; one that is `stoppable` takes a cancellation as its end."""
        body = self._body(ask)
        path = "/v1/chat/completions" if self._request.api == "chat" else "/v1/completions"
        sent = perf_counter()
        answer = Answer(intended=sent if intended is None else intended, sent=sent)
        problem: Exception | None = None
        try:
            async with self._session.post(f"{self._request.base_url}{path}", data=body) as response:
                if response.status != 200:
                    raise StreamError(f"HTTP {response.status}: {await _error_body(response)}")
                if response.content_type != "text/event-stream":
                    raise StreamError(f"{response.content_type} instead of a stream: {await _error_body(response)}")
                keep = answer.pieces.append
                async for piece in response.content.iter_any():
                    keep((perf_counter(), piece))
        except (StreamError, aiohttp.ClientError, OSError) as found:
            problem = found
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not stoppable or task is None:
                raise
            task.uncancel()  # it only kept the load up, and what came of it counts for the throughput
            problem = StreamError("stopped by the tool: the measured requests had ended")
        error = self._error(answer, problem)
        return answer.sample(ask, self.zero, self._plain(error) if error else None, warm_up), answer.text

    async def count_tokens(self, prompt: str) -> int | None:
        """Return how many tokens the server makes of a prompt, with its chat template; None where it does not tell."""
        content: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        payload = {"model": self._request.model, **(content if self._request.api == "chat" else {"prompt": prompt})}
        if self._counts:
            page = await _post(self._session, f"{self._request.base_url}/tokenize", payload)
            count = page.get("count") if isinstance(page, dict) else None
            if isinstance(count, int):
                return count
            self._counts = False
        return (await self.send(Ask(prompt=prompt, output_tokens=1))).prompt_tokens

    def _body(self, ask: Ask) -> bytes:
        chat = self._request.api == "chat"
        payload: dict[str, Any] = {
            "model": ask.model or self._request.model,
            **({"messages": [{"role": "user", "content": ask.prompt}]} if chat else {"prompt": ask.prompt}),
            "max_completion_tokens" if chat and self._is_vllm else "max_tokens": ask.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.temperature is not None:
            payload["temperature"] = ask.temperature
        if self._is_vllm:
            # exactly the asked length, and no prefill spared because the prefix cache holds the same prompt
            payload |= {"ignore_eos": ask.exact, "cache_salt": uuid.uuid4().hex}
        return json.dumps(payload).encode()

    def _error(self, answer: Answer, problem: Exception | None) -> str | None:
        """Decode what came and say in words why the request failed; None when it did not."""
        try:
            answer.decode()
        except StreamError as found:
            problem = found  # what the server said before it closed the connection tells more than that it closed it
        chunks = len(answer.content_at)
        match problem:
            case None if not answer.done:
                return f"the stream ended early, after {chunks} chunks with content"
            case None:
                return None if chunks else "the answer held no content"
            case StreamError():
                return problem.message
            case TimeoutError():
                return f"no complete answer within {self._request.timeout_s:g} s ({chunks} chunks with content had come)"
            case aiohttp.ClientConnectorError():
                return f"cannot connect to {self._request.base_url}: {problem.os_error.strerror or problem.os_error}"
            case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return f"the server closed the connection early, after {chunks} chunks with content"
            case _:
                return f"{type(problem).__name__}: {problem}"

    def _plain(self, text: str) -> str:
        """Make a server's words fit for a record and a terminal: one line, no control characters, no key."""
        if self._api_key:
            text = text.replace(self._api_key, "[API key]")
        text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return text if len(text) <= _ERROR_TEXT_CHARS else text[: _ERROR_TEXT_CHARS - 3] + "..."


def session(api_key: str | None, timeout_s: float, tls_sha256: str | None = None) -> aiohttp.ClientSession:
    """Open a session without a limit on connections: it is the load that decides how many requests are in flight."""
    # identity: a compressed stream would be held back until a block is full
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return aiohttp.ClientSession(
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        connector=aiohttp.TCPConnector(limit=0, ssl=aiohttp.Fingerprint(bytes.fromhex(tls_sha256)) if tls_sha256 else True),
    )


async def first_model(base_url: str, api_key: str | None) -> str:
    """Return the name of the first model that the server lists; BringupError when it lists none."""
    async with session(api_key, _INFO_TIMEOUT_S) as opened:
        for model in _models(await _get(opened, f"{base_url}/v1/models")):
            if isinstance(model.get("id"), str):
                return str(model["id"])
    raise BringupError(f"{base_url}/v1/models names no model: check the address and the API key, or name the model.")


async def _get(opened: aiohttp.ClientSession, url: str) -> Any:
    """Return the JSON at `url`, or None: these pages tell more about the server, but a run does not hang on them."""
    try:
        async with opened.get(url, timeout=aiohttp.ClientTimeout(total=_INFO_TIMEOUT_S)) as response:
            return await response.json() if response.status == 200 else None
    except (aiohttp.ClientError, OSError, ValueError):
        return None


async def _get_bytes(opened: aiohttp.ClientSession, url: str) -> bytes:
    """Return what stands at `url`, nothing where nothing does."""
    try:
        async with opened.get(url, timeout=aiohttp.ClientTimeout(total=_INFO_TIMEOUT_S)) as response:
            return await response.read() if response.status == 200 else b""
    except (aiohttp.ClientError, OSError):
        return b""


async def _post(opened: aiohttp.ClientSession, url: str, payload: dict[str, Any]) -> Any:
    try:
        async with opened.post(url, json=payload, timeout=aiohttp.ClientTimeout(total=_INFO_TIMEOUT_S)) as response:
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
    return error_message((await response.content.read(_ERROR_BODY_BYTES)).decode(errors="replace")) or "no text"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
