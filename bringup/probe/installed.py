"""What an earlier run left on the host: engines, models, the release that is served, the newest smoke record."""

import json

from bringup.hardware import ServedRelease, SmokeRecord
from bringup.probe.sections import key_values


def parse_markers(text: str) -> dict[str, str]:
    """Parse lines of ``name checksum``; lines of another form are ignored, since a marker half-written counts as none."""
    fields = (line.split() for line in text.splitlines())
    return {words[0]: words[1] for words in fields if len(words) == 2}


def parse_release(text: str) -> ServedRelease | None:
    """Parse the link's target and, below it, the release's plan.json; None where nothing was ever deployed."""
    link, _, plan = text.partition("\n")
    if not link.strip():
        return None
    digest = link.strip().rstrip("/").rsplit("/", 1)[-1]
    try:
        decisions = {decision["key"]: decision["value"] for decision in json.loads(plan)["decisions"]}
        return ServedRelease(digest=digest, decisions=decisions)
    except (ValueError, KeyError, TypeError):
        # the release is repaired by the deploy; the digest alone decides nothing
        return ServedRelease(digest=digest, decisions={})


def parse_service(text: str) -> tuple[str, bool]:
    """Parse `systemctl show`: ActiveState, or ``absent`` where there is no such unit; and whether it starts at boot."""
    values = key_values(text)
    state = values.get("ActiveState", "absent") if values.get("LoadState") == "loaded" else "absent"
    return state, values.get("UnitFileState") == "enabled"


def parse_smoke(text: str) -> SmokeRecord | None:
    """Reduce the newest smoke record; None where there is none or it cannot be read (then it is run again)."""
    try:
        record = json.loads(text)
        return SmokeRecord(release=record["request"]["release"], passed=record["passed"])
    except (ValueError, KeyError, TypeError):
        return None
