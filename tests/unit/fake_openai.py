"""A small OpenAI-compatible server whose times and faults are known beforehand."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

Fault = Literal[
    "",
    "http_500",
    "http_401_echoes_key",
    "error_in_stream",
    "ends_early",
    "drops_connection",
    "hangs",
    "not_a_stream",
    "garbage_in_stream",
    "no_content",
    "no_usage",
]


@dataclass
class FakeOpenAI:
    """Answers each chat completion with `tokens` (by default as many as were asked for), one chunk a token."""

    ttft_s: float = 0.0
    itl_s: float = 0.0
    tokens: int | None = None
    fault: Fault = ""
    faulty_requests: tuple[int, ...] | None = None
    """Which requests (counted from 0, warm-up included) show the fault; None for all."""
    write_bytes: int | None = None
    """Write the stream in pieces of so many bytes, whatever the chunks' limits are."""
    models: tuple[str, ...] = ("smol", "other")
    is_vllm: bool = True
    stall_at: int | None = None
    """From this request on (counted from 0) nothing is answered for `stall_s`, as while a server's only thread is busy."""
    stall_s: float = 0.0
    answers: dict[str, str] = field(default_factory=dict)
    """Prompt to the text that it is answered with, in one chunk."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    stalled_until: float = 0.0

    async def version(self, _: web.Request) -> web.Response:
        if not self.is_vllm:
            raise web.HTTPNotFound
        return web.json_response({"version": "0.32.0"})

    async def list_models(self, _: web.Request) -> web.Response:
        models = [{"id": name, "object": "model", "max_model_len": 2048} for name in self.models]
        return web.json_response({"object": "list", "data": models})

    async def tokenize(self, request: web.Request) -> web.Response:
        """Count a token a word, and three of the chat template."""
        if not self.is_vllm:
            raise web.HTTPNotFound
        body = await request.json()
        text = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        return web.json_response({"count": self._prompt_tokens(text)})

    def _prompt_tokens(self, text: str) -> int:
        return 3 + len(text.split()) + len(text) // 100

    async def chat(self, request: web.Request) -> web.StreamResponse:
        number = len(self.bodies)
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if number == self.stall_at:
            self.stalled_until = asyncio.get_running_loop().time() + self.stall_s
        await asyncio.sleep(self.stalled_until - asyncio.get_running_loop().time())
        fault = self.fault if self.faulty_requests is None or number in self.faulty_requests else ""
        match fault:
            case "http_500":
                return web.json_response({"error": {"message": "the engine\nis \x1b[31mdead"}}, status=500)
            case "http_401_echoes_key":
                return web.Response(text=f"wrong key: {request.headers['Authorization']}", status=401)
            case "not_a_stream":
                return web.json_response({"choices": []})
            case "hangs":
                await asyncio.Event().wait()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            asked = body["max_completion_tokens"] if "max_completion_tokens" in body else body["max_tokens"]
            text = body["prompt"] if "prompt" in body else "".join(message["content"] for message in body["messages"])
            await self._stream(request, response, fault, self.tokens or asked, text)
        finally:
            self.in_flight -= 1
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, fault: str, tokens: int, prompt: str) -> None:
        async def write(text: str) -> None:
            data = text.encode()
            step = self.write_bytes or len(data)
            for start in range(0, len(data), step):
                await response.write(data[start : start + step])
                if self.write_bytes:
                    await asyncio.sleep(0)

        async def write_chunk(delta: dict[str, str]) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            if request.path == "/v1/completions":
                choice = {"index": 0, "text": delta.get("content", ""), "finish_reason": None}
            await write(f"data: {json.dumps({'choices': [choice], 'usage': None}, ensure_ascii=False)}\n\n")

        await write(": keep-alive\n\n")
        await write_chunk({"role": "assistant", "content": ""})  # no content yet: must not count as the first token
        await asyncio.sleep(self.ttft_s)
        if prompt in self.answers:
            await write_chunk({"content": self.answers[prompt]})
            tokens = 0
        for token in range(tokens):
            if token:
                await asyncio.sleep(self.itl_s)
            if token == tokens // 2:
                match fault:
                    case "error_in_stream":
                        await write('data: {"error": {"message": "KV cache is full", "code": 500}}\n\ndata: [DONE]\n\n')
                        return
                    case "garbage_in_stream":
                        await write("data: <html>\n\n")
                    case "ends_early":
                        return
                    case "drops_connection":
                        assert request.transport is not None
                        request.transport.abort()
                        return
            await write_chunk({"content": "" if fault == "no_content" else "量"})
        if fault != "no_usage":
            usage = {"prompt_tokens": 7 if prompt == "Hello" else self._prompt_tokens(prompt), "completion_tokens": tokens}
            await write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n")
        await write("data: [DONE]\n\n")


@contextmanager
def serving(fake: FakeOpenAI, more: Sequence[web.RouteDef] = (), address: str = "127.0.0.1") -> Iterator[str]:
    """Serve on a free loopback port, from a thread of its own; yield the server's address."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.add_routes(
        [
            web.get("/version", fake.version),
            web.get("/v1/models", fake.list_models),
            web.post("/v1/chat/completions", fake.chat),
            web.post("/v1/completions", fake.chat),
            web.post("/tokenize", fake.tokenize),
            *more,
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    listener = socket.create_server((address, 0))

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, listener).start()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(timeout=10)
        yield f"http://{address}:{listener.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
