"""Puts the plan of one host together."""

import json
from typing import Any

from bringup.catalog import Catalog
from bringup.catalog.entries import Model
from bringup.catalog.loader import engine_checksum
from bringup.errors import BringupError
from bringup.findings import Finding
from bringup.findings.finding import note, warning
from bringup.hardware import HostFacts
from bringup.host_settings import KEEP
from bringup.needs import parse_need
from bringup.plan.card import card_decisions, plan_card
from bringup.plan.configuration import Card, Case
from bringup.plan.container import plan_container
from bringup.plan.cuda import cuda_decisions, cuda_environment, plan_cuda
from bringup.plan.decision import Decision
from bringup.plan.driver import DriverPlan, plan_driver
from bringup.plan.engine import SHUTDOWN_TIMEOUT_S, EngineOptions, cpu_options, gpu_options
from bringup.plan.foresight import foresee, foresee_cpu
from bringup.plan.host import not_applicable, owner_findings, plan_host
from bringup.plan.model import Needs, Plan, SmokePlan
from bringup.plan.placement import plan_placement, without_siblings
from bringup.plan.service import plan_service
from bringup.plan.service_manager import container_findings, plan_service_manager
from bringup.plan.solve import NoWayError
from bringup.plan.tuning import TuningPlan, plan_tuning
from bringup.plan.upgrade import what_would_do
from bringup.settings import HostFolderSource, HubSource, Settings, engine_settings_problems, normalized_engine_settings

ENGINES_DIR = "/opt/bringup/engines"
MODELS_DIR = "/var/lib/bringup/models"
CACHE_DIR = "/var/lib/bringup/cache"
HOME_DIR = "/var/lib/bringup/home"
TLS_DIR = "/etc/bringup/tls"


UNPINNED = "unpinned"
"""Stands for the revision of a repository that the catalog pins none of."""
_NOT_OPTIONS = ("kv-cache-space-gib", "weights", "kv-offloading", "lora-adapters")
"""Decisions about the engine that are no options of `vllm serve`."""
_HIDDEN_FROM_SERVICE = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108
"""Folders that the unit's ProtectHome and PrivateTmp hide from the service."""


def _model_dir(name: str, settings: Settings, revision: str) -> str:
    if isinstance(settings.model_source, HostFolderSource):
        path = settings.model_source.path
        if path.startswith(_HIDDEN_FROM_SERVICE):
            raise BringupError(f"{path} lies where the service's sandbox hides it: move the model to /srv, say")
        return path
    return f"{MODELS_DIR}/{name.replace('/', '--')}@{revision}"


def _card(facts: HostFacts, catalog: Catalog) -> Card | None:
    """The card that serves; None where the host has no NVIDIA card at all.

    CUDA counts only the cards that its driver holds; before there is a driver, all of them may become such.
    """
    if not facts.gpus:
        return None
    listed = [gpu for gpu in facts.gpus if gpu.driver_version] or [gpu for gpu in facts.gpus if gpu.kernel_driver != "vfio-pci"]
    known = [
        Card(gpu=gpu, model=model, index=index)
        for index, gpu in enumerate(listed)
        if gpu.responds is not False and (model := catalog.gpu(gpu.pci_id)) is not None
    ]
    if known:
        # the most memory serves the most, then the fastest one; of equals the first
        return max(known, key=lambda card: (card.total_bytes, card.model.bandwidth_gb_s))
    if not listed or all(gpu.responds is False for gpu in listed):
        raise BringupError("no NVIDIA card of this host can serve: each is held for a virtual machine or no longer answers")
    ids = ", ".join(sorted({gpu.pci_id for gpu in facts.gpus}))
    raise BringupError(f"the catalog does not know this host's NVIDIA card ({ids}); add it to bringup/catalog/gpus.yaml")


def as_tuned(facts: HostFacts, settings: Settings) -> HostFacts:
    """The host as its processors will be: without second threads where the inventory switches SMT off and it can be."""
    off = settings.tuning_state == "present" and settings.host_settings.get("smt", KEEP) != KEEP
    if off and facts.cpu.smt == "on" and facts.cpu.smt_switchable:
        return without_siblings(facts)
    return facts


