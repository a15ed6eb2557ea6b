"""Switches the host to another release, and back when that one does not come up.

A release is a folder with plan.json, vllm.yaml, environment and vllm.service. Nothing of the running service is touched before
the new release passed the checks that can be made beside it: the engine's own argument parser, and the port.
"""

import json
import pwd
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.onhost.content import SERVED_FILES, content_checksum
from bringup.onhost.lock import lock
from bringup.onhost.say import say
from bringup.onhost.server import server_of
from bringup.onhost.systemd import SERVICE, main_pid, read, systemctl

RELEASES = Path("/opt/bringup/releases")
CURRENT = Path("/opt/bringup/current")
UNIT = Path("/etc/systemd/system/vllm.service")
SMOKE_RECORD = Path("/var/lib/bringup/smoke/latest.json")
SERVED = ".served"
"""Mark of a release that came up: the checksum of what its files said then."""
USER = "vllm"
KEPT_RELEASES = 5
CALIBRATION = "calibration.json"
"""Beside a release's plan: the KV cache that its last start logged, and that the plan said."""
LOG_DELAY_S = 10.0
"""How long the journal may take to hand out what a server logged before it answered; longer means that it was not logged."""

_KV_CACHE_SIZE = r"KV cache size: ([\d,]+) tokens"

# Runs inside the engine's own Python: parses the file as the server would and builds the engine's configuration from it.
_CHECK = """
import importlib, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
cli = importlib.import_module(sys.argv[1])
args = cli.make_arg_parser(FlexibleArgumentParser()).parse_args(["--config", sys.argv[2]])
cli.validate_parsed_serve_args(args)
AsyncEngineArgs.from_cli_args(args).create_engine_config()
"""


def service_log(since_unix_s: float, lines: int = 25) -> str:
    """Return the last lines that the service logged since a time (seconds since 1970)."""
    # not with --lines: together with --since it counts from the oldest line (systemd 252)
    command = ["journalctl", "-u", SERVICE, "--since", f"@{int(since_unix_s)}", "--no-pager", "-o", "cat"]
    log = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    return "\n".join(log.strip().splitlines()[-lines:])


def first_error(log: str) -> str:
    """Find the exception that came first in a log; empty when there is none.

    vLLM's other processes follow with exceptions that only point to it ("See root cause above").
    """
    found = re.findall(r"(?:^|[\])]\s+)((?:\w+\.)*\w*(?:Error|Exception): .+)$", log, re.MULTILINE)
    return next((text.strip() for text in found if not re.search("root cause|stack trace", text)), "")


def without_tracebacks(log: str) -> str:
    """Leave out the indented lines of tracebacks, which tell people nothing."""
    return "\n".join(line for line in log.splitlines() if line.strip() and not re.search(r"^\s|\]\s{2,}", line))


