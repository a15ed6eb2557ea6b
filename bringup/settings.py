"""What an inventory may say about a host: names, types, ranges, and errors that people can act on."""

import ipaddress
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from bringup.catalog import Catalog
from bringup.catalog.entries import Engine, EngineSetting
from bringup.catalog.loader import nearest
from bringup.errors import BringupError
from bringup.hardware import Frozen
from bringup.host_settings import host_settings_problems, kernel_parameters_problem
from bringup.needs import parse_need
from bringup.smoke.model import MetricName, StageName

METRICS: tuple[str, ...] = get_args(MetricName)
"""What an acceptance line may be about, as `bringup.smoke` measures it."""


def _absolute(value: str) -> str:
    if not PurePosixPath(value).is_absolute():
        raise ValueError(f"must be an absolute path, not '{value}'")
    return value


def _address(value: str) -> str:
    ipaddress.ip_address(value)
    return value


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class HubSource(Frozen):
    """The model comes from a hub, at a pinned revision."""

    kind: Literal["hub"] = "hub"
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    revision: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]*$")] | None = None
    """Commit or tag; None takes the catalog's. A revision of ModelScope must be named."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    """Address of a mirror, without user and password; None is the hub's own."""


class ControlFolderSource(Frozen):
    """The model is a folder on the control machine, copied to the host."""

    kind: Literal["control-folder"]
    path: AbsolutePath


class HostFolderSource(Frozen):
    """The model is a folder on the host, served in place."""

    kind: Literal["host-folder"]
    path: AbsolutePath


def _branch(value: Any) -> Any:
    """A branch alone is a number to whoever writes group data, and to `--data`."""
    return str(value) if isinstance(value, int) else value


def _fingerprint(value: str) -> str:
    plain = value.replace(" ", "").upper()
    if not re.fullmatch(r"[0-9A-F]{40}", plain):
        raise ValueError("must be an OpenPGP fingerprint of 40 hexadecimal digits, as `gpg --show-keys` prints it")
    return plain


class NvidiaRepository(Frozen):
    """An apt repository that has the NVIDIA driver: NVIDIA's own for the distribution, a mirror of it, or a folder of the host."""

    uri: Annotated[str, Field(pattern=r"^(https?|file|copy):/[^\s@]+$")]
    """Without user and password (apt reads those from /etc/apt/auth.conf.d)."""
    suite: Annotated[str, Field(pattern=r"^[^\s]+$")] = "/"
    """A name (``noble-updates``), or a path that ends in a slash for a repository without suites, as NVIDIA's are. On Ubuntu it
    tells NVIDIA's packages, which have other names, from a mirror of Ubuntu's own."""
    components: tuple[Annotated[str, Field(pattern=r"^[^\s]+$")], ...] = ()
    key_file: AbsolutePath
    """File on the control machine with the public key that signs the repository, armoured or not."""
    fingerprint: Annotated[str, AfterValidator(_fingerprint)]
    """Of that key, from a source that you trust; the file is refused where it holds another."""

    @property
    def is_flat(self) -> bool:
        """Whether it has no suites, as NVIDIA's own."""
        return self.suite.endswith("/")


class Expectation(Frozen):
    """The cards that a host must have; it is refused where it has others."""

    gpu: str | None = None
    """Name of catalog/gpus.yaml, "GeForce" left out or not: ``RTX 4090 D``. None: any."""
    count: int | None = Field(None, ge=0, le=64)
    """How many of them. None: at least one."""


def _clocks(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] > value[1]:
        raise ValueError("the first must not be above the second")
    return value