def _driver(facts: HostFacts, settings: Settings, card: Card | None, least_branch: int | None) -> DriverPlan | None:
    if card is None or least_branch is None:
        return None
    return plan_driver(facts, settings, card.gpu, card.model, least_branch)


def _revision(settings: Settings, model: Model, options: EngineOptions, given: str | None) -> tuple[str, str]:
    """Repository and revision of the weights."""
    checkpoint = options.configuration.checkpoint if options.configuration else model.checkpoints[0]
    if given is not None:
        return checkpoint.repository, given
    source = settings.model_source
    # a revision that the inventory names is one of the model's own repository
    own = checkpoint.repository == model.checkpoints[0].repository
    if own:  # validation of the inventory has seen to it that one is named or pinned
        named = source.revision if isinstance(source, HubSource) else None
        return checkpoint.repository, named or checkpoint.revision or "main"
    return checkpoint.repository, checkpoint.revision or UNPINNED


def _as_available(model: Model, settings: Settings) -> Model:
    """The model with the checkpoints that its source can give: a folder holds one, and the catalog's others are on Hugging Face."""
    source = settings.model_source
    if isinstance(source, HubSource) and source.hub == "huggingface":
        return model
    repository = model.checkpoints[0].repository
    return model.model_copy(update={"checkpoints": tuple(c for c in model.checkpoints if c.repository == repository)})


def _exposure(settings: Settings, tls_name: str | None) -> dict[str, Any]:
    """Options about who may reach the server how."""
    options: dict[str, Any] = {}
    if tls_name is not None:
        folder = f"{TLS_DIR}/{tls_name}"
        options |= {"ssl-certfile": f"{folder}/cert.pem", "ssl-keyfile": f"{folder}/key.pem"}
    if settings.allowed_origins:
        options["allowed-origins"] = json.dumps(list(settings.allowed_origins))
    return options


def _exposure_decisions(settings: Settings, tls_name: str | None) -> tuple[Decision, ...]:
    values = {"tls": tls_name, "allowed-origins": ", ".join(settings.allowed_origins)}
    sources = {"tls": "inventory: tls_cert_file", "allowed-origins": "inventory: allowed_origins"}
    return tuple(Decision(key=key, value=value, why="as set", source=sources[key]) for key, value in values.items() if value)


