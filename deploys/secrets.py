"""Reads secrets from files on the control machine, before any host is touched."""

import hashlib
import re
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from bringup.errors import BringupError
from bringup.settings import Settings

_FIRST_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Tls:
    """What a server proves itself with."""

    certificate: bytes
    key: bytes = field(repr=False)
    sha256: str
    """Of the server's own certificate, the first one of the file."""

    @property
    def name(self) -> str:
        """What the host's folder of both is called."""
        return self.sha256[:12]


@lru_cache(maxsize=64)
def read_tls(settings_cert: str | None, settings_key: str | None) -> Tls | None:
    """Read certificate and key; None where none are set.

    Raises:
        BringupError: they cannot be read, do not belong together, or the key is encrypted.
    """
    if settings_cert is None or settings_key is None:
        return None
    where = f"tls_cert_file {settings_cert} and tls_key_file {settings_key}"
    try:
        certificate, key = Path(settings_cert).read_bytes(), Path(settings_key).read_bytes()
        # an encrypted key would ask for its password on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings_cert, settings_key, password="")
        first = _FIRST_CERTIFICATE.search(certificate)
        if first is None:
            raise ValueError("no certificate in it")
        der = ssl.PEM_cert_to_DER_cert(first[0].decode("ascii"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise BringupError(f"{where} cannot be used: {error}; the key must be the certificate's, and not encrypted") from error
    return Tls(certificate=certificate, key=key, sha256=hashlib.sha256(der).hexdigest())


def read_api_key(settings: Settings) -> str | None:
    """Read the API key from its file on the control machine; None where none is set.

    Raises:
        BringupError: the file cannot be read or holds no key; vLLM would take an empty one for none, and be open to all.
    """
    # what a bearer token may hold (RFC 6750, 2.1); nothing of it has a meaning in systemd's environment files
    return _read_secret(
        "api_key_file", settings.api_key_file, r"[A-Za-z0-9._~+/-]+=*", "one key of letters, digits and -._~+/ on one line"
    )


def read_hub_token(settings: Settings) -> str | None:
    """Read the hub's token from its file on the control machine; None where none is set.

    Raises:
        BringupError: the file cannot be read or holds no token.
    """
    return _read_secret("hub_token_file", settings.hub_token_file, r"[\x21-\x7e]+", "one token on one line and nothing else")


def _read_secret(setting: str, path: str | None, pattern: str, what: str) -> str | None:
    """Read the one secret of a file, without space around it, if it is as `pattern` says."""
    if path is None:
        return None
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BringupError(f"{setting} {path} cannot be read on the control machine: {error}") from error
    if not re.fullmatch(pattern, secret):
        raise BringupError(f"{setting} {path} must hold {what}")
    return secret
