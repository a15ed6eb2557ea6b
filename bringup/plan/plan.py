"""Puts the plan of one host together."""

from bringup.catalog import Catalog
from bringup.catalog.entries import GpuModel, Model
from bringup.catalog.loader import engine_checksum
from bringup.errors import BringupError
from bringup.findings import Finding
from bringup.hardware import Gpu, HostFacts
from bringup.plan.engine import SHUTDOWN_TIMEOUT_S, cpu_options, gpu_options
from bringup.plan.host import plan_sysctls
from bringup.plan.limits import check_lines
from bringup.plan.model import Decision, Needs, Plan, ServicePlan, SmokePlan
from bringup.plan.placement import serving_cpus
from bringup.probe.cpu import format_cpu_list
from bringup.settings import HostFolderSource, Settings, normalized_engine_settings

ENGINES_DIR = "/opt/bringup/engines"
MODELS_DIR = "/var/lib/bringup/models"
CACHE_DIR = "/var/lib/bringup/cache"
HOME_DIR = "/var/lib/bringup/home"

START_TIMEOUT_S = 900
"""A first compile takes minutes; vLLM's own limit for its engine is 600 s (VLLM_ENGINE_READY_TIMEOUT_S)."""
STOP_MARGIN_S = 15
"""systemd waits this much longer than vLLM's graceful stop before it kills."""


_HIDDEN_FROM_SERVICE = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108
"""Folders that the unit's ProtectHome and PrivateTmp hide from the service."""


def _model_dir(model: Model, settings: Settings, revision: str) -> str:
    if isinstance(settings.model_source, HostFolderSource):
        path = settings.model_source.path
        if path.startswith(_HIDDEN_FROM_SERVICE):
            raise BringupError(f"{path} lies where the service's sandbox hides it: move the model to /srv, say")
        return path
    return f"{MODELS_DIR}/{model.id.replace('/', '--')}@{revision}"


def _card(facts: HostFacts, catalog: Catalog) -> tuple[Gpu, GpuModel, int] | None:
    """The card that serves, and its number as CUDA counts; None where the host has no NVIDIA card at all.

    CUDA counts only the cards that its driver holds; before there is a driver, all of them may become such.
    """
    if not facts.gpus:
        return None
    for index, gpu in enumerate([gpu for gpu in facts.gpus if gpu.driver_version] or facts.gpus):
        known = catalog.gpu(gpu.pci_id)
        if known is not None:
            return gpu, known, index
    ids = ", ".join(sorted({gpu.pci_id for gpu in facts.gpus}))
    raise BringupError(f"the catalog does not know this host's NVIDIA card ({ids}); add it to bringup/catalog/gpus.yaml")


