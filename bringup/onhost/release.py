"""Switches the host to another release, and back when that one does not come up.

A release is a folder with plan.json, vllm.yaml, environment and what its service is made of (content.py). Nothing of the running
service is touched before the new release passed the checks that can be made beside it: the engine's own argument parser, and the
port.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.onhost.checks import check_configuration, check_folders, check_port
from bringup.onhost.container import record_image
from bringup.onhost.content import changed_decisions, content_checksum, decisions_of, served_files
from bringup.onhost.files import read, staged
from bringup.onhost.lock import lock
from bringup.onhost.log import first_error, without_tracebacks
from bringup.onhost.manager import service_manager
from bringup.onhost.say import say
from bringup.onhost.server import server_of

RELEASES = Path("/opt/bringup/releases")
CURRENT = Path("/opt/bringup/current")
SMOKE_RECORD = Path("/var/lib/bringup/smoke/latest.json")
TLS = Path("/etc/bringup/tls")
SMOKE_PYTHON = "/opt/bringup/tools/smoke/bin/python"
LIBRARY = "/opt/bringup/lib/bringup.zip"
SERVED = ".served"
"""Mark of a release that came up and passed its benchmark: the checksum of what its files said then."""
PREVIOUS = ".previous"
"""Mark of a release that is being switched to: the digest of the one that was served before. A run that is cut leaves it, so that
the next one still knows the way back."""
SMOKE_COPY = "smoke-record.json"
"""The benchmark's record of the last switch to this release."""
KEPT_RELEASES = 5
CALIBRATION = "calibration.json"
"""Beside a release's plan: the KV cache that its last start logged, and that the plan said."""
SMOKE_ACCEPTED, SMOKE_FAILED = (0, 4), 3
"""Exit codes of `bringup.smoke` (its run.py): passed, or could not settle every line, which is told and no reason to go back."""
LOG_DELAY_S = 10.0
"""How long the journal may take to hand out what a server logged before it answered; longer means that it was not logged."""

