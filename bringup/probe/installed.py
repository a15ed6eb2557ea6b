"""What an earlier run left on the host: engines, models, the release that is served, the newest smoke record."""

import json

from bringup.hardware import Frozen, GpuCheckRecord, ServedRelease, SmokeRecord
from bringup.probe.sections import key_values


def parse_markers(text: str) -> dict[str, str]:
    """Parse lines of ``name checksum``; lines of another form are ignored, since a marker half-written counts as none."""
    fields = (line.split() for line in text.splitlines())
    return {words[0]: words[1] for words in fields if len(words) == 2}


def parse_release(text: str) -> ServedRelease | None:
    """Parse the link's target, the checksum of what came up, and the release's plan.json; None where nothing was ever deployed."""
    link, _, rest = text.partition("\n")
    if not link.strip():
        return None
    content, _, plan = rest.partition("\n")
    try:
        decisions = {str(decision["key"]): decision["value"] for decision in json.loads(plan)["decisions"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        decisions = {}  # the release is repaired by the deploy; its decisions only serve to name what changes
    return ServedRelease(digest=link.strip().rstrip("/").rsplit("/", 1)[-1], content=content.strip(), decisions=decisions)


class ServiceState(Frozen):
    """The service, as systemd or bringup's own keeper has it."""

    active: str
    enabled: bool
    foreign: str | None
    systemd_version: int | None
    """Of systemd itself; None where it is not there."""


def parse_service(text: str) -> ServiceState:
    """Parse `systemctl show`: ActiveState, or ``absent`` where there is no such unit; whether it starts at boot; whose it is; and
    systemd's own version."""
    values = key_values(text)
    return ServiceState(
        active=values.get("ActiveState", "absent") if values.get("LoadState") == "loaded" else "absent",
        # Podman's generator makes a unit that starts at boot
        enabled=values.get("UnitFileState") in ("enabled", "generated"),
        foreign=values.get("Foreign"),
        systemd_version=int(version) if (version := values.get("SystemdVersion", "")).isdecimal() else None,
    )


def parse_home(text: str) -> str | None:
    """Parse a line of /etc/passwd: the user's home; None where there is no such user.

    Raises:
        ValueError: it is not such a line.
    """
    if not text.strip():
        return None
    fields = text.strip().splitlines()[0].split(":")
    if len(fields) != 7:
        raise ValueError(f"not a line of /etc/passwd: {text.splitlines()[0]!r}")
    return fields[5]


def parse_smoke(text: str) -> SmokeRecord | None:
    """Reduce the newest smoke record; None where there is none or it cannot be read (then it is run again)."""
    try:
        record = json.loads(text)
        return SmokeRecord(request=record["request"], outcome=record["outcome"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def parse_gpu_check(text: str) -> GpuCheckRecord | None:
    """Reduce the newest look at the cards; None where there is none or it cannot be read (then they are looked at again)."""
    try:
        record = json.loads(text)
        return GpuCheckRecord(request=record["request"], passed=record["passed"], driver_version=record["driver_version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