def make_plan(
    facts: HostFacts,
    settings: Settings,
    catalog: Catalog,
    model_revision: str,
    templates_checksum: str = "",
    api_key_fingerprint: str | None = None,
) -> Plan:
    """Plan one host.

    Args:
        facts: what the host is.
        settings: what the inventory says of it; validated.
        catalog: what is known of cards, models, engines and workloads.
        model_revision: what names the model's files: the hub's commit, or the fingerprint of a folder.
        templates_checksum: what names the templates that the release's files are rendered from.
        api_key_fingerprint: what names the API key without giving it away; None where there is none.

    Raises:
        BringupError: the wish cannot be met on this host; the message says why.
    """
    profile = catalog.profile(settings.profile)
    model = catalog.model(settings.model)
    card = _card(facts, catalog)
    engine = catalog.engine(settings.engine, "cuda" if card else "cpu")
    overrides = normalized_engine_settings(settings)
    if overrides.get("max-model-len", 0) > model.max_context:
        raise BringupError(
            f"max-model-len is {overrides['max-model-len']}, but {model.id} takes {model.max_context} tokens at most"
        )
    lines = profile.smoke.lines | settings.acceptance
    findings: list[Finding] = []
    if card:
        options = gpu_options(card[1], engine, model, profile, overrides)
        findings += check_lines(lines, profile.smoke.max_tokens, model, card[1])
        if len(facts.gpus) > 1:
            findings.append(Finding(level="note", text=f"{len(facts.gpus)} cards found; this version serves on the first"))
    else:
        options = cpu_options(facts.memory, engine, model, profile, overrides)
    findings += options.findings

    cpus, why_cpus = serving_cpus(facts.cpu, card[0].numa_node if card else None)
    placement = Decision(key="cpu-affinity", value=format_cpu_list(cpus), why=why_cpus, source="derived (plan/placement.py)")
    sysctls, sysctl_findings = plan_sysctls(facts, card[0].numa_node if card else None)
    findings += sysctl_findings

    engine_dir = f"{ENGINES_DIR}/{engine.name}-{engine_checksum(engine)[:8]}"
    model_dir = _model_dir(model, settings, model_revision)
    choices = (
        Decision(key="profile", value=settings.profile, why=profile.purpose, source="inventory: profile"),
        Decision(key="model-id", value=model.id, why="as set", source="inventory: model"),
        Decision(key="model-folder", value=model_dir, why=f"from {settings.model_source.kind}", source="inventory: model_source"),
        Decision(
            key="engine",
            value=engine.name,
            why=f"an NVIDIA card: {card[1].name}" if card else "no NVIDIA card: vLLM's CPU backend",
            source="facts: PCI devices" if settings.engine is None else "inventory: engine",
        ),
        Decision(key="api-key", value=api_key_fingerprint or "none", why="as set", source="inventory: api_key_file"),
        Decision(key="listen", value=f"{settings.listen_address}:{settings.port}", why="as set", source="inventory"),
    )
    vllm = {decision.key: decision.value for decision in options.decisions if decision.key != "kv-cache-space-gib"}
    environment = {
        "HOME": HOME_DIR,
        "HF_HOME": f"{CACHE_DIR}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{engine_dir}/bin:/usr/local/bin:/usr/bin:/bin",
        "VLLM_CACHE_ROOT": f"{CACHE_DIR}/vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if card:
        # without nvcc FlashInfer cannot compile its sampler (vLLM utils/flashinfer.py)
        environment |= {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": str(card[2]),
            "VLLM_USE_FLASHINFER_SAMPLER": "0",
        }
    else:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(options.kv_cache_host_mib // 1024)
    stop_after_s = int(vllm.get("shutdown-timeout", SHUTDOWN_TIMEOUT_S))
    return Plan(
        profile=settings.profile,
        model=model.id,
        gpu=card[0].pci_address if card else None,
        templates_checksum=templates_checksum,
        api_key_fingerprint=api_key_fingerprint,
        model_dir=model_dir,
        model_revision=model_revision,
        engine=engine.name,
        engine_dir=engine_dir,
        vllm={
            "model": model_dir,
            "served-model-name": [model.id],
            "host": settings.listen_address,
            "port": settings.port,
        }
        | vllm,
        environment=environment,
        service=ServicePlan(
            command=(f"{engine_dir}/{engine.command[0]}", *engine.command[1:]),
            parser_module=engine.parser_module,
            cpus=placement.value,
            start_timeout_s=START_TIMEOUT_S,
            stop_timeout_s=stop_after_s + STOP_MARGIN_S,
        ),
        sysctls={decision.key: decision.value for decision in sysctls},
        needs=Needs(
            memory_mib=engine.host_memory_mib + options.kv_cache_host_mib + (0 if card else int(model.weights_gib * 1024)),
            engine_disk_mib=engine.disk_mib,
            model_disk_mib=0 if isinstance(settings.model_source, HostFolderSource) else model.download_mib,
            min_driver_branch=engine.min_driver_branch,
            apt_packages=engine.apt_packages,
        ),
        smoke=SmokePlan(
            prompt=profile.smoke.prompt,
            max_tokens=profile.smoke.max_tokens,
            requests=profile.smoke.requests,
            lines=lines,
        ),
        predicted_kv_cache_tokens=options.kv_cache_tokens,
        decisions=(*choices, *options.decisions, placement, *sysctls),
        findings=tuple(findings),
    )
