"""What a release's files say, apart from their comments."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any


def served_files(in_container: bool, manager: str = "systemd") -> tuple[str, ...]:
    """Files of a release that decide what is served; the last is what its service is made of.

    Args:
        in_container: whether Podman runs the engine.
        manager: who keeps the server running: ``systemd``, or ``supervisor`` where that does not run the host.
    """
    unit = "vllm.container" if in_container else "vllm.service"
    return ("vllm.yaml", "environment", "vllm.toml" if manager == "supervisor" else unit)


def environment_in(text: str) -> dict[str, str]:
    """Parse lines of ``NAME=value``, as bringup writes them."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def settings_in(text: str) -> list[str]:
    """Return the lines that mean something; another comment is no reason to restart a server."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def content_checksum(texts: Iterable[str]) -> str:
    """SHA-256 over what several files say, in their order."""
    return hashlib.sha256("\0".join("\n".join(settings_in(text)) for text in texts).encode()).hexdigest()


def decisions_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a plan.json decides; empty where it does not say."""
    try:
        return {str(decision["key"]): decision["value"] for decision in plan["decisions"]}
    except (KeyError, TypeError):
        return {}


def changed_decisions(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Say in words what one plan decides otherwise than another: ``max-model-len 2048 → 4096``."""
    return [
        f"{key} {before.get(key, 'unset')} → {now.get(key, 'unset')}"
        for key in sorted(now.keys() | before.keys())
        if now.get(key) != before.get(key)
    ]
