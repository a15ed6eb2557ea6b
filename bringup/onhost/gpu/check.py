"""Looks at the machine's cards, says what was found and keeps it: `bringup-host gpu-check`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.onhost.files import staged
from bringup.onhost.gpu.collect import collect
from bringup.onhost.gpu.judgement import Check, Wanted
from bringup.onhost.gpu.rules import judge
from bringup.onhost.say import say


def gpu_check(request: Mapping[str, Any], record: Path | None, as_json: bool = False) -> None:
    """Read, judge, print.

    Args:
        request: ``python`` (the engine's), ``user`` (whom it runs as), ``environment`` (the service's variables), and what
            `Wanted.from_json` takes; every part may be missing.
        record: file that keeps the result, for the next run to see.
        as_json: print the result as JSON too, after the words.

    Raises:
        BringupError: something must be mended before anything can be served.
    """
    readings = collect(request.get("python"), request.get("user"), request.get("environment") or {})
    checks = judge(readings, Wanted.from_json(request))
    for check in checks:
        say(f"{check.level:8}{check.text}")
    result = result_of(request, checks, readings.module_version)
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        staged(record).write_text(json.dumps(result, indent=2) + "\n")
        staged(record).replace(record)
    if as_json:
        say(json.dumps(result | {"readings": readings.to_json()}, indent=2))
    problems = [check for check in checks if check.level == "problem"]
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise BringupError(f"the card cannot serve yet, {count}:\n" + "\n".join(f"  {check.text}" for check in problems))


def result_of(request: Mapping[str, Any], checks: tuple[Check, ...], driver_version: str | None) -> dict[str, Any]:
    """What is kept of a check."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": not any(check.level == "problem" for check in checks),
        "driver_version": driver_version,
        "request": dict(request),
        "checks": [asdict(check) for check in checks],
    }


def read_request(path: Path) -> dict[str, Any]:
    """Read a request's file.

    Raises:
        BringupError: it is not there or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BringupError(f"the request {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BringupError(f"the request {path} must hold a JSON object")
    return content