def last_words(text: str, lines: int = 3) -> str:
    """Reduce a program's error output to its last lines that are not blank."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


class Switch:
    """One switch to the release of a digest."""

    def __init__(self, digest: str, by: str | None = None) -> None:
        """Read the release's plan; `by` says for whom the switch is.

        Raises:
            BringupError: there is no such release on this host.
        """
        self.release = RELEASES / digest
        try:
            self.plan: dict[str, Any] = json.loads((self.release / "plan.json").read_text())
        except (OSError, ValueError) as error:
            raise BringupError(f"release {digest} is not on this host or its plan.json is damaged: {error}") from error
        self.by = by
        self.stopped_pid: str | None = None
        self.port = int(self.plan["vllm"]["port"])
        self.server = server_of(self.plan)

    @staticmethod
    def current() -> str | None:
        """Digest of the release that is served; None where there is none."""
        return CURRENT.readlink().name if CURRENT.is_symlink() else None

    def run(self) -> None:
        """Check, switch, wait for the first answer; put the previous release back if that fails.

        Raises:
            BringupError: the new release does not serve; the message says why and what is served now.
        """
        with lock(f"switching to release {self.release.name}", self.by):
            previous = self.current()
            was_active = systemctl("is-active", SERVICE) == "active"
            (self.release / SERVED).unlink(missing_ok=True)
            say("checking the configuration with the engine's own parser")
            self._check_configuration()
            self._check_port()
            started_s = time.time()
            try:
                self._activate()
                self._wait_until_up(started_s)
            except BringupError as error:
                log = service_log(started_s, 2000)
                cause = first_error(log)
                shown = "\n".join(without_tracebacks(log).splitlines()[-20:])
                outcome = self._put_back(previous if was_active else None)
                raise BringupError(
                    f"{error.message}{f': {cause}' if cause else ''}\n"
                    f"--- last lines of the service's log (all of it: journalctl -u {SERVICE}) ---\n{shown}\n---\n{outcome}"
                ) from error
            (self.release / SERVED).write_text(content_checksum((self.release / name).read_text() for name in SERVED_FILES) + "\n")
            SMOKE_RECORD.unlink(missing_ok=True)
            self._compare_kv_cache(started_s)
            self._prune(previous)
            say(f"release {self.release.name} is served at {self.server.url}")

    def _check_configuration(self) -> None:
        environment = dict(line.split("=", 1) for line in (self.release / "environment").read_text().splitlines() if "=" in line)
        user = pwd.getpwnam(USER)
        python = Path(self.plan["engine_dir"]) / "bin/python"
        done = subprocess.run(
            [str(python), "-c", _CHECK, self.plan["service"]["parser_module"], str(self.release / "vllm.yaml")],
            env=environment,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BringupError(
                f"vLLM refuses this configuration; nothing was changed on the running service:\n{last_words(done.stderr, 4)}"
            )

    def _check_port(self) -> None:
        """Refuse a port that somebody other than our own service listens on."""
        listeners = subprocess.run(
            ["ss", "-Hltnp", f"sport = :{self.port}"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if not listeners:
            return
        pids = re.findall(r"pid=(\d+)", listeners)
        ours = [pid for pid in pids if f"/{SERVICE}" in read(Path(f"/proc/{pid}/cgroup"))]
        if not pids or len(ours) < len(pids):
            names = re.findall(r'\("([^"]+)"', listeners)
            by = f"{', '.join(sorted(set(names)))} (pid {', '.join(pids)})" if pids else "a process that is not visible from here"
            raise BringupError(f"port {self.port} is taken by {by}; stop it or set another port; nothing was changed")

    def _activate(self) -> None:
        """Make this release the current one and restart the service."""
        release = self.release
        self.stopped_pid = main_pid()
        staged = UNIT.with_suffix(".service.new")
        shutil.copyfile(release / "vllm.service", staged)
        staged.replace(UNIT)
        link = CURRENT.with_name("current.new")
        link.unlink(missing_ok=True)
        link.symlink_to(f"releases/{release.name}")
        link.replace(CURRENT)
        systemctl("daemon-reload")
        systemctl("enable", "--quiet", SERVICE)
        systemctl("reset-failed", SERVICE)
        say(f"starting release {release.name}")
        systemctl("restart", "--no-block", SERVICE)

    def _wait_until_up(self, started_s: float) -> None:
        """Wait until the new process has answered a request, which is when systemd calls it up (bringup/onhost/ready.py)."""
        timeout_s = float(self.plan["service"]["start_timeout_s"])
        began = shown = time.monotonic()
        while time.monotonic() - began < timeout_s:
            properties = systemctl("show", SERVICE, "--property=ActiveState", "--property=NRestarts").splitlines()
            # the server before is up too, for as long as it stops
            if "ActiveState=active" in properties and main_pid() not in (None, self.stopped_pid) and self.server.is_healthy():
                return
            if "ActiveState=failed" in properties or "NRestarts=0" not in properties:
                raise BringupError(f"release {self.release.name} does not come up: the server ended while it started")
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                say(f"  {shown - began:.0f} s: {service_log(started_s, 1)[:110]}")
            time.sleep(0.5)
        raise BringupError(f"release {self.release.name} did not answer a request within {timeout_s:.0f} s")

    def _put_back(self, previous: str | None) -> str:
        """Serve the previous release again and say so; without one, stop and disable the service."""
        if previous is None:
            systemctl("disable", "--now", "--quiet", SERVICE)
            systemctl("reset-failed", SERVICE)
            CURRENT.unlink(missing_ok=True)
            return "nothing was served before, so the service was stopped"
        if previous == self.release.name:
            return "it is the release that was served before, so there is none to put back; correct the cause and run again"
        say(f"putting release {previous} back")
        began_s = time.time()
        try:
            before = Switch(previous)
            before._activate()
            before._wait_until_up(began_s)
        except BringupError as error:
            return f"and the previous release {previous} does not come up again: {error.message}\n{service_log(began_s)}"
        return f"release {previous}, which was served before, is served again"

    def _compare_kv_cache(self, started_s: float) -> None:
        """Say what vLLM logged as its KV cache beside what the plan said, and keep both; no reason to fail a deploy."""
        try:
            log = _log_with_kv_cache(started_s)
            sizes = re.findall(_KV_CACHE_SIZE, log)
            if not sizes:
                say("KV cache: vLLM's log does not say its size, so it is not compared with the plan's")
                return
            logged, planned = int(sizes[-1].replace(",", "")), int(self.plan["predicted"]["kv_cache_tokens"])
            difference = (logged - planned) / planned if planned else None
            off = "" if difference is None else f" ({difference:+.2%})" if difference else " (as planned)"
            say(f"KV cache: vLLM has {logged:,} tokens, the plan said {planned:,}{off}")
            versions = re.findall(r"Initializing a V1 LLM engine \(v([\w.+]+)\)", log)
            record = {
                "logged_tokens": logged,
                "planned_tokens": planned,
                "difference_percent": None if difference is None else round(100 * difference, 3),
                "engine_version": versions[-1] if versions else None,
                "time": datetime.fromtimestamp(started_s, UTC).isoformat(timespec="seconds"),
            }
            (self.release / CALIBRATION).write_text(json.dumps(record, indent=2) + "\n")
        except OSError as error:
            say(f"KV cache: it could not be compared with the plan's, or that not be kept: {error}")

    def _prune(self, previous: str | None) -> None:
        """Keep the newest releases, and always the one before."""
        releases = sorted(RELEASES.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in releases[KEPT_RELEASES:]:
            if old.name not in (self.release.name, previous):
                shutil.rmtree(old)


def _log_with_kv_cache(started_s: float) -> str:
    """Return all that the service logged since it was started, once the size of the KV cache is among it or must be given up.

    All of it: what a server logs after that line, such as its routes, has no limit.
    """
    deadline = time.monotonic() + LOG_DELAY_S
    while True:
        log = service_log(started_s, sys.maxsize)
        if re.search(_KV_CACHE_SIZE, log) or time.monotonic() > deadline:
            return log
        time.sleep(0.5)