def _word(value: Any) -> Any:
    """A number is a number to whoever writes group data; ``off`` must be text, since False says nothing of what it is for."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _host_settings(wishes: dict[str, str]) -> dict[str, str]:
    if problems := host_settings_problems(wishes):
        raise ValueError("; ".join(problem.removeprefix("host_settings: ") for problem in problems))
    return wishes


def _kernel_parameters(words: tuple[str, ...]) -> tuple[str, ...]:
    if problem := kernel_parameters_problem(words):
        raise ValueError(problem)
    return words


def _needs(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        try:
            parse_need(text)
        except BringupError as error:
            raise ValueError(error.message) from None
    return texts


ModelSource = Annotated[HubSource | ControlFolderSource | HostFolderSource, Field(discriminator="kind")]


class Settings(Frozen):
    """The settings of one host; every name is also a name in group data and `--data`."""

    profile: str = "interactive"
    """What the host is for: a name of catalog/profiles.yaml."""
    model: str = "Qwen/Qwen3-4B-Instruct-2507"
    """Repository id or alias of catalog/models.yaml. With a folder of the control machine it may be any name to serve it under:
    what the catalog does not know is read from the folder's config.json."""
    model_source: ModelSource = HubSource()
    engine: str | None = None
    """A name of catalog/engines.yaml or a version, ``vllm==0.33.0``; None is the newest for the host's device."""
    engine_settings: dict[str, Any] = Field(default_factory=dict)
    """Options of `vllm serve` that override the plan's, with dashes or underscores: ``{"max-model-len": 8192}``."""
    listen_address: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    """Anything but loopback needs `api_key_file`."""
    port: int = Field(8000, ge=1024, le=65535)
    """From 1024: the service's user may not take a lower one."""
    api_key_file: AbsolutePath | None = None
    """File on the control machine that holds the API key."""
    tls_cert_file: AbsolutePath | None = None
    """File on the control machine with the server's certificate, those that lead to its authority behind it (PEM)."""
    tls_key_file: AbsolutePath | None = None
    """File on the control machine with the certificate's private key, not encrypted (PEM)."""
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^\s/@]+)$")], ...] = ()
    """Origins of web pages that may use the API (CORS): ``["https://chat.example.org"]``; none by default."""
    runtime: Literal["venv", "container"] = "venv"
    """Where the engine comes from: packages that bringup installs into a virtual environment, or an image that Podman runs."""
    container_image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = None
    """Image with the engine, with its registry and best by its digest: ``registry.example.org/vllm@sha256:…``. None: the engine's
    official one, from the registry that the host's registries.conf names."""
    nvidia_container_repository: NvidiaRepository | None = None
    """apt repository that has NVIDIA's container toolkit, used where the host has no CDI specification of its cards yet."""
    hub_token_file: AbsolutePath | None = None
    """File on the control machine with a token for Hugging Face; for models that need one."""
    calibration_file: AbsolutePath | None = None
    """File on the control machine with constants that `bringup calibrate` learnt; they come before the catalog's."""
    needs: Annotated[tuple[str, ...], AfterValidator(_needs)] = ()
    """What the server must be able to do: ``["context=131072", "concurrency=16@8K"]``; the plan finds the least harmful way."""
    acceptance: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Lines that replace the profile's: ``{"ttft_p50_ms": 300}``."""
    expect: Expectation | None = None
    """The cards that the host must have: ``{"gpu": "RTX 4090 D", "count": 1}``; looked at before anything is done, and again once
    the driver runs."""
    gpu_power_limit_w: int | None = Field(None, ge=1, le=5000)
    """Power limit of the card that serves, set at each boot; within what the card takes. None: left as it is."""
    gpu_clocks_mhz: Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]], AfterValidator(_clocks)] | None = (
        None
    )
    """Lowest and highest clock that the serving card is locked to: ``[210, 2520]``. None: left as they are."""
    cuda_toolkit: Literal["auto", "never", "always"] = "auto"
    """CUDA's compiler beside the engine, of the engine's CUDA version, never as the machine's default. ``auto``: only where kernels
    are compiled on the host (``attention-backend`` FLASHINFER)."""
    nvidia_state: Literal["present", "absent"] = "present"
    """``absent`` takes away the driver that bringup installed, with its repository, pins and holds (deploys/driver.py)."""
    nvidia_driver: Annotated[str, BeforeValidator(_branch), Field(pattern=r"^[0-9]{3}(\.[0-9]{1,3}){0,2}$")] | None = None
    """Branch (``580``) or exact version (``580.95.05``) of the driver. None: the least branch that the engine needs, and a working
    driver that is new enough is left alone."""
    nvidia_repository: NvidiaRepository | None = None
    """Where the driver's packages come from; None: the host's own package sources."""
    reboot: Literal["never", "if-needed", "always-ask"] = "if-needed"
    """Whether a host may be restarted once where its new driver needs it. ``always-ask`` stops there and asks for ``if-needed``.
    The control machine itself is never restarted."""
    boot_wait_s: int = Field(900, ge=30, le=7200)
    """How long a host that was restarted for its driver may take until it answers; servers test their memory for minutes."""
    apt_wait_s: int = Field(600, ge=0, le=7200)
    """How long the driver's step waits for another program that uses apt."""
    host_settings: Annotated[dict[str, Annotated[str, BeforeValidator(_word)]], AfterValidator(_host_settings)] = Field(
        default_factory=dict
    )
    """Settings of the host to set beyond those that the plan sets by itself, or to ``keep`` (bringup/host_settings.py)."""
    kernel_parameters: Annotated[tuple[str, ...], AfterValidator(_kernel_parameters)] = ()
    """Words to add to the kernel's command line (``iommu=pt``), by GRUB's configuration. They count from the next boot on, which is
    left to whoever runs the host."""
    tuning_state: Literal["present", "absent"] = "present"
    """``absent`` puts back what the host's settings were before bringup, now and for the next boot."""
    smoke: Literal["auto", "always", "never"] = "auto"
    """``auto`` runs the smoke benchmark unless this release already passed it on this host."""
    smoke_stages: Annotated[tuple[StageName, ...], Field(min_length=1)] = ("smoke",)
    """What the benchmark runs: ``smoke`` (the acceptance lines), ``quality`` (fixed questions), ``long``, ``ladder``, ``swap``,
    ``soak``."""
    smoke_timer: Literal["never", "hourly", "daily", "weekly"] = "never"
    """When systemd repeats the benchmark on the host, against whatever is served then."""
    pip_index_url: str | None = None
    """Package index for the engine; None is what the host's own pip is set to."""
    pip_extra_index_urls: tuple[str, ...] = ()
    pip_find_links: tuple[str, ...] = ()
    """Folders or pages with wheels, as the host sees them."""
    torch_backend: Annotated[str, Field(pattern=r"^(none|auto|cpu|cu[0-9]{3})$")] | None = None
    """Which of PyTorch's indexes uv uses for torch (``cpu``, ``cu130``…). None: the engine's, unless the host's pip has
    find-links of its own; ``none`` switches it off."""
    reports_dir: str = "reports"
    """Folder on the control machine for smoke records."""


