"""What a plan is."""

import hashlib
import json
from typing import Any

from bringup.findings.finding import Finding
from bringup.hardware import Frozen


class Decision(Frozen):
    """One value of the plan, with its reason."""

    key: str
    value: Any
    why: str
    source: str
    """Where the reason comes from: a measurement with its date, a datasheet, a line of vLLM, ``inventory`` for the user's own."""


class ServicePlan(Frozen):
    """What the systemd unit needs."""

    command: tuple[str, ...]
    """Absolute program and its arguments, the configuration file excluded."""
    parser_module: str
    """Module of the engine whose argument parser checks the configuration before the running service is touched."""
    cpus: str
    """Logical CPUs in the kernel's list format; empty leaves the placement to the kernel."""
    start_timeout_s: int
    stop_timeout_s: int


class Needs(Frozen):
    """What the host must have before the deploy starts."""

    memory_mib: int
    engine_disk_mib: int
    model_disk_mib: int
    min_driver_branch: int | None
    apt_packages: tuple[str, ...]


class SmokePlan(Frozen):
    """The acceptance run that ends the deploy."""

    prompt: str
    max_tokens: int
    requests: int
    lines: dict[str, float]


class Plan(Frozen):
    """Everything that a host should be. The same facts and settings give the same plan, byte for byte."""

    profile: str
    model: str
    """Repository id; also the name that the API serves it under."""
    gpu: str | None
    """PCI address of the card that serves; None on the CPU."""
    templates_checksum: str
    api_key_fingerprint: str | None
    model_dir: str
    model_revision: str
    engine: str
    engine_dir: str
    vllm: dict[str, Any]
    """vLLM's own configuration file (``--config``)."""
    environment: dict[str, str]
    service: ServicePlan
    sysctls: dict[str, str]
    needs: Needs
    smoke: SmokePlan
    predicted_kv_cache_tokens: int
    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]

    @property
    def digest(self) -> str:
        """Twelve hex digits that name the release: they change exactly when what is served changes."""
        served = self.model_dump(
            mode="json",
            include={
                "model_dir",
                "model_revision",
                "engine_dir",
                "vllm",
                "environment",
                "service",
                "templates_checksum",
                "api_key_fingerprint",
            },
        )
        return hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def release_dir(self) -> str:
        """Folder of this release on the host."""
        return f"/opt/bringup/releases/{self.digest}"

    def record(self) -> str:
        """Return plan.json as it lies in the release folder."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    def changes_from(self, decisions: dict[str, Any]) -> list[str]:
        """Say in words what differs from an earlier release's decisions: ``max-model-len 2048 → 4096``."""
        mine = {decision.key: decision.value for decision in self.decisions}
        return [
            f"{key} {decisions.get(key, 'unset')} → {mine.get(key, 'unset')}"
            for key in sorted(mine.keys() | decisions.keys())
            if mine.get(key) != decisions.get(key)
        ]
