"""What every step is fed with: settings, facts and plan of one host."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from gevent import GreenletExit
from pyinfra import logger
from pyinfra.api import Host, Inventory
from pyinfra.api.connectors import get_all_connectors
from pyinfra.api.exceptions import InventoryError, PyinfraError

from bringup.catalog import Catalog, load_catalog
from bringup.catalog.calibration import Calibration
from bringup.catalog.config_json import model_from_folder
from bringup.errors import BringupError
from bringup.hardware import HostFacts
from bringup.model_folder import FolderManifest, read_folder
from bringup.openpgp import dearmored, fingerprints
from bringup.plan import Plan, make_plan
from bringup.plan.calibrate import read_calibrations, with_calibrations
from bringup.plan.gpu_check import expectation_blockers
from bringup.plan.preflight import driver_blockers, host_blockers, plan_blockers
from bringup.plan.service_manager import plan_service_manager
from bringup.settings import ControlFolderSource, HostFolderSource, HubSource, NvidiaRepository, Settings, check_inventory
from deploys.render import templates_checksum
from deploys.secrets import Tls, read_api_key, read_hub_token, read_tls
from facts.host import HostProbe


@dataclass(frozen=True)
class Context:
    """One host's settings, facts and plan; `plan` is None where the host is refused before one can be made."""

    catalog: Catalog
    settings: Settings
    facts: HostFacts
    plan: Plan | None
    manifest: FolderManifest | None
    """The files of a model that is copied from the control machine."""
    blockers: tuple[str, ...]
    """Why this host cannot be deployed to; the others go on."""
    api_key: str | None = field(repr=False)
    tls: Tls | None
    hub_token: str | None = field(repr=False)
    nvidia_key: bytes | None = field(repr=False)
    """Key of the driver's repository, without armour; its fingerprint was checked."""
    toolkit_key: bytes | None = field(repr=False)
    """Likewise of the container toolkit's."""

    @property
    def rights(self) -> dict[str, Any]:
        """Global arguments that give operations root's rights as far as the login user has them."""
        if self.facts.root_access == "none":
            # the user's own PATH lacks administrators' programs, and pyinfra would take them for missing
            return {"_env": {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
        return {"_sudo": self.facts.root_access == "sudo"}

    @contextmanager
    def as_far_as_possible(self) -> Iterator[None]:
        """Let a host that is refused anyway end here when the rest cannot even be planned on it: an exception would end the run
        of every host."""
        try:
            yield
        except PyinfraError as error:
            if not self.blockers:
                raise
            logger.warning(f"the rest cannot be shown for a host that is refused: {error}")


_PROBE_LIMIT_S = 180
"""A probe takes a second or two; one that waits for a dead card or disk must not hold up the other hosts for ever."""


@lru_cache(maxsize=1)
def _catalog() -> Catalog:
    return load_catalog()


@lru_cache(maxsize=1)
def _settings_of_all(inventory: Inventory) -> dict[str, Settings]:
    """Validate the whole inventory once, before anything is done to any of its hosts."""
    connectors = {name for connector in get_all_connectors().values() for name in get_type_hints(connector.data_cls)}
    try:
        settings_of = check_inventory({host.name: host.data.dict() for host in inventory}, _catalog(), connectors)
        for settings in settings_of.values():
            read_api_key(settings)
            read_tls(settings.tls_cert_file, settings.tls_key_file)
            read_hub_token(settings)
            _calibrations(settings.calibration_file)
            _read_key("nvidia_repository", settings.nvidia_repository)
            _read_key("nvidia_container_repository", settings.nvidia_container_repository)
    except BringupError as error:
        raise InventoryError(error.message) from None
    return settings_of


@lru_cache(maxsize=64)
def _calibrations(path: str | None) -> tuple[Calibration, ...]:
    """Read constants of one's own from their file on the control machine; empty where none is set.

    Raises:
        BringupError: it cannot be read or used.
    """
    return () if path is None else read_calibrations(Path(path))


@lru_cache(maxsize=64)
def _fingerprint(key: str) -> str:
    """Name a key without giving it away: slow to compute, so that a weak key cannot be guessed from it."""
    return hashlib.scrypt(key.encode(), salt=b"bringup", n=2**14, r=8, p=1).hex()[:12]


def _with_folder(catalog: Catalog, name: str, path: str) -> Catalog:
    """The catalog, with the model that the folder holds where it does not know the name.

    Raises:
        BringupError: the folder holds no model that can be planned for.
    """
    if name in catalog.model_names():
        return catalog
    return catalog.with_model(model_from_folder(Path(path)).model_copy(update={"id": name}))


def _read_key(setting: str, repository: NvidiaRepository | None) -> bytes | None:
    """Read the key of a repository and make sure that it is the one that was meant; None where no repository is set.

    Raises:
        BringupError: the file cannot be read, or holds another key or more than one.
    """
    if repository is None:
        return None
    where = f"{setting}.key_file {repository.key_file}"
    try:
        key = dearmored(Path(repository.key_file).read_bytes())
        found = fingerprints(key)
    except OSError as error:
        raise BringupError(f"{where} cannot be read on the control machine: {error}") from error
    except ValueError as error:
        raise BringupError(f"{where} is no public key: {error}") from error
    if found != (repository.fingerprint,):
        raise BringupError(
            f"{where} holds {' and '.join(found) or 'no key'}, but {setting}.fingerprint is {repository.fingerprint}: "
            "take the key that has it, alone in its file"
        )
    return key


def prepare(host: Host, inventory: Inventory, only: Literal["driver", "tuning"] | None = None) -> Context:
    """Validate the inventory, collect this host's facts, and plan.

    Args:
        host: this host.
        inventory: all of them.
        only: the one part that is deployed, so that what the rest of the plan needs does not stand in the way; the host's settings
            need not even a driver.

    Raises:
        InventoryError: something in the inventory is wrong; no host is touched.
        GreenletExit: this host could not be looked at; the others go on.
    """
    settings = _settings_of_all(inventory)[host.name]
    catalog = with_calibrations(_catalog(), _calibrations(settings.calibration_file))
    source = settings.model_source
    in_place = source.path if isinstance(source, HostFolderSource) else None
    facts = host.get_fact(HostProbe, model_folder=in_place, _timeout=_PROBE_LIMIT_S)
    if facts is None:
        # pyinfra has failed this host and said why, yet goes on with its deploy code; this ends it, for this host alone
        raise GreenletExit
    blockers = host_blockers(facts, int(time.time()), only == "driver")
    blockers += expectation_blockers(facts, settings, catalog)
    manifest = None
    revision: str | None
    plan = None
    api_key = nvidia_key = toolkit_key = tls = hub_token = None
    try:
        api_key, nvidia_key = read_api_key(settings), _read_key("nvidia_repository", settings.nvidia_repository)
        toolkit_key = _read_key("nvidia_container_repository", settings.nvidia_container_repository)
        tls, hub_token = read_tls(settings.tls_cert_file, settings.tls_key_file), read_hub_token(settings)
        if only is not None:
            if isinstance(source, ControlFolderSource):
                catalog = _with_folder(catalog, settings.model, source.path)
            revision = "not-deployed"
        elif isinstance(source, ControlFolderSource):
            if shutil.which("rsync") is None:
                blockers.append("rsync is missing on the control machine, which copies the model with it: apt-get install rsync")
            host.log(f"reading {source.path} for its checksums", logger.info)
            catalog = _with_folder(catalog, settings.model, source.path)
            manifest = read_folder(source.path)
            revision = manifest.fingerprint
        elif isinstance(source, HubSource):
            revision = None  # the plan knows which repository it takes
        else:
            revision = "in-place"
            if not facts.model_folder_holds_model:
                blockers.append(f"{source.path} on the host is no model's folder: it has no config.json")
        key_name, tls_name = (_fingerprint(api_key) if api_key else None), (tls.name if tls else None)
        templates = templates_checksum(settings.runtime == "container", plan_service_manager(facts)[0])
        plan = make_plan(facts, settings, catalog, revision, templates, key_name, tls_name)
        if only == "driver":
            blockers += driver_blockers(facts, plan)
        elif only is None:
            blockers += plan_blockers(facts, plan)
            if plan.driver is not None and plan.driver.state == "absent":
                blockers.append(
                    "nvidia_state is absent, and nothing can be served without the driver: deploys/driver.py removes it"
                )
    except BringupError as error:
        blockers.append(error.message)
    return Context(
        catalog=catalog,
        settings=settings,
        facts=facts,
        plan=plan,
        manifest=manifest,
        blockers=tuple(blockers),
        api_key=api_key,
        tls=tls,
        hub_token=hub_token,
        nvidia_key=nvidia_key,
        toolkit_key=toolkit_key,
    )