def _number_problem(value: Any, spec: EngineSetting) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (spec.type == "float" and isinstance(value, float) and math.isfinite(value))):
        return f"must be {'a whole number' if spec.type == 'int' else 'a number'}"
    if spec.choices and value not in spec.choices:
        return f"allowed: {', '.join(map(str, spec.choices))}"
    least, most = (-math.inf if spec.least is None else spec.least), (math.inf if spec.most is None else spec.most)
    if not least <= value <= most:
        return f"must be from {least:g} to {most:g}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


def _json_problem(value: Any) -> str | None:
    try:
        content = json.loads(value) if isinstance(value, str) else json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        content = None
    return None if isinstance(content, dict) else "must be a mapping, or a JSON object as text"


def _value_problem(value: Any, spec: EngineSetting) -> str | None:
    """Say what a value must be; None where it is that."""
    match spec.type:
        case "choice":
            return None if value in spec.choices else f"allowed: {', '.join(map(str, spec.choices))}"
        case "bool":
            if not isinstance(value, bool):
                return "must be True or False"
            return f"must be {spec.only}: {spec.why}" if spec.only not in (None, value) else None
        case "str":
            return None if _is_text(value) else "must be text of one line"
        case "strings":
            texts = value if isinstance(value, list) else [value]
            return None if texts and all(map(_is_text, texts)) else "must be text of one line, or a list of such"
        case "json":
            return _json_problem(value)
        case "int" | "float":
            return _number_problem(value, spec)


def engine_settings_problems(overrides: Mapping[str, Any], engine: Engine) -> list[str]:
    """List what is wrong with overrides for one engine, a sentence each.

    Args:
        overrides: names with dashes (see `normalized_engine_settings`) to values.
        engine: the build of vLLM that they are for.
    """
    problems = []
    for name, value in overrides.items():
        flag = engine.flags.get(name)
        if name in engine.settings:
            if problem := _value_problem(value, engine.settings[name]):
                problems.append(f"engine_settings: {name} is {value!r}; {problem}")
        elif flag and flag.owner:
            problems.append(f"engine_settings: {name} belongs to the plan: set {flag.owner} instead")
        elif flag:
            problems.append(f"engine_settings: {name} is an option of vLLM that bringup does not let be overridden")
        else:
            problems.append(f"engine_settings: unknown option '{name}': {nearest(name, engine.settings)}")
    return problems


def _field_problem(error: Any) -> str:
    """One pydantic error in words: where, what is wrong, what was given."""
    kinds = {"hub", "control-folder", "host-folder"}
    where = ".".join(str(part) for part in error["loc"] if part not in kinds)
    given = error["input"]
    # an address may hold a password before its @
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) and "@" not in str(given) else ""
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _dashed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in overrides.items()}


def normalized_engine_settings(settings: Settings) -> dict[str, Any]:
    """Return the overrides as vLLM's YAML has them: with dashes in their names, and mappings as text of JSON."""
    return {
        name: json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
        for name, value in _dashed(settings.engine_settings).items()
    }


