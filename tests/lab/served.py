"""A served throw-away host, as the tests of its service see it."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from deployment import Deployment

START_LIMIT_S = 300
"""A start takes half a minute on two idle cores."""
STOP_LIMIT_S = 60
"""systemd kills after 45 s."""


@dataclass(frozen=True)
class Service:
    """The service as its host and its clients see it."""

    deployment: Deployment
    model: str
    log_tail: ClassVar[str] = "journalctl -u vllm -o cat | tail -40"

    def ssh(self, script: str, check: bool = True) -> str:
        return self.deployment.ssh(script, check=check).strip()

    def state(self) -> str:
        return self.ssh("systemctl show vllm.service -P ActiveState")

    def processes(self, title: str = "") -> set[str]:
        """Process ids of the service's user, by what they call themselves."""
        return set(self.ssh(f"pgrep -u vllm -f '{title}' || true").split())

    def wait(self, until: Callable[[], bool], limit_s: float, what: str) -> None:
        limit = time.monotonic() + limit_s
        while not until():
            assert time.monotonic() < limit, f"{what}: not within {limit_s} s\n{self.ssh(self.log_tail)}"
            time.sleep(0.3)

    def wait_until_active(self) -> None:
        self.wait(lambda: self.state() == "active", START_LIMIT_S, "the service is up")

    @contextmanager
    def impatient_watch(self) -> Iterator[None]:
        """Have the watch give up on a server within a second or two."""
        folder = "/run/systemd/system/vllm-watch.service.d"
        impatient = "[Service]\\nExecStart=\\nExecStart=/opt/bringup/bin/bringup-host watch --interval-s 0.5 --failures 2\\n"
        anew = "systemctl daemon-reload; systemctl restart vllm-watch.service"
        self.ssh(f"systemctl reset-failed vllm.service; mkdir -p {folder}; printf '{impatient}' > {folder}/test.conf; {anew}")
        try:
            yield
        finally:
            self.ssh(f"rm -r {folder}; {anew}")

    def open(self, max_tokens: int, timeout_s: float = 60, stream: bool = False) -> "urllib.request._UrlopenRet":
        wanted = {"model": self.model, "prompt": "Once", "max_tokens": max_tokens, "ignore_eos": True, "stream": stream}
        if stream:
            wanted["stream_options"] = {"include_usage": True}
        url = f"http://127.0.0.1:{self.deployment.host().service_port}/v1/completions"
        request = urllib.request.Request(url, json.dumps(wanted).encode(), {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 (to this machine)

    def answer(self, max_tokens: int = 4) -> str:
        with self.open(max_tokens) as answer:
            return str(json.load(answer)["choices"][0]["finish_reason"])

    def server_pid(self) -> str:
        """Process that answers."""
        return self.deployment.main_pid()

    def stop(self) -> None:
        """Have it stopped, and do not wait for that."""
        self.ssh("systemctl stop --no-block vllm.service")

    def all_end(self, before: set[str], limit_s: float = STOP_LIMIT_S) -> None:
        """Wait until none of these processes is left."""
        self.wait(lambda: not before & self.processes(), limit_s, "every process of the old server has ended")

    def hang_and_come_back(self) -> None:
        """Stop the server's process, so that it runs and does not answer; the watch ends it, and another one serves."""
        before = self.processes()
        with self.impatient_watch():
            self.ssh(f"kill -STOP {self.server_pid()}")
            self.all_end(before, 2 * STOP_LIMIT_S)
        self.wait_until_active()
        assert self.answer() == "length"

    def stop_while_answering(self, tokens: int) -> None:
        """Stop the service with an answer running, which must be whole."""
        with self.open(tokens, stream=True) as answer:
            assert answer.readline().startswith(b"data:")
            self.stop()
            rest = answer.read().decode()
        assert rest.rstrip().endswith("data: [DONE]"), "a running answer ends before a stop"
        # not the chunks: a busy server sends several tokens in one
        assert f'"completion_tokens":{tokens}' in rest.replace(" ", "")
        self.wait(lambda: self.state() == "inactive", STOP_LIMIT_S, "the service has stopped")
        assert self.processes() == set()
