"""What the host asks its own server: whether it is healthy, whether it answers; and what the watch does when it does not."""

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bringup.errors import BringupError
from bringup.onhost import systemd, watch
from bringup.onhost.ready import wait_until_ready
from bringup.onhost.server import server_of
from tests.certificates import certificate

ROOT = Path(__file__).parents[2]
FakeServer = tuple[type["Fake"], http.server.ThreadingHTTPServer]


class Fake(http.server.BaseHTTPRequestHandler):
    """A server of one model; how it answers is set on its class."""

    health = 200
    tokens = 8
    status = 200
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self._reply(self.health, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers.get("Authorization")))
        self._reply(self.status, json.dumps({"choices": [{"text": "a"}], "usage": {"completion_tokens": self.tokens}}).encode())

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    handler = type("Handler", (Fake,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, server
    server.shutdown()
    server.server_close()


def plan(server: http.server.ThreadingHTTPServer, **options: Any) -> dict[str, Any]:
    return {"model": "m", "vllm": {"host": "127.0.0.1", "port": server.server_port, **options}}


def test_server_that_generates_is_ready(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, server = fake
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan(server)))
    monkeypatch.setenv("VLLM_API_KEY", "sk-1")
    wait_until_ready(file)
    assert handler.asked == [("/v1/completions", "Bearer sk-1")]


def test_server_that_has_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (tmp_path / "plan.json").write_text(json.dumps({"model": "m", "vllm": {"host": "127.0.0.1", "port": port}}))
    monkeypatch.setenv("MAINPID", str(ended.pid))
    with pytest.raises(BringupError, match="the server ended before it was ready"):
        wait_until_ready(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("how", "reason"),
    [({"status": 500}, "refuses a request: HTTP 500"), ({"tokens": 0}, "without a single token")],
    ids=["refuses", "generates nothing"],
)
def test_healthy_server_that_does_not_generate_is_not_ready(fake: FakeServer, how: dict[str, int], reason: str) -> None:
    handler, server = fake
    for name, value in how.items():
        setattr(handler, name, value)
    with pytest.raises(BringupError, match=reason):
        server_of(plan(server)).answer()


def test_health_is_asked_directly_whatever_proxy_the_login_names(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, server = fake
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert server_of(plan(server)).is_healthy()
    handler.health = 503
    assert not server_of(plan(server)).is_healthy()


def test_over_tls_the_servers_own_certificate_is_trusted_and_no_other(fake: FakeServer, tmp_path: Path) -> None:
    _, server = fake
    own, other = certificate(tmp_path / "own"), certificate(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    assert server_of(plan(server, **{"ssl-certfile": str(own.cert)})).is_healthy()
    assert not server_of(plan(server, **{"ssl-certfile": str(other.cert)})).is_healthy()
    assert not server_of(plan(server)).is_healthy()


class LoopOverError(Exception):
    """Ends the watch's loop."""


def run_watch(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    left = iter(range(rounds - 1))

    def pause(seconds: float) -> None:
        if seconds == 0 and next(left, None) is None:
            raise LoopOverError

    monkeypatch.setattr(watch, "sleep", pause)
    with pytest.raises(LoopOverError):
        watch.watch(interval_s=0, failures=3)


def test_server_that_hangs_is_ended_after_several_failures_in_a_row(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, server = fake
    monkeypatch.setattr(watch, "PLAN", tmp_path / "plan.json")
    monkeypatch.setattr(watch, "MOTD", tmp_path / "motd")
    watch.PLAN.write_text(json.dumps(plan(server)))
    command = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"]
    environment = {"PYTHONFAULTHANDLER": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as hung:
        assert hung.stdout is not None
        assert hung.stdout.readline() == "up\n"
        monkeypatch.setattr(watch, "service_manager", systemd.Systemd)
        monkeypatch.setattr(systemd.Systemd, "main_pid", lambda self: str(hung.pid) if hung.poll() is None else None)
        state = ["inactive"]
        monkeypatch.setattr(systemd, "systemctl", lambda *words: state[0])
        handler.health = 503
        run_watch(monkeypatch, 5)
        assert hung.poll() is None, "a service that somebody stopped, or that starts, is left alone"
        state[0] = "active"
        run_watch(monkeypatch, 2)
        assert hung.poll() is None, "two failures of three"
        handler.health = 200
        watch.MOTD.touch()
        run_watch(monkeypatch, 1)
        assert not watch.MOTD.exists(), "it serves again, so that nobody need be told that it does not"
        handler.health = 503
        run_watch(monkeypatch, 3)
        assert hung.wait(10) == -6
        assert hung.stderr is not None
        assert "most recent call first" in hung.stderr.read(), "the stacks that tell where it hung"


def test_giving_up_is_told_to_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "MOTD", tmp_path / "motd.d/50-bringup")
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    monkeypatch.setattr(watch, "service_manager", systemd.Systemd)
    monkeypatch.setattr(systemd, "systemctl", lambda *words: "exit-code")
    watch.tell_gave_up()
    assert capsys.readouterr().out.startswith("<1>bringup: vllm.service has given up (exit-code)")
    assert "journalctl -u vllm.service" in watch.MOTD.read_text()


def test_tool_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bringup.onhost", "ready", str(tmp_path / "none.json")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "none.json cannot be read" in done.stdout) == (1, True)