def problems_with(data: Mapping[str, Any], catalog: Catalog, also_known: Iterable[str] = (), to_deploy: bool = True) -> list[str]:
    """List everything that is wrong with one host's data, a sentence each; empty when it is sound.

    Args:
        data: the host's data, as the inventory merges it.
        catalog: names of profiles, models and engines.
        also_known: names that belong to somebody else (the connector's ``ssh_…``). Names that begin with ``_`` (pyinfra's
            global arguments) or ``x_`` (the user's own) are never complained of.
        to_deploy: whether a host will be changed; a plan alone needs no engine that can be installed, and no revision.
    """
    ours = set(Settings.model_fields)
    foreign = set(also_known)
    problems = [
        f"unknown setting '{name}': {nearest(name, ours)} (names of your own begin with x_)"
        for name in data
        if name not in ours and name not in foreign and not name.startswith(("_", "x_"))
    ]
    given = {name: value for name, value in data.items() if name in ours}
    wrong: set[str] = set()
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        problems += [_field_problem(item) for item in error.errors()]
        wrong = {str(item["loc"][0]) for item in error.errors()}
        settings = Settings.model_validate({name: value for name, value in given.items() if name not in wrong})
    expected = settings.expect.gpu if settings.expect else None
    for look_up in (
        lambda: catalog.profile(settings.profile),
        lambda: catalog.model(settings.model),
        lambda: catalog.gpus_named(expected) if expected is not None else None,
    ):
        try:
            look_up()
        except BringupError as error:
            problems.append(error.message)
    if isinstance(settings.model_source, ControlFolderSource):  # a folder says itself what it holds
        problems = [problem for problem in problems if not problem.startswith("unknown model ")]
    named = catalog.engines_named(settings.engine) if settings.engine is not None else ()
    if settings.engine is not None and not named:
        names = [engine.name for engine in catalog.engines if engine.installable]
        problems.append(f"unknown engine '{settings.engine}': {nearest(settings.engine, names)}")
    if to_deploy and named and not any(engine.installable for engine in named):
        newest = catalog.engine(None, named[0].device).name
        problems.append(f"engine: {named[0].name} is there to plan with, bringup does not install it: take {newest}")
    # with an unknown engine, the options of the first: those of all engines are much the same
    problems += engine_settings_problems(_dashed(settings.engine_settings), named[0] if named else catalog.engines[0])
    twice = [name for name in settings.engine_settings if "_" in name and name.replace("_", "-") in settings.engine_settings]
    problems += [f"engine_settings: {name} is given with dashes too: keep one of them" for name in twice]
    problems += [
        f"acceptance: unknown metric '{name}': {nearest(name, METRICS)}" for name in settings.acceptance if name not in METRICS
    ]
    exposed = not ipaddress.ip_address(settings.listen_address).is_loopback
    if exposed and settings.api_key_file is None and "api_key_file" not in wrong:
        problems.append(
            f"listen_address is {settings.listen_address}: anything but loopback needs api_key_file, and a proxy in front of it, "
            "since vLLM's API key does not guard /invocations, /tokenize and /metrics"
        )
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None) and not wrong & {"tls_cert_file", "tls_key_file"}:
        problems.append("tls_cert_file and tls_key_file belong together: set both of them or neither")
    if settings.container_image is not None and settings.runtime != "container":
        problems.append("container_image: it is for runtime 'container', and runtime is 'venv'")
    source = settings.model_source
    if settings.hub_token_file is not None and not (isinstance(source, HubSource) and source.hub == "huggingface"):
        problems.append("hub_token_file: it is for models from Hugging Face, and this one comes from somewhere else")
    if to_deploy and isinstance(source, HubSource) and source.revision is None:
        if source.hub == "modelscope":
            problems.append("model_source: name the revision; the catalog's revisions are those of Hugging Face")
        elif not problems and catalog.model(settings.model).revision is None:
            problems.append(f"model_source: name the revision; the catalog pins none for {settings.model}")
    return problems


def check_inventory(
    hosts: Mapping[str, Mapping[str, Any]], catalog: Catalog, also_known: Iterable[str] = ()
) -> dict[str, Settings]:
    """Validate the data of all hosts before any of them is touched.

    Returns:
        host name → its settings.

    Raises:
        BringupError: there is no host, or something is wrong; the message lists every problem of every host, problems that
            hosts share once.
    """
    if not hosts:
        raise BringupError("the inventory has no hosts: name at least one, see inventories/prod.py")
    foreign = tuple(also_known)
    hosts_of: dict[str, list[str]] = {}
    for name, data in hosts.items():
        for problem in problems_with(data, catalog, foreign):
            hosts_of.setdefault(problem, []).append(name)
    if hosts_of:
        lines = [f"  {', '.join(names[:5])}{' …' if len(names) > 5 else ''}: {text}" for text, names in hosts_of.items()]
        raise BringupError("the inventory cannot be used; nothing was changed on any host:\n" + "\n".join(lines))
    return {
        name: Settings.model_validate({key: value for key, value in data.items() if key in Settings.model_fields})
        for name, data in hosts.items()
    }
