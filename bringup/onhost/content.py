"""What a release's files say, apart from their comments."""

import hashlib
from collections.abc import Iterable

SERVED_FILES = ("vllm.yaml", "environment", "vllm.service")
"""Files of a release that decide what is served."""


def settings_in(text: str) -> list[str]:
    """Return the lines that mean something; another comment is no reason to restart a server."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def content_checksum(texts: Iterable[str]) -> str:
    """SHA-256 over what several files say, in their order."""
    return hashlib.sha256("\0".join("\n".join(settings_in(text)) for text in texts).encode()).hexdigest()
