"""Memory modules from SMBIOS: `dmidecode -t 17` (or more types) → `MemoryFacts`.

Firmware says where a module sits in whatever words its vendor likes. `_RULES` lists the spellings that tell the channel; where
none fits, the channels are inferred from the kind of machine or left unknown, and the facts say which of the two.
"""

import re
from collections import Counter

from bringup.hardware import MemoryFacts, MemoryModule

_BYTES_PER_CHANNEL = 8  # a channel, as users count them, is 64 bits wide; DDR5 splits it into two subchannels of 32


# (what it is, pattern over "bank | locator"); the groups together name the channel
_RULES: tuple[tuple[str, str], ...] = (
    ("socket, node and channel", r"\bP(\d+)_Node(\d+)_Channel(\d+)"),
    ("socket and channel", r"\bP(\d+)[ _]CH(?:ANNEL)?[ _]?([A-Z])\b"),
    # Intel's client platforms from Alder Lake on: each memory controller is one 64-bit channel; A and B behind it are its
    # subchannels or the vendor's own letters
    ("memory controller", r"\bController ?(\d+)"),
    ("socket and channel letter", r"\b(?:CPU|P|PROC|NODE)[ _]?(\d+)[-_ ]{0,2}(?:CH\w*[ _-]*)?DIMM[ _-]?([A-Z])\d"),
    ("channel", r"\bChannel[ _-]?([A-Z]|\d+)\b"),
    ("channel", r"\bChannel[ _-]?([A-Z])[-_ ]?DIMM"),
    ("socket and channel letter", r"\bDIMM_P(\d+)_([A-Z])\d"),
    ("channel letter", r"(?:\bDDR\d-|\bDIMM[ _-]?|\bXMM[ _-]?|\bSODIMM[ _-]?)([A-Z])\d?\b"),
)
_NOT_MAIN_MEMORY = ("flash", "rom", "eeprom", "non-volatile", "eprom")


def parse_memory(text: str) -> MemoryFacts:
    """Parse the output of dmidecode.

    Raises:
        ValueError: the text describes no memory device at all.
    """
    devices = [
        _fields(block) for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if re.search(r"^Memory Device$", block, re.M)
    ]
    if not devices:
        raise ValueError("dmidecode described no memory device (is it run as root?)")
    devices = [device for device in devices if not any(word in device.get("Type", "").lower() for word in _NOT_MAIN_MEMORY)]
    modules = tuple(module for device in devices if (module := _module(device)) is not None)
    sockets = len(re.findall(r"^\s*Status: Populated", text, re.M))
    channels, inferred, reason = _channels(modules, len(devices), sockets)
    configured = min((module.configured_mt_s for module in modules if module.configured_mt_s), default=None)
    widths = [(module.total_width_bits, module.data_width_bits) for module in modules]
    return MemoryFacts(
        modules=modules,
        empty_slots=len(devices) - len(modules),
        type=_commonest([module.type for module in modules]),
        rated_mt_s=min((module.rated_mt_s for module in modules if module.rated_mt_s), default=None),
        configured_mt_s=configured,
        channels=channels,
        channels_inferred=inferred,
        channels_reason=reason,
        total_gib=sum(module.size_mib for module in modules) / 1024,
        bandwidth_gb_s=channels * _BYTES_PER_CHANNEL * configured / 1000 if channels and configured else None,
        ecc=all(total > data for total, data in widths if total and data) if any(t and d for t, d in widths) else None,
    )


def _fields(block: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _number(text: str) -> int | None:
    """The whole number that a field begins with; None for Unknown, 0 and anything longer than a number of hardware is."""
    match = re.match(r"(\d{1,9})\b", text)
    return int(match[1]) or None if match else None


def _module(device: dict[str, str]) -> MemoryModule | None:
    match = re.fullmatch(r"(\d{1,9}) ?(kB|MB|GB|TB)", device.get("Size", ""))
    if match is None or int(match[1]) == 0:
        return None
    kind = device.get("Type", "")
    return MemoryModule(
        locator=device.get("Locator", ""),
        bank=device.get("Bank Locator", ""),
        size_mib=int(int(match[1]) * {"kB": 1 / 1024, "MB": 1, "GB": 1024, "TB": 1024 * 1024}[match[2]]),
        type=kind if re.match(r"(LP)?DDR", kind) else None,
        rated_mt_s=_number(device.get("Speed", "")),
        configured_mt_s=_number(device.get("Configured Memory Speed", device.get("Configured Clock Speed", ""))),
        data_width_bits=_number(device.get("Data Width", "")),
        total_width_bits=_number(device.get("Total Width", "")),
    )


def _commonest(values: list[str | None]) -> str | None:
    known = Counter(value for value in values if value)
    return known.most_common(1)[0][0] if known else None


def _channels(modules: tuple[MemoryModule, ...], slots: int, sockets: int) -> tuple[int | None, bool, str]:
    """Count populated channels; also whether they were inferred, and how."""
    if not modules:
        return None, False, "no module is populated"
    if all(module.type and module.type.startswith("LPDDR") for module in modules):
        bits = sum(module.data_width_bits or 0 for module in modules)
        return (
            (bits // 64, False, f"{bits} bits of soldered memory") if bits >= 64 else (None, False, "the firmware names no width")
        )
    for what, pattern in _RULES:
        keys = [re.search(pattern, f"{module.bank} | {module.locator}", re.I) for module in modules]
        if all(keys):
            places = {(module.bank, module.locator) for module in modules}
            if len(places) < len(modules):
                break  # two modules cannot sit in one slot: these names mean nothing
            return len({match.groups() for match in keys if match}), False, f"by {what} in the slots' names"
    if len(modules) == 1:
        return 1, False, "one module populates one channel"
    return _inferred(modules, slots, sockets)


def _inferred(modules: tuple[MemoryModule, ...], slots: int, sockets: int) -> tuple[int | None, bool, str]:
    if not any(module.type for module in modules):
        return None, False, "the firmware tells neither the channels nor the kind of memory, as in a virtual machine"
    dell = [re.fullmatch(r"([A-H])(\d{1,2})", module.locator) for module in modules]
    if all(dell):
        # Dell's servers: the letter is the socket; slots count through all channels first, then their second modules
        per_socket = slots // max(1, len({match[1] for match in dell if match}), sockets)
        width = per_socket // 2 if per_socket >= 16 else per_socket
        keys = {(match[1], (int(match[2]) - 1) % max(1, width)) for match in dell if match}
        return len(keys), True, "letter is the socket, number the channel, as in Dell's servers"
    nodes = [re.search(r"\bNODE (\d+)", module.bank, re.I) for module in modules]
    if all(nodes) and len({match[1] for match in nodes if match}) == len(modules):
        return len(modules), True, "each module hangs on a memory controller of its own"
    if sockets <= 1 and slots <= 4:
        return min(2, len(modules)), True, "a desktop with up to four slots has two channels, filled one after the other"
    return None, False, "the slots' names do not tell the channel, and this kind of machine may have any number"
