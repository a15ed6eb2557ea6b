"""The server that a release describes, as its own host asks it: whether it is healthy, and whether it answers."""

import http.client
import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bringup.address import url_host
from bringup.errors import BringupError

HEALTH_TIMEOUT_S = 10.0
"""A server that is busy with a long prompt answers late, one that hangs never."""
ANSWER_TIMEOUT_S = 300.0
"""The first request of a process may compile kernels."""
ANSWER_TOKENS = 8
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True)
class Server:
    """Where it listens, and what it serves."""

    host: str
    """Address to reach it at from its own host."""
    port: int
    model: str
    certificate: Path | None = None
    """What it proves itself with over TLS; None over plain HTTP."""
    api_key: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """For people."""
        return f"{'https' if self.certificate else 'http'}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def is_healthy(self, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
        """Whether /health says so in time."""
        try:
            status, _ = self._ask("GET", "/health", None, timeout_s)
        except (OSError, http.client.HTTPException, BringupError):
            return False
        return status == 200

    def answer(self) -> str:
        """Have a few tokens generated, and return them.

        Raises:
            BringupError: the server refuses, or does not generate.
        """
        wanted = {"model": self.model, "prompt": "Hello", "max_tokens": ANSWER_TOKENS, "temperature": 0}
        try:
            status, body = self._ask("POST", "/v1/completions", json.dumps(wanted), ANSWER_TIMEOUT_S)
        except (OSError, http.client.HTTPException) as error:
            raise BringupError(f"the server is healthy and does not answer a request: {error!r}") from error
        if status != 200:
            raise BringupError(f"the server is healthy and refuses a request: HTTP {status} {body[:500].decode(errors='replace')}")
        try:
            content = json.loads(body)
            generated, text = content["usage"]["completion_tokens"], str(content["choices"][0]["text"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise BringupError(f"the server's answer to a request is none: {error!r}") from error
        if not generated:
            raise BringupError("the server answered a request without a single token")
        return text

    def _ask(self, method: str, path: str, body: str | None, timeout_s: float) -> tuple[int, bytes]:
        """Ask directly, whatever proxy the login's environment names."""
        connection = self._connection(timeout_s)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """Connect, and see that the server shows the release's own certificate.

        No authority is asked: the host asks itself by its address, which the certificate need not be for, and one that has run out
        must not make the watch end a server that answers.
        """
        if self.certificate is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=context)
        connection.connect()
        if connection.sock.getpeercert(binary_form=True) != _first_certificate(self.certificate):
            connection.close()
            raise BringupError(f"who listens on port {self.port} shows another certificate than {self.certificate}")
        return connection


def _first_certificate(file: Path) -> bytes:
    """The server's own certificate in DER."""
    try:
        head, mark, _ = file.read_text(encoding="ascii").partition(_END)
        return ssl.PEM_cert_to_DER_cert(head[head.index(_BEGIN) :] + mark)
    except (OSError, ValueError) as error:
        raise BringupError(f"the certificate {file} cannot be used: {error}") from error


def server_of(plan: dict[str, Any], api_key: str | None = None) -> Server:
    """Return the server that a release's plan.json describes."""
    options = plan["vllm"]
    certificate = options.get("ssl-certfile")
    return Server(
        host=url_host(options["host"]).strip("[]"),
        port=int(options["port"]),
        model=str(plan["model"]),
        certificate=Path(certificate) if certificate else None,
        api_key=api_key,
    )
