"""The machine's own apt settings: where a host's packages come from, and how to get there."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from bringup.errors import BringupError
from bringup.lab.commands import run

_FORMAT = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"
_SETTING = re.compile(r'^(?P<name>Acquire::[\w:.-]+) "(?P<value>.*)";$')
# How the mirrors are reached and how fresh they must be. Left out is what this machine alone can use:
# compression and index choices, scripts that look for a proxy.
_KEPT = re.compile(r"^Acquire::((http|https|ftp)(::.*)?|Retries|Check-Valid-Until|Check-Date)$", re.IGNORECASE)
_DROPPED = re.compile(r"proxy-auto-detect", re.IGNORECASE)
_KEYS = ("keyrings/*", "trusted.gpg*", "auth.conf*")
_COPIED = ("sources.list", "sources.list.d/*.list", "sources.list.d/*.sources", *_KEYS)


class IndexTarget(NamedTuple):
    """One package index that apt has on this machine."""

    uri: str
    release: str
    component: str
    origin: str


class Repository(NamedTuple):
    """What debootstrap installs from."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_index_targets(text: str) -> tuple[IndexTarget, ...]:
    """Read `apt-get indextargets` in this module's format."""
    return tuple(IndexTarget(*line.split("|", 3)) for line in text.splitlines() if line.count("|") == 3)


def choose_repository(targets: tuple[IndexTarget, ...], codename: str, distribution: str) -> Repository:
    """The distribution's own repository of the release `codename`, not a third party's of the same name.

    `distribution` is ID of /etc/os-release. Raises BringupError if apt knows none.
    """
    own = [target for target in targets if target.release == codename and target.origin.lower() == distribution]
    if not own:
        raise BringupError(
            f"apt has no package lists of {distribution} {codename} on this machine; run `apt-get update`, "
            "and if that does not help, look at /etc/apt/sources.list and sources.list.d."
        )
    uri = own[0].uri
    return Repository(uri, codename, tuple(dict.fromkeys(target.component for target in own if target.uri == uri)))


def sources_of(targets: tuple[IndexTarget, ...], codename: str, distribution: str, release: str) -> str:
    """sources.list of a host of another release: the distribution's own suites, and no third party's, which may not have it.

    `codename` is this machine's own release, `release` the host's.
    """
    components: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        if target.origin.lower() == distribution and target.release.split("-")[0] == codename:
            suite = target.release.replace(codename, release, 1)
            components.setdefault((target.uri, suite), []).append(target.component)
    return "".join(f"deb {uri} {suite} {' '.join(dict.fromkeys(names))}\n" for (uri, suite), names in components.items())


def host_settings(dump: str) -> dict[str, str]:
    """The settings in the output of `apt-config dump` that a host needs to reach the same mirrors, name to value."""
    settings = (match for match in map(_SETTING.match, dump.splitlines()) if match and match["value"])
    return {m["name"]: m["value"] for m in settings if _KEPT.match(m["name"]) and not _DROPPED.search(m["name"])}


def machine_index_targets() -> tuple[IndexTarget, ...]:
    """The package indexes of this machine's apt."""
    command = ("apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages")
    return parse_index_targets(run(*command, failure="apt-get could not list this machine's package sources:"))


def machine_apt_settings() -> dict[str, str]:
    """What of this machine's apt settings a host needs."""
    return host_settings(run("apt-config", "dump", failure="apt-config could not show this machine's settings:"))


def local_paths(targets: tuple[IndexTarget, ...], settings: dict[str, str]) -> tuple[Path, ...]:
    """Folders on this machine that hold repositories, and files (certificates) that the settings name."""
    repositories = [unquote(urlsplit(t.uri).path) for t in targets if t.uri.startswith(("file:", "copy:"))]
    files = [value for value in settings.values() if value.startswith("/")]
    return tuple(Path(path) for path in dict.fromkeys([*repositories, *files]))


def proxy_environment(settings: dict[str, str]) -> dict[str, str]:
    """apt's proxies as variables, for debootstrap, which does not read apt's settings."""
    lowered = {name.lower(): value for name, value in settings.items()}
    proxies = {f"{scheme}_proxy": lowered.get(f"acquire::{scheme}::proxy", "") for scheme in ("http", "https")}
    return {name: value for name, value in proxies.items() if value not in ("", "DIRECT")}


def copy_configuration(root: Path, settings: dict[str, str], sources: str | None = None) -> None:
    """Give the host at `root` this machine's package sources (or `sources`), keyrings and credentials, and these settings."""
    (root / "etc/apt/sources.list").unlink(missing_ok=True)  # debootstrap's
    patterns = _COPIED if sources is None else _KEYS
    found = [path for pattern in patterns for path in Path("/etc/apt").glob(pattern)]
    for path in [*found, *Path("/usr/share/keyrings").glob("*")]:
        copy = root / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        else:
            shutil.copy2(path, copy)
    if sources is not None:
        (root / "etc/apt/sources.list").write_text(sources)
    text = "".join(f'{name} "{value}";\n' for name, value in settings.items())
    (root / "etc/apt/apt.conf.d/90machine").write_text(text)
