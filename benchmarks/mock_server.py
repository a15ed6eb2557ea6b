"""A completion server of known times, in a process of its own: TTFT 100 ms, then a token every 10 ms.

A thread a connection sleeps until each token is due and writes it to the socket, since asyncio's timers are up to a millisecond
late. Due times count from the arrival of the request, so that lateness does not add up.

    python -m benchmarks.mock_server [--stall-at N --stall-s S]     prints its address, ends with its standard input
"""

import argparse
import json
import socket
import sys
import threading
import time
from contextlib import suppress

TTFT_S, ITL_S = 0.100, 0.010


def main() -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stall-at", type=int, help="from this request on (counted from 0) nothing is answered for a while")
    parser.add_argument("--stall-s", type=float, default=1.0)
    options = parser.parse_args()
    server = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(f"http://127.0.0.1:{server.getsockname()[1]}", flush=True)
    state = _State(options.stall_at, options.stall_s)
    threading.Thread(target=_accept, args=(server, state), daemon=True).start()
    sys.stdin.read()


class _State:
    def __init__(self, stall_at: int | None, stall_s: float) -> None:
        self.lock = threading.Lock()
        self.requests = 0
        self.stall_at, self.stall_s = stall_at, stall_s
        self.stalled_until = 0.0

    def begin(self) -> float:
        """Take note of a request and return the time before which nothing is answered."""
        with self.lock:
            if self.requests == self.stall_at:
                self.stalled_until = time.perf_counter() + self.stall_s
            self.requests += 1
            return self.stalled_until


def _accept(server: socket.socket, state: _State) -> None:
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve_until_gone, args=(connection, state), daemon=True).start()


def _serve_until_gone(connection: socket.socket, state: _State) -> None:
    with connection, suppress(OSError):
        _serve(connection, state)


def _serve(connection: socket.socket, state: _State) -> None:
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65536)
            if not piece:
                return
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += connection.recv(65536)
        arrived = time.perf_counter()
        received = body[length:]
        if head.startswith(b"POST /tokenize"):
            words = len(json.loads(body[:length])["messages"][0]["content"].split())
            _send_json(connection, b"200 OK", {"count": words + 4})
        elif head.startswith(b"POST"):
            _stream(connection, json.loads(body[:length]), arrived, state)
        else:
            _tell(connection, head.split(b" ")[1].decode())


def _tell(connection: socket.socket, path: str) -> None:
    pages: dict[str, dict[str, object]] = {
        "/version": {"version": "mock"},
        "/v1/models": {"object": "list", "data": [{"id": "mock", "object": "model", "max_model_len": 4096}]},
    }
    _send_json(connection, b"200 OK" if path in pages else b"404 Not Found", pages.get(path, {}))


def _send_json(connection: socket.socket, status: bytes, page: dict[str, object]) -> None:
    content = json.dumps(page).encode()
    connection.sendall(
        b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content)
    )


def _stream(connection: socket.socket, body: dict[str, object], arrived: float, state: _State) -> None:
    tokens = int(str(body.get("max_completion_tokens") or body.get("max_tokens")))
    start = max(arrived, state.begin())
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head + _event({"role": "assistant", "content": ""}))
    for token in range(tokens):
        delay = start + TTFT_S + token * ITL_S - time.perf_counter()
        if delay > 0:
            time.sleep(delay)
        connection.sendall(_event({"content": "token "}))
    usage = {"prompt_tokens": 132, "completion_tokens": tokens, "total_tokens": 132 + tokens}
    connection.sendall(_chunked(json.dumps({"choices": [], "usage": usage})) + _chunked("[DONE]") + b"0\r\n\r\n")


def _event(delta: dict[str, str]) -> bytes:
    """An event as vLLM 0.24 sends it, about 250 bytes."""
    return _chunked(
        json.dumps(
            {
                "id": "chatcmpl-8f14e45fceea167a5a36dedd4bea2543",
                "object": "chat.completion.chunk",
                "created": 1790000000,
                "model": "mock",
                "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}],
            }
        )
    )


def _chunked(data: str) -> bytes:
    content = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(content), content)


if __name__ == "__main__":
    main()