def _environment(engine_dir: str | None, card: Card | None) -> dict[str, str]:
    """Variables of the server that do not depend on what it serves."""
    environment = {
        "HOME": HOME_DIR,
        "HF_HOME": f"{CACHE_DIR}/huggingface",
        "HF_HUB_OFFLINE": "1",
        # the stacks of a server that hangs, when the watch ends it (bringup/onhost/watch.py)
        "PYTHONFAULTHANDLER": "1",
        "VLLM_CACHE_ROOT": f"{CACHE_DIR}/vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if card:
        # without nvcc FlashInfer cannot compile its sampler (vLLM utils/flashinfer.py)
        environment["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if engine_dir is None:  # an image has a PATH of its own, and in its container there is no other card
        return environment
    environment["PATH"] = f"{engine_dir}/bin:/usr/local/bin:/usr/bin:/bin"
    if card:
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(card.index)}
    return environment


def make_plan(
    facts: HostFacts,
    settings: Settings,
    catalog: Catalog,
    model_revision: str | None = None,
    templates_checksum: str = "",
    api_key_fingerprint: str | None = None,
    tls_name: str | None = None,
) -> Plan:
    """Plan one host.

    Args:
        facts: what the host is.
        settings: what the inventory says of it; validated.
        catalog: what is known of cards, models, engines and workloads.
        model_revision: what names the model's files where they do not come from a hub: the fingerprint of a folder. None: the
            commit that the inventory names, or the catalog's.
        templates_checksum: what names the templates that the release's files are rendered from.
        api_key_fingerprint: what names the API key without giving it away; None where there is none.
        tls_name: what names the certificate; None for plain HTTP.

    Raises:
        BringupError: the wish cannot be met on this host; the message says why.
    """
    profile = catalog.profile(settings.profile)
    model = _as_available(catalog.model(settings.model), settings)
    card = _card(facts, catalog)
    engine = catalog.engine(settings.engine, "cuda" if card else "cpu")
    overrides = normalized_engine_settings(settings)
    problems = engine_settings_problems(overrides, engine)
    if problems:
        raise BringupError("; ".join(problems))
    if overrides.get("max-model-len", 0) > model.max_context:
        raise BringupError(
            f"max-model-len is {overrides['max-model-len']}, but {model.id} takes {model.max_context} tokens at most"
        )
    if not facts.cpu.usable:
        raise BringupError(f"its processors cannot be read ({facts.unknown.get('cpus', 'none is named')}): nothing can be placed")
    needs = [parse_need(text) for text in settings.needs]
    asked = max((need.tokens_a_request for need in needs), default=0)
    if "max-model-len" in overrides and asked > overrides["max-model-len"]:
        raise BringupError(f"max-model-len {overrides['max-model-len']} contradicts the need of {asked} tokens a request")
    lines = profile.smoke.lines | settings.acceptance
    no_findings: tuple[Finding, ...] = ()
    placed = as_tuned(facts, settings)
    placement = plan_placement(placed, card.gpu if card else None)
    host = plan_host(placed, placement, card.gpu if card else None, settings.host_settings)
    if settings.tuning_state == "absent":
        host = tuple(s.model_copy(update={"state": "kept"}) if s.state == "set" and s.kind != "limit" else s for s in host)
    tuning = plan_tuning(host, placed, settings.kernel_parameters if settings.tuning_state == "present" else ())
    if card:
        calibration = catalog.calibration(engine.version, card.model.compute_capability)
        case = Case(card=card, engine=engine, calibration=calibration, model=model, profile=profile, overrides=overrides)
        try:
            options = gpu_options(case, needs)
        except NoWayError as error:
            advice = what_would_do(case, needs, catalog)
            raise NoWayError(f"{error.message}; {advice}", error.attempts) from error
        predicted, checks, findings = foresee(case, lines, options)
        if predicted.requests_of_full_length < profile.concurrency:
            text = f"the KV cache holds {predicted.requests_of_full_length:g} requests of full length, the profile expects"
            cost = "others wait, or their work is thrown away and done again; shorter requests share the cache better"
            findings = (*findings, warning("few-full-requests", f"{text} {profile.concurrency} at a time", cost))
        if len(facts.gpus) > 1:
            text = f"{len(facts.gpus)} cards found; this version serves on {card.gpu.pci_address} alone"
            findings = (*findings, note("one-card-serves", text))
    else:
        if needs:
            raise BringupError("needs are planned for cards only; this host has none")
        options = cpu_options(facts.memory, engine, model, profile, overrides)
        predicted, checks, findings = foresee_cpu(options, model), (), no_findings

    repository, revision = _revision(settings, model, options, model_revision)
    from_hub = isinstance(settings.model_source, HubSource)
    model_dir = _model_dir(repository if from_hub else model.id, settings, revision)
    choices = (
        Decision(key="profile", value=settings.profile, why=profile.purpose, source="inventory: profile"),
        Decision(key="model-id", value=model.id, why="as set", source="inventory: model"),
        Decision(key="model-folder", value=model_dir, why=f"from {settings.model_source.kind}", source="inventory: model_source"),
        Decision(
            key="engine",
            value=engine.name,
            why=f"an NVIDIA card: {card.model.name}" if card else "no NVIDIA card: vLLM's CPU backend",
            source="facts: PCI devices" if settings.engine is None else "inventory: engine",
        ),
        Decision(key="api-key", value=api_key_fingerprint or "none", why="as set", source="inventory: api_key_file"),
        Decision(key="listen", value=f"{settings.listen_address}:{settings.port}", why="as set", source="inventory"),
        *_exposure_decisions(settings, tls_name),
    )
    vllm = {decision.key: decision.value for decision in options.decisions if decision.key not in _NOT_OPTIONS}
    in_container = settings.runtime == "container"
    engine_dir = None if in_container else f"{ENGINES_DIR}/{engine.name}-{engine_checksum(engine)[:8]}"
    environment = _environment(engine_dir, card)
    if not card:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(options.kv_cache_host_mib // 1024)
    if placement.omp_threads is not None:
        environment["OMP_NUM_THREADS"] = str(placement.omp_threads)
    stop_after_s = int(vllm.get("shutdown-timeout", SHUTDOWN_TIMEOUT_S))
    memory_mib = engine.host_memory_mib + options.kv_cache_host_mib + (0 if card else int(model.weights_gib * 1024))
    service, memory_limit = plan_service(facts, engine, engine_dir, placement, host, stop_after_s, memory_mib)
    container = plan_container(
        facts,
        settings,
        engine,
        card.index if card else None,
        (model_dir, *((f"{TLS_DIR}/{tls_name}",) if tls_name else ())),
        (HOME_DIR, CACHE_DIR),
        stop_after_s,
    )
    container_plan, container_decisions = container or (None, ())
    # an image brings what kernels are compiled with
    cuda_plan = plan_cuda(settings, engine, vllm) if card and not in_container else None
    environment |= cuda_environment(cuda_plan, environment.get("PATH", ""))
    manager, managed_by = plan_service_manager(facts)
    card_plan = plan_card(facts, settings, card.gpu) if card else None
    made = [setting for setting in host if setting.key in {applied.key for applied in tuning.settings}]
    return Plan(
        profile=settings.profile,
        model=model.id,
        gpu=card.gpu.pci_address if card else None,
        templates_checksum=templates_checksum,
        api_key_fingerprint=api_key_fingerprint,
        repository=repository,
        model_dir=model_dir,
        model_revision=revision,
        engine=engine.name,
        installable=engine.installable,
        engine_dir=engine_dir,
        container=container_plan,
        vllm={
            "model": model_dir,
            "served-model-name": [model.id],
            "host": settings.listen_address,
            "port": settings.port,
        }
        | _exposure(settings, tls_name)
        | vllm,
        environment=environment,
        manager=manager,
        service=service,
        sysctls={s.key: s.value for s in tuning.settings if s.kind == "sysctl" and not tuning.by_owner},
        needs=Needs(
            memory_mib=memory_mib,
            engine_disk_mib=engine.image.disk_mib if in_container and engine.image else engine.disk_mib,
            model_disk_mib=0 if isinstance(settings.model_source, HostFolderSource) else _download_mib(model, repository),
            min_driver_branch=engine.min_driver_branch,
            apt_packages=("podman",) if in_container else engine.apt_packages,
        ),
        driver=_driver(facts, settings, card, engine.min_driver_branch),
        cuda=cuda_plan,
        card=card_plan,
        smoke=SmokePlan(
            prompt=profile.smoke.prompt,
            max_tokens=profile.smoke.max_tokens,
            concurrency=profile.concurrency,
            budget_s=profile.smoke.budget_s,
            lines=lines,
            stages=settings.smoke_stages,
            timer=settings.smoke_timer,
        ),
        predicted=predicted,
        checks=checks,
        host=host,
        tuning=tuning,
        decisions=(
            *choices,
            *container_decisions,
            *options.decisions,
            *placement.decisions,
            managed_by,
            memory_limit,
            *cuda_decisions(cuda_plan),
            *card_decisions(card_plan),
            *(Decision(key=setting.key, value=setting.value, why=setting.why, source=setting.source) for setting in made),
            *_kernel_decisions(tuning),
        ),
        findings=(
            *findings,
            *options.findings,
            *placement.findings,
            *not_applicable(placed, placement, card.gpu if card else None, settings.host_settings),
            *owner_findings(host, facts),
            *_kernel_findings(settings, tuning),
            *container_findings(facts, service),
        ),
    )


def _kernel_decisions(tuning: TuningPlan) -> tuple[Decision, ...]:
    if not tuning.kernel_parameters:
        return ()
    value, why = " ".join(tuning.kernel_parameters), "as set; on the kernel's command line from the next boot on"
    return (Decision(key="kernel-parameters", value=value, why=why, source="inventory: kernel_parameters"),)


def _kernel_findings(settings: Settings, tuning: TuningPlan) -> tuple[Finding, ...]:
    if not settings.kernel_parameters or tuning.kernel_parameters or settings.tuning_state == "absent":
        return ()
    words = " ".join(settings.kernel_parameters)
    text = f"a container has its machine's kernel; its owner can add {words} to that kernel's command line"
    return (warning("owner-must-set", text),)


def _download_mib(model: Model, repository: str) -> int:
    return next(checkpoint.download_mib for checkpoint in model.checkpoints if checkpoint.repository == repository)
