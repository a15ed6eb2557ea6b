"""What errors of the cards in the kernel log mean for the service."""

from collections.abc import Iterator

from bringup.onhost.gpu.judgement import Check, Level, Wanted
from bringup.onhost.gpu.model import Readings
from bringup.onhost.gpu.xid import CATALOG, XidEvent, meaning_of, parse_xids


def check_xids(readings: Readings, wanted: Wanted) -> Iterator[Check]:
    """Judge this boot's errors; what came while the card was put to work is graver than what came before and is over."""
    if readings.log_error is not None:
        text = f"the kernel log cannot be read here, so that errors of the cards (Xid) would not be seen: {readings.log_error}"
        yield Check("note", "xid-unknown", text)
        return
    before, after = parse_xids(readings.log_before), parse_xids(readings.log_after)
    old = {event.line for event in before}
    events: dict[tuple[int, str], list[XidEvent]] = {}
    for event in after:
        events.setdefault((event.number, event.card), []).append(event)
    for (number, card), group in events.items():
        new = [event for event in group if event.line not in old]
        yield _xid(readings, wanted, number, card, group, bool(new))
    if not events:
        yield Check("ok", "xid", "no error of a card (Xid) in this boot's kernel log")


def _xid(readings: Readings, wanted: Wanted, number: int, card: str, group: list[XidEvent], is_new: bool) -> Check:
    meaning = meaning_of(number)
    newest = group[-1]
    matters = wanted.serving is None or newest.is_of(wanted.serving)
    works = readings.exercise is not None and readings.exercise.stage == "done"
    times = "" if len(group) == 1 else f" ({len(group)} times since boot)"
    said = f": {newest.text[:160]}" if number == 154 else ""
    text = f"Xid {number} of the card at {card}{times}: {meaning.what}{said}"
    if is_new:
        level: Level = "problem" if matters else "warning"
        return Check(level, "xid", f"{text}; it came while the card was put to work: {meaning.fix}")
    if meaning.kind == "note":
        return Check("note", "xid", f"{text}: {meaning.fix}")
    grave = meaning.kind in ("reset", "reboot", "power")
    if grave and matters and not works:
        return Check("problem", "xid", f"{text}: {meaning.fix}")
    since = "; the card works now" if grave and works and matters else ""
    return Check(
        "warning", "xid", f"{text}{since}: {meaning.fix} ({CATALOG})" if meaning.kind != "unknown" else f"{text}: {meaning.fix}"
    )
