"""What a plan is."""

import hashlib
import json
from typing import Any

from pydantic import Field

from bringup.findings.finding import Finding
from bringup.hardware import Frozen
from bringup.onhost.content import changed_decisions
from bringup.plan.capacity import MemoryBudget
from bringup.plan.card import CardPlan
from bringup.plan.container import UNIT as CONTAINER_UNIT
from bringup.plan.container import ContainerPlan
from bringup.plan.cuda import CudaPlan
from bringup.plan.decision import Decision
from bringup.plan.driver import DriverPlan
from bringup.plan.host import HostSetting
from bringup.plan.limits import LineCheck
from bringup.plan.service import ServicePlan
from bringup.plan.service_manager import ServiceManager
from bringup.plan.tuning import TuningPlan


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
    concurrency: int
    """Requests in flight at once."""
    budget_s: float
    """About how long it may take."""
    lines: dict[str, float]
    stages: tuple[str, ...]
    timer: str
    """When systemd repeats it: ``hourly``, ``daily``, ``weekly`` or ``never``."""


class Predicted(Frozen):
    """What the server should reach. Floors are what no software can beat, not promises."""

    kv_cache_tokens: int
    """What vLLM should log as its KV cache size."""
    max_model_len: int
    """Longest single request that the server would start with."""
    requests_of_full_length: float
    """How many requests of the planned context the KV cache holds."""
    calibrated: bool
    """Whether the memory formula was measured with this version on such a card."""
    memory: MemoryBudget | None = None
    """None on the CPU."""
    ms_per_token_floor: float | None = None
    ttft_floor_ms: float | None = None
    """For the smoke benchmark's prompt."""
    e2e_floor_ms: float | None = None
    """For its answer."""
    tokens_per_s_ceiling: dict[int, float] = Field(default_factory=dict)
    """Streams at once → tokens a second of all together, each with the smoke benchmark's prompt and answer."""
    load_s_floor: float | None = None
    """Moving the weights over the card's link; the disk may be slower. None where the link is not known."""


class Plan(Frozen):
    """Everything that a host should be. The same facts and settings give the same plan, byte for byte."""

    profile: str
    model: str
    """Repository id; also the name that the API serves it under."""
    gpu: str | None
    """PCI address of the card that serves; None on the CPU."""
    templates_checksum: str
    api_key_fingerprint: str | None
    repository: str
    """Where the weights come from; another one than `model` where needs asked for quantised weights."""
    model_dir: str
    model_revision: str
    engine: str
    installable: bool
    """False: the engine is there to plan with only."""
    engine_dir: str | None
    """Folder of its virtual environment; None where it is in a container."""
    container: ContainerPlan | None = None
    vllm: dict[str, Any]
    """vLLM's own configuration file (``--config``)."""
    environment: dict[str, str]
    manager: ServiceManager
    """Who keeps the server running."""
    service: ServicePlan
    sysctls: dict[str, str]
    """Those settings of `tuning` that lie in /etc/sysctl.d."""
    needs: Needs
    driver: DriverPlan | None = None
    """What is done about the driver; None where there is nothing to do, or no card."""
    cuda: CudaPlan | None = None
    """CUDA's compiler; None where nothing that is served needs it."""
    card: CardPlan | None = None
    """What the serving card is set to; None where there is none, or where it is not this host's to set."""
    smoke: SmokePlan
    predicted: Predicted
    checks: tuple[LineCheck, ...]
    """The acceptance lines beside their floors."""
    host: tuple[HostSetting, ...]
    """Settings outside vLLM: what is set, and what is offered."""
    tuning: TuningPlan = TuningPlan()
    """Those of them that bringup sets, as the host's tool reads them."""
    decisions: tuple[Decision, ...]
    findings: tuple[Finding, ...]

    @property
    def digest(self) -> str:
        """Twelve hex digits that name the release: they change exactly when what is served changes."""
        names = {
            "model_dir",
            "model_revision",
            "engine_dir",
            "vllm",
            "environment",
            "service",
            "templates_checksum",
            "api_key_fingerprint",
        }
        served = self.model_dump(mode="json", include=names)
        if self.container is not None:
            # where a missing toolkit comes from is no part of what is served, and comes and goes with it
            served["container"] = self.container.model_dump(mode="json", exclude={"toolkit"})
        return hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def release_dir(self) -> str:
        """Folder of this release on the host."""
        return f"/opt/bringup/releases/{self.digest}"

    @property
    def unit(self) -> str:
        """File that the service is made of, on the host; a release's file has the same name."""
        return "/etc/systemd/system/vllm.service" if self.container is None else CONTAINER_UNIT

    def record(self) -> str:
        """Return plan.json as it lies in the release folder."""
        # live values would make the file of an unchanged plan another one, and the way to a driver ends once it is there
        live: Any = {"host": {"__all__": {"now", "writable"}}, "driver": True, "card": {"blockers"}, "container": {"toolkit"}}
        return json.dumps(self.model_dump(mode="json", exclude=live), indent=2, ensure_ascii=False) + "\n"

    def changes_from(self, decisions: dict[str, Any]) -> list[str]:
        """Say in words what differs from an earlier release's decisions: ``max-model-len 2048 → 4096``."""
        return changed_decisions({decision.key: decision.value for decision in self.decisions}, decisions)
