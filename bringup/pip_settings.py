"""The machine's own pip settings, and the same settings as uv and a pip.conf understand them."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bringup.errors import BringupError

_LINE = re.compile(r"^(?P<section>:env:|[\w-]+)\.(?P<key>[\w-]+)=(?P<value>.*)$")
_RISING_PRECEDENCE = ("global", "install", ":env:")  # pip: a command's section beats [global], a variable beats both


@dataclass(frozen=True)
class PipSettings:
    """Where pip finds packages and whom it trusts; what is not set is None or empty."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    constraint: tuple[str, ...] = ()
    cert: str | None = None
    proxy: str | None = None


def parse_pip_config(text: str) -> PipSettings:
    """Read the output of `pip config list`, in which a `PIP_*` variable wins over [install] and that over [global].

    Raises ValueError for a value that is not the quoted text that pip prints.
    """
    values: dict[str, dict[str, str]] = {section: {} for section in _RISING_PRECEDENCE}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match["section"] in values:
            try:
                values[match["section"]][match["key"]] = str(ast.literal_eval(match["value"]))
            except (SyntaxError, ValueError):
                raise ValueError(f"`pip config list` printed an unquoted value for {match['key']}") from None
    merged = {key: value for section in _RISING_PRECEDENCE for key, value in values[section].items()}

    def words(key: str) -> tuple[str, ...]:
        return tuple(merged.get(key, "").split())

    return PipSettings(
        index_url=merged.get("index-url"),
        extra_index_urls=words("extra-index-url"),
        find_links=words("find-links"),
        trusted_hosts=words("trusted-host"),
        constraint=words("constraint"),
        cert=merged.get("cert"),
        proxy=merged.get("proxy"),
    )


def machine_pip_settings() -> PipSettings:
    """The settings of this machine's pip (its files and `PIP_*` variables); empty where there is no pip at all."""
    for python in (sys.executable, "/usr/bin/python3"):
        command = [python, "-m", "pip", "config", "list"]
        try:
            listing = subprocess.run(command, capture_output=True, text=True, check=True)
            return parse_pip_config(listing.stdout)
        except (OSError, subprocess.CalledProcessError):
            continue
        except ValueError as error:
            raise BringupError(f"{error}: look at it with `{' '.join(command)}`.") from error
    return PipSettings()


def uv_environment(settings: PipSettings) -> dict[str, str]:
    """The environment with which uv finds and trusts what pip with these settings does."""
    variables = {
        "UV_INDEX_URL": settings.index_url,
        "UV_EXTRA_INDEX_URL": " ".join(settings.extra_index_urls),
        "UV_FIND_LINKS": ",".join(settings.find_links),
        "UV_INSECURE_HOST": " ".join(settings.trusted_hosts),
        "UV_CONSTRAINT": " ".join(settings.constraint),
        "SSL_CERT_FILE": settings.cert,
        "HTTP_PROXY": settings.proxy,
        "HTTPS_PROXY": settings.proxy,
        # pip trusts the system's certificates and takes the best version of all indexes; uv does neither unless told.
        "UV_SYSTEM_CERTS": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    return {name: value for name, value in variables.items() if value}


def pip_environment(settings: PipSettings) -> dict[str, str]:
    """The environment with which pip looks for packages where these settings say, whatever its own files say."""
    variables = {
        "PIP_INDEX_URL": settings.index_url,
        "PIP_EXTRA_INDEX_URL": " ".join(settings.extra_index_urls),
        "PIP_FIND_LINKS": " ".join(settings.find_links),
    }
    return {name: value for name, value in variables.items() if value}


def pip_conf(settings: PipSettings) -> str:
    """The settings as the text of a pip.conf; empty when nothing is set."""
    options = {
        "index-url": settings.index_url,
        "extra-index-url": " ".join(settings.extra_index_urls),
        "find-links": " ".join(settings.find_links),
        "trusted-host": " ".join(settings.trusted_hosts),
        "constraint": " ".join(settings.constraint),
        "cert": settings.cert,
        "proxy": settings.proxy,
    }
    lines = [f"{option} = {value}" for option, value in options.items() if value]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


def local_paths(settings: PipSettings) -> tuple[Path, ...]:
    """Every file and folder on this machine that the settings name, whether it exists or not."""
    urls = [settings.index_url or "", *settings.extra_index_urls]
    # The pages of an index in a folder `simple` (PEP 503) point at wheels that lie beside that folder.
    indexes = [path.parent if path.name == "simple" else path for path in map(_local_path, urls) if path]
    others = [*settings.find_links, *settings.constraint, settings.cert or ""]
    return tuple(dict.fromkeys([*indexes, *filter(None, map(_local_path, others))]))


def _local_path(location: str) -> Path | None:
    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return Path(location) if location.startswith("/") else None