_KV_CACHE_SIZE = r"KV cache size: ([\d,]+) tokens"


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
        self.in_container = bool(self.plan.get("container"))
        self.service = service_manager(self.in_container)
        self.stopped_pid: str | None = None
        self.port = int(self.plan["vllm"]["port"])
        self.server = server_of(self.plan)

    @staticmethod
    def current() -> str | None:
        """Digest of the release that is served; None where there is none."""
        return CURRENT.readlink().name if CURRENT.is_symlink() else None

    def run(self, smoke: Path | None = None) -> None:
        """Check, switch, wait for the first answer, run the benchmark; put the previous release back if one of them fails.

        Args:
            smoke: the benchmark's request; None runs none.

        Raises:
            BringupError: the new release does not serve; the message says why and what is served now.
        """
        with lock(f"switching to release {self.release.name}", self.by):
            for mark in (SERVED, SMOKE_COPY):
                (self.release / mark).unlink(missing_ok=True)
            previous = self._previous()
            if self.in_container:
                record_image(self.release, self.plan)
            say("checking the configuration with the engine's own parser")
            check_configuration(self.release, self.plan)
            check_folders()
            check_port(self.port, self.service)
            self._start(previous)
            if smoke is not None:
                self._prove(smoke, previous)
            self._mark_served()
            self._prune(previous)
            say(f"release {self.release.name} is served at {self.server.url}")

    def _previous(self) -> str | None:
        """Digest of the release to put back if this one fails: this one where it is only repaired, None where nothing is served."""
        current, mark = self.current(), self.release / PREVIOUS
        if current == self.release.name and mark.exists():
            return mark.read_text().strip()  # an earlier run was cut in the middle of this very switch
        # one that came up is worth going back to, also where it does not run at this moment: a run that was cut while it went back
        came_up = current is not None and (RELEASES / current / SERVED).exists()
        return current if came_up or self.service.state() == "active" else None

    def _start(self, previous: str | None) -> None:
        """Put this release in place and wait until it answers.

        Raises:
            BringupError: it does not; the previous one is back.
        """
        started_s = time.time()
        try:
            if previous not in (None, self.release.name):
                (self.release / PREVIOUS).write_text(f"{previous}\n")
            self._stage()
        except OSError as error:
            why = f"release {self.release.name} cannot be put in place: {error}"
            raise BringupError(f"{why}; nothing was changed on the running service") from error
        try:
            self._activate()
            self._wait_until_up(started_s)
        except (BringupError, OSError) as error:
            log = self.service.log(started_s, 2000)
            cause = first_error(log)
            shown = "\n".join(without_tracebacks(log).splitlines()[-20:])
            outcome = self._put_back(previous)
            raise BringupError(
                f"{error}{f': {cause}' if cause else ''}\n"
                f"--- last lines of the service's log (all of it: {self.service.log_command}) ---\n{shown}\n---\n{outcome}"
            ) from error
        SMOKE_RECORD.unlink(missing_ok=True)
        self._compare_kv_cache(started_s)

    def _prove(self, request: Path, previous: str | None) -> None:
        """Run the benchmark on the release that is up.

        Raises:
            BringupError: it missed a line or could not be run; the previous one is back, where there is another.
        """
        command = [SMOKE_PYTHON, "-m", "bringup.smoke", str(request), "--record-dir", str(SMOKE_RECORD.parent)]
        environment = {**os.environ, "PYTHONPATH": LIBRARY}
        # passed on line by line: a reader that went away must not make the benchmark fail
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                say(line.rstrip("\n"))
        if SMOKE_RECORD.exists():
            shutil.copyfile(SMOKE_RECORD, self.release / SMOKE_COPY)
        if process.returncode in SMOKE_ACCEPTED:
            return
        failed = process.returncode == SMOKE_FAILED
        what = f"release {self.release.name} came up, but "
        what += "it failed its benchmark, see the report" if failed else "its benchmark could not be run"
        if previous in (None, self.release.name):
            self._mark_served()
            raise BringupError(f"{what}; it is served all the same, since there is no other release to put back")
        raise BringupError(f"{what}\n{self._put_back(previous)}")

    def _mark_served(self) -> None:
        """Note that this release came up and stays."""
        names = served_files(self.in_container, self.service.name)
        (self.release / SERVED).write_text(content_checksum((self.release / name).read_text() for name in names) + "\n")
        (self.release / PREVIOUS).unlink(missing_ok=True)

    def _stage(self) -> None:
        """Write what is put in place next, so that a full disk shows itself before anything is changed."""
        self.service.stage(self.release)
        staged(CURRENT).unlink(missing_ok=True)
        staged(CURRENT).symlink_to(f"releases/{self.release.name}")

    def _activate(self) -> None:
        """Make this release, which is staged, the current one and restart the service."""
        self.stopped_pid = self.service.main_pid()
        self.service.place()
        staged(CURRENT).replace(CURRENT)
        say(f"starting release {self.release.name}")
        self.service.restart()

    def _wait_until_up(self, started_s: float) -> None:
        """Wait until the new process has answered a request, which is when it counts as up (bringup/onhost/ready.py)."""
        timeout_s = float(self.plan["service"]["start_timeout_s"])
        began = shown = time.monotonic()
        while time.monotonic() - began < timeout_s:
            state = self.service.state()
            # the server before is up too, for as long as it stops
            if state == "active" and self.service.main_pid() not in (None, self.stopped_pid) and self.server.is_healthy():
                return
            if state == "failed" or self.service.restarts():
                raise BringupError(f"release {self.release.name} does not come up: the server ended while it started")
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                say(f"  {shown - began:.0f} s: {self.service.log(started_s, 1)[:110]}")
            time.sleep(0.5)
        raise BringupError(f"release {self.release.name} did not answer a request within {timeout_s:.0f} s")

    def _put_back(self, previous: str | None) -> str:
        """Serve the previous release again and say so; without one, stop and disable the service."""
        if previous is None:
            self.service.stop()
            CURRENT.unlink(missing_ok=True)
            return "nothing was served before, so the service was stopped"
        if previous == self.release.name:
            return "it is the release that was served before, so there is none to put back; correct the cause and run again"
        say(f"putting release {previous} back")
        began_s = time.time()
        try:
            before = Switch(previous)
            before._stage()
            before._activate()
            before._wait_until_up(began_s)
        except (BringupError, OSError) as error:
            return f"and the previous release {previous} does not come up again: {error}\n{self.service.log(began_s)}"
        (self.release / PREVIOUS).unlink(missing_ok=True)
        differs = "; ".join(changed_decisions(decisions_of(self.plan), decisions_of(before.plan)))
        return f"release {previous}, which was served before, is served again; the other one differs in: {differs or 'its files'}"

    def _compare_kv_cache(self, started_s: float) -> None:
        """Say what vLLM logged as its KV cache beside what the plan said, and keep both; no reason to fail a deploy."""
        try:
            log = self._log_with_kv_cache(started_s)
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

    def _log_with_kv_cache(self, started_s: float) -> str:
        """Return all that the service logged since it was started, once the size of the KV cache is among it or must be given up.

        All of it: what a server logs after that line, such as its routes, has no limit.
        """
        deadline = time.monotonic() + LOG_DELAY_S
        while True:
            log = self.service.log(started_s, sys.maxsize)
            if re.search(_KV_CACHE_SIZE, log) or time.monotonic() > deadline:
                return log
            time.sleep(0.5)

    def _prune(self, previous: str | None) -> None:
        """Keep the newest releases, always the one before, and the certificates that they are served with."""
        releases = sorted(RELEASES.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in releases[KEPT_RELEASES:]:
            if old.name not in (self.release.name, previous):
                shutil.rmtree(old)
        plans = "".join(read(path) for path in RELEASES.glob("*/plan.json"))
        for folder in TLS.glob("*"):
            if str(folder) not in plans:
                shutil.rmtree(folder)
