"""The server that a release describes, as its own host asks it: whether it is healthy, and whether it answers."""

import json
import ssl
import urllib.error
import urllib.request
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


@dataclass(frozen=True)
class Server:
    """Where it listens, and what it serves."""

    url: str
    model: str
    certificate: Path | None = None
    """What it proves itself with over TLS; None over plain HTTP."""
    api_key: str | None = field(default=None, repr=False)

    def is_healthy(self, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
        """Whether /health says so in time."""
        try:
            with self._open("/health", None, timeout_s) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError, BringupError):
            return False

    def answer(self) -> str:
        """Have a few tokens generated, and return them.

        Raises:
            BringupError: the server refuses, or does not generate.
        """
        wanted = {"model": self.model, "prompt": "Hello", "max_tokens": ANSWER_TOKENS, "temperature": 0}
        try:
            with self._open("/v1/completions", json.dumps(wanted).encode(), ANSWER_TIMEOUT_S) as answer:
                content = json.load(answer)
            generated = content["usage"]["completion_tokens"]
        except urllib.error.HTTPError as error:
            text = error.read(500).decode(errors="replace")
            raise BringupError(f"the server is healthy and refuses a request: HTTP {error.code} {text}") from error
        except (urllib.error.URLError, OSError) as error:
            raise BringupError(f"the server is healthy and does not answer a request: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BringupError(f"the server's answer to a request is none: {error!r}") from error
        if not generated:
            raise BringupError("the server answered a request without a single token")
        return str(content["choices"][0]["text"])

    def _open(self, path: str, body: bytes | None, timeout_s: float) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})
        handlers: list[urllib.request.BaseHandler] = [
            # not through a proxy that the login's environment names
            urllib.request.ProxyHandler({})
        ]
        if self.certificate is not None:
            handlers.append(urllib.request.HTTPSHandler(context=_trusting(self.certificate)))
        request = urllib.request.Request(self.url + path, data=body, headers=headers)  # noqa: S310 (server_of: http or https)
        return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Trust this very certificate and no other, whatever name it is for: the host asks itself by its address.

    Raises:
        BringupError: the file is not one.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=certificate)
    except (OSError, ssl.SSLError) as error:
        raise BringupError(f"the certificate {certificate} cannot be used: {error}") from error
    return context


def server_of(plan: dict[str, Any], api_key: str | None = None) -> Server:
    """Return the server that a release's plan.json describes."""
    options = plan["vllm"]
    certificate = options.get("ssl-certfile")
    scheme = "https" if certificate else "http"
    return Server(
        url=f"{scheme}://{url_host(options['host'])}:{options['port']}",
        model=str(plan["model"]),
        certificate=Path(certificate) if certificate else None,
        api_key=api_key,
    )
