"""Builds virtual environments on the host from pinned lists: engines, and the small one of the smoke benchmark."""

import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bringup.errors import BringupError
from bringup.onhost.lock import lock
from bringup.onhost.manager import main_process_command, service_manager
from bringup.onhost.say import say
from bringup.pip_settings import PipSettings, parse_pip_config, pip_environment, uv_environment

UV_VERSION = "0.13.9"
UV_DIR = Path("/opt/bringup/tools/uv")
UV_CACHE_DIR = Path("/opt/bringup/tools/uv-cache")
_ROOTS_UV_CACHE = Path("/root/.cache/uv")
MARKER = ".bringup-built"


def build(request_file: Path, by: str | None = None) -> None:
    """Build one environment, unless it is there and whole; a half-built one is removed first.

    The request is a JSON file rather than options, since the address of a package index may hold a password. It holds:
    ``target``, folder of the environment; ``requirements``, file that pins every package; ``checksum``, written into the
    marker when the environment is whole; ``index_url``, ``extra_index_urls`` and ``find_links``, which go before the host's
    own pip settings; ``torch_backend``, which of PyTorch's indexes uv uses for torch, or null; unless
    ``torch_backend_is_set`` by the user, find-links go before it. `by` says for whom it is built.

    Raises:
        BringupError: the environment cannot be built; nothing is left of it.
    """
    request = json.loads(request_file.read_text())
    target, requirements, checksum = Path(request["target"]), Path(request["requirements"]), request["checksum"]
    torch_backend = request["torch_backend"]
    index = PipSettings(
        index_url=request["index_url"],
        extra_index_urls=tuple(request["extra_index_urls"]),
        find_links=tuple(request["find_links"]),
    )
    if _read(target / MARKER) == checksum:
        say(f"{target} is built already")
        return
    with lock(f"building {target.name}", by):
        if _read(target / MARKER) == checksum:  # by a run whose connection was cut, and which went on
            return
        _refuse_served(target)
        _build(target, requirements, checksum, index, torch_backend, bool(request["torch_backend_is_set"]))


def _refuse_served(target: Path) -> None:
    """An engine that serves is not taken away from under its service."""
    if target.exists() and f"{target}/" in main_process_command(service_manager()):
        raise BringupError(f"{target} serves at this moment but is not as it was built; stop vllm.service to have it built again")


def _build(
    target: Path, requirements: Path, checksum: str, index: PipSettings, torch_backend: str | None, backend_is_set: bool
) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run(["python3", "-m", "venv", str(target)], {}, "the virtual environment cannot be made (is python3-venv installed?)")
        settings = _merge(_host_pip_settings(target), index)
        uv = _uv(settings)
        if uv is not None:
            by_index = torch_backend is not None and (backend_is_set or not settings.find_links)
            options = ["--torch-backend", str(torch_backend)] if by_index else []
            command = [str(uv), "pip", "install", "--python", str(target / "bin/python"), "--compile-bytecode", *options]
            environment = uv_environment(replace(settings, constraint=()))
            if not _ROOTS_UV_CACHE.is_dir():
                # gigabytes that nobody needs again; kept until the environment is whole, so that a repeated run resumes
                environment["UV_CACHE_DIR"] = str(UV_CACHE_DIR)
        else:
            command = [str(target / "bin/python"), "-m", "pip", "install", "--progress-bar", "off"]
            environment = pip_environment(settings)
            if torch_backend is not None and not settings.find_links and not settings.extra_index_urls:
                say("pip does not know PyTorch's own indexes: if torch is not found, name one in pip_extra_index_urls")
        say(f"installing {_count(requirements)} packages into {target}")
        _run([*command, "--no-deps", "-r", str(requirements)], environment, f"{target.name} cannot be installed")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    (target / MARKER).write_text(checksum + "\n")
    shutil.rmtree(UV_CACHE_DIR, ignore_errors=True)
    say(f"{target} is built")


def _uv(settings: PipSettings) -> Path | None:
    """Return uv, installed on first use; None where it cannot be installed, since pip does the same more slowly."""
    uv = UV_DIR / "bin/uv"
    if uv.exists():
        return uv
    try:
        _run(["python3", "-m", "venv", str(UV_DIR)], {}, "uv's environment cannot be made")
        python = str(UV_DIR / "bin/python")
        command = [python, "-m", "pip", "install", "-qq", f"uv=={UV_VERSION}"]
        _run(command, pip_environment(settings), "uv cannot be installed")
    except BringupError as error:
        shutil.rmtree(UV_DIR, ignore_errors=True)
        say(f"going on with pip, which is slower: {error.message}")
        return None
    return uv


def _host_pip_settings(environment_dir: Path) -> PipSettings:
    """The host's own pip settings, as pip itself reports them."""
    command = [str(environment_dir / "bin/python"), "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    try:
        return parse_pip_config(listing)
    except ValueError as error:
        raise BringupError(f"the host's pip settings cannot be read: {error}; look at `pip config list` there") from error


def _merge(own: PipSettings, index: PipSettings) -> PipSettings:
    """The inventory's package sources where it names them, else the host's."""
    return replace(
        own,
        index_url=index.index_url or own.index_url,
        extra_index_urls=index.extra_index_urls or own.extra_index_urls,
        find_links=index.find_links or own.find_links,
    )


def _count(requirements: Path) -> int:
    return sum(1 for line in requirements.read_text().splitlines() if line.strip() and not line.startswith("#"))


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _run(command: list[str], environment: Mapping[str, str], failure: str) -> None:
    """Run a program, pass its lines on as they come, and say what failed with its last lines."""
    tail: deque[str] = deque(maxlen=8)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    ) as process:
        if process.stdout is not None:
            for line in process.stdout:
                if line.strip():
                    tail.append(line.rstrip())
                # the list of 150 installed packages tells nobody anything
                if not line.startswith((" + ", "   ")):
                    say(f"  {line.strip()}")
    if process.returncode:
        raise BringupError(f"{failure}:\n" + "\n".join(tail))
