"""What a user needs of a server, in numbers: ``context=262144``, ``e2e_ms=1100``, ``concurrency=16@8192``."""

import re
from typing import Literal

from bringup.catalog.loader import nearest
from bringup.errors import BringupError
from bringup.hardware import Frozen

Kind = Literal["context", "concurrency", "ttft_ms", "itl_ms", "e2e_ms"]
_KINDS: dict[str, Kind] = {
    "context": "context",
    "concurrency": "concurrency",
    "ttft_ms": "ttft_ms",
    "itl_ms": "itl_ms",
    "e2e_ms": "e2e_ms",
}
_SUFFIXES = {"": 1, "k": 1024, "K": 1024}


class Need(Frozen):
    """One need."""

    kind: Kind
    amount: float
    """Tokens, requests or milliseconds."""
    at_tokens: int | None = None
    """Of a concurrency: how long each request is."""

    @property
    def tokens_a_request(self) -> int:
        """How long a single request must be able to be; 0 where the need is about times."""
        return int(self.at_tokens or self.amount) if self.kind in ("context", "concurrency") else 0

    def __str__(self) -> str:
        """As the user wrote it."""
        return f"{self.kind}={self.amount:g}" + (f"@{self.at_tokens}" if self.at_tokens else "")


def parse_need(text: str) -> Need:
    """Parse ``KIND=AMOUNT``; tokens may end in K (× 1024), and a concurrency names its length: ``16@8K``.

    Raises:
        BringupError: it is no such thing; the message says what would be.
    """
    name, _, value = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_")
    if name not in _KINDS:
        raise BringupError(f"--need {text}: {nearest(name, _KINDS)}")
    number = r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([kK]?)"
    match = re.fullmatch(number + (rf"@{number}" if name == "concurrency" else ""), value)
    if match is None or float(match[1]) <= 0:
        form = "REQUESTS@TOKENS, as concurrency=16@8192" if name == "concurrency" else "a number, as context=65536 or e2e_ms=1100"
        raise BringupError(f"--need {text}: {name} takes {form}")
    amount = float(match[1]) * _SUFFIXES[match[2]]
    at_tokens = int(float(match[3]) * _SUFFIXES[match[4]]) if name == "concurrency" else None
    return Need(kind=_KINDS[name], amount=amount, at_tokens=at_tokens)
