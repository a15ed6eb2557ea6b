"""Ends a server that runs and does not answer, so that it is started again (vllm-watch.service), and tells when it gave up.

vLLM does not tell systemd that it is alive (sd_notify), so that systemd's own watchdog cannot be used.
"""

import contextlib
import json
import os
import signal
from pathlib import Path
from time import monotonic, sleep

from bringup.onhost.confine import end_with_parent
from bringup.onhost.manager import Manager, service_manager
from bringup.onhost.say import say
from bringup.onhost.server import server_of
from bringup.onhost.systemd import SERVICE

PLAN = Path("/opt/bringup/current/plan.json")
MOTD = Path("/run/motd.d/50-bringup")
"""Shown by pam_motd to everybody who logs in."""
INTERVAL_S = 10.0
FAILURES = 6
"""In a row, with HEALTH_TIMEOUT_S a minute or two: no prompt should keep a server from its other work that long. Our judgement."""
STABLE_S = 600.0
"""After this long without a failure a server is sound, and what systemd counted of its starts is forgotten: it gives up for those
that follow one another, not for those of a whole day's work on a host. Our judgement."""
STACKS_S = 5.0
"""For the stacks of all threads to reach the log, before the server is killed."""


def watch(interval_s: float = INTERVAL_S, failures: int = FAILURES) -> None:
    """Ask the server for ever; one that systemd calls up and that fails `failures` times in a row is ended."""
    service = service_manager()
    if service.name == "supervisor":  # the next one starts a watch of its own
        end_with_parent(signal.SIGTERM)
    failed, sound_since_s = 0, monotonic()
    while True:
        # its manager minds a server that starts (TimeoutStartSec) or ends; one that somebody stopped is not ours to start
        if service.state() != "active":
            failed, sound_since_s = 0, monotonic()
        elif _is_healthy():
            failed = 0
            MOTD.unlink(missing_ok=True)
            if monotonic() - sound_since_s >= STABLE_S:
                service.forget_failures()
                sound_since_s = monotonic()
        else:
            sound_since_s = monotonic()
            failed += 1
            say(f"{SERVICE} does not answer ({failed} of {failures})")
            if failed >= failures:
                _end(service)
                failed = 0
        sleep(interval_s)


def _is_healthy() -> bool:
    try:
        return server_of(json.loads(PLAN.read_text())).is_healthy()
    except (OSError, ValueError, KeyError):
        return True  # a release that is just being put in place; what is not known is no reason to end a server


def _end(service: Manager) -> None:
    pid = service.server_pid()
    if pid is None:
        return
    _alert(3, f"{SERVICE} runs and does not answer: ending it, so that it is started again")
    with contextlib.suppress(ProcessLookupError):
        # Python's fault handler writes the stacks of all threads for this one (PYTHONFAULTHANDLER), as systemd's watchdog would ask
        os.kill(int(pid), signal.SIGABRT)
        limit = monotonic() + STACKS_S
        while monotonic() < limit and service.server_pid() == pid:
            sleep(0.2)
        if service.server_pid() == pid:  # a process that is stopped or stuck in the driver does not take it
            os.kill(int(pid), signal.SIGKILL)


def _alert(level: int, text: str) -> None:
    """Say it, to the journal with a level of syslog(3)."""
    say(f"<{level}>{text}" if "JOURNAL_STREAM" in os.environ else text)


def tell_gave_up() -> None:
    """Say in the log, at alert level, and to everybody who logs in that nothing is served (vllm-failed.service)."""
    service = service_manager()
    text = f"bringup: {SERVICE} has given up ({service.result()}); nothing is served here. Why: {service.log_command}"
    _alert(1, text)
    MOTD.parent.mkdir(parents=True, exist_ok=True)
    MOTD.write_text(f"\n{text}\n\n")
