"""Memory modules from SMBIOS: `dmidecode -t 17` (or more types) → `MemoryFacts`.

Firmware says where a module sits in whatever words its vendor likes. `_RULES` lists the spellings that tell the channel; where
none fits, the channels are inferred from how such slots are wired, or left unknown, and the facts say which of the two.
"""

import re
from collections import Counter
from typing import NamedTuple

from bringup.hardware import MemoryFacts, MemoryModule

_CHANNEL_BITS = 64  # a channel, as users count them; DDR5 splits it into two subchannels of 32, LPDDR5 into four of 16

# (what it is, pattern over "bank | locator"); its groups, and every processor, node or controller named beside it, name the channel
_PART_OF = r"(?<![A-Z])(?:CPU|PROC|SOCKET|NODE|P|CONTROLLER)[ _-]?(\d{1,3})"
_CONTROLLER = r"Controller ?(\d+)"
_RULES: tuple[tuple[str, str], ...] = (
    # Intel's client platforms with DDR5: each memory controller is one 64-bit channel; the letter behind it is its subchannel or
    # the vendor's own. With DDR4 the letter counts too, so there this rule comes last.
    ("memory controller", _CONTROLLER),
    ("channel", r"(?<![A-Z])CH(?:AN(?:NEL)?)?[ _-]{0,2}(?:(\d{1,2})|([A-Z])(?=DIMM|[^A-Z]|$))"),  # P0 CHANNEL A, ChannelA-DIMM0
    ("channel", r"(?<![A-Z])C(\d{1,2})_?D\d"),  # CPU0_C1D0
    ("channel letter", r"(?:DIMM|DDR\d|XMM)[ _-]?(?:P\d_)?([A-Z])\d{0,2}(?![A-Z0-9])"),  # DIMM_A1, DDR5-B2, DIMM_P0_C0
)
_NOT_MAIN_MEMORY = ("flash", "rom", "eeprom", "non-volatile", "eprom")
_BEFORE_DDR5 = re.compile(r"(LP)?DDR[234]?\b")

# DDR5 platforms: slots of one processor → channels behind them. Desktops and entry servers have two, Xeon and EPYC 8 and 12
# (vendors' guides of the Xeon Scalable 4/5, EPYC 9004 and Xeon W generations); a workstation's 8 slots are 4 channels or 8.
_DDR5_CHANNELS = {4: (2,), 8: (4, 8), 12: (12,), 16: (8,), 24: (12,)}


class _Slot(NamedTuple):
    bank: str
    locator: str
    module: MemoryModule | None

    @property
    def name(self) -> str:
        return f"{self.bank} | {self.locator}"


_Answer = tuple[int | None, bool, str]
"""Populated channels, whether they were inferred, and how or why not."""


def parse_memory(text: str) -> MemoryFacts:
    """Parse the output of dmidecode.

    Raises:
        ValueError: the text describes no memory device at all.
    """
    blocks = re.split(r"\n\s*\n|\n(?=Handle 0x)", text)
    devices = [_fields(block) for block in blocks if re.search(r"^\s*Memory Device\s*$", block, re.M)]
    if not devices:
        raise ValueError("dmidecode described no memory device (is it run as root?)")
    devices = [device for device in devices if not any(word in device.get("Type", "").lower() for word in _NOT_MAIN_MEMORY)]
    slots = [_Slot(device.get("Bank Locator", ""), device.get("Locator", ""), _module(device)) for device in devices]
    modules = tuple(slot.module for slot in slots if slot.module)
    # a virtual machine's memory is of no kind; a kind out of dmidecode's specification is newer than dmidecode, but real
    real = any(re.match(r"(LP)?DDR|.*OUT OF SPEC", device.get("Type", "")) for device in devices)
    sockets = len(re.findall(r"^\s*Status: Populated", text, re.M))
    channels, inferred, reason = _channels(slots, modules, sockets, real)
    configured = min((module.configured_mt_s for module in modules if module.configured_mt_s), default=None)
    widths = [(module.total_width_bits, module.data_width_bits) for module in modules]
    return MemoryFacts(
        modules=modules,
        empty_slots=len(slots) - len(modules),
        type=_commonest([module.type for module in modules]),
        rated_mt_s=min((module.rated_mt_s for module in modules if module.rated_mt_s), default=None),
        configured_mt_s=configured,
        channels=channels,
        channels_inferred=inferred,
        channels_reason=reason,
        total_gib=sum(module.size_mib for module in modules) / 1024,
        bandwidth_gb_s=channels * _CHANNEL_BITS / 8 * configured / 1000 if channels and configured else None,
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
    # dmidecode 3.7 writes GiB where older ones wrote GB; both mean 1024³ bytes
    match = re.fullmatch(r"(\d{1,9}) ?([kKMGT])i?B", device.get("Size", ""))
    if match is None or int(match[1]) == 0:
        return None
    kind = device.get("Type", "")
    return MemoryModule(
        locator=device.get("Locator", ""),
        bank=device.get("Bank Locator", ""),
        size_mib=int(int(match[1]) * {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}[match[2].upper()]),
        type=kind if re.match(r"(LP)?DDR", kind) else None,
        rated_mt_s=_number(device.get("Speed", "")),
        configured_mt_s=_number(device.get("Configured Memory Speed", device.get("Configured Clock Speed", ""))),
        data_width_bits=_number(device.get("Data Width", "")),
        total_width_bits=_number(device.get("Total Width", "")),
    )


def _commonest(values: list[str | None]) -> str | None:
    known = Counter(value for value in values if value)
    return known.most_common(1)[0][0] if known else None


def _channels(slots: list[_Slot], modules: tuple[MemoryModule, ...], sockets: int, real: bool) -> _Answer:
    used = [slot for slot in slots if slot.module]
    if not modules:
        return None, False, "no module is populated"
    old = any(module.type and _BEFORE_DDR5.match(module.type) for module in modules)
    narrow = all(module.data_width_bits and module.data_width_bits <= 32 for module in modules)
    if narrow or all(module.type and module.type.startswith("LPDDR") for module in modules):
        return _by_width(used, [module.data_width_bits or 0 for module in modules], old)
    names = Counter(slot.name for slot in slots)
    if all(names[slot.name] == 1 for slot in used):  # else two modules share a name, which therefore means nothing
        for what, pattern in (*_RULES[1:], _RULES[0]) if old else _RULES:
            keys = [re.search(pattern, slot.name, re.I) for slot in used]
            if all(keys):
                places = {(*_parts(slot), *match.groups()) for slot, match in zip(used, keys, strict=True) if match}
                return len(places), False, f"by {what} in the slots' names"
    if not real:
        return None, False, "the firmware tells neither the channels nor the kind of memory, as in a virtual machine"
    if len(modules) == 1:
        return 1, False, "one module populates one channel"
    return _by_wiring(slots, used, sockets, old)


def _parts(slot: _Slot) -> tuple[str, ...]:
    return tuple(re.findall(_PART_OF, slot.name, re.I))


def _by_width(used: list[_Slot], widths: list[int], old: bool) -> _Answer:
    """Soldered packages and halves of modules: their widths add up. Firmware often claims 64 bits for each of many entries."""
    told = sum(widths)
    # LPDDR channels are 16 or 32 bits wide, and only one or two entries can each stand for a whole 64-bit channel
    bits = sum(min(width, 32) for width in widths) if len(used) >= 4 else told
    controllers = {match[1] for slot in used if (match := re.search(_CONTROLLER, slot.name, re.I))}
    if controllers and not old:  # Intel's client platforms, 64 bits each
        bits = min(bits or len(controllers) * _CHANNEL_BITS, len(controllers) * _CHANNEL_BITS)
    if bits < _CHANNEL_BITS:
        return None, False, f"the firmware names {told} bits of memory, which is less than one 64-bit channel"
    return bits // _CHANNEL_BITS, bits != told, f"{bits} bits of soldered or split memory (the firmware names {told})"


def _by_wiring(slots: list[_Slot], used: list[_Slot], sockets: int, old: bool) -> _Answer:
    """Where the names tell no channel: what the node or the number of a slot says, given how such slots are wired."""
    nodes = Counter(_parts(slot) for slot in slots if re.search(r"\bNODE \d", slot.bank, re.I))
    if not old and sum(nodes.values()) == len(slots) and max(nodes.values()) <= 4:
        count = sum(min(2, modules) for modules in Counter(_parts(slot) for slot in used).values())
        return count, True, "each NODE is a memory controller, which in Xeons with DDR5 has two channels"
    by_number = _by_number(slots, sockets, old)
    if by_number:
        return by_number, True, "every usual way of wiring slots with these numbers gives this many"
    if sockets <= 1 and len(slots) <= 4:
        return min(2, len(used)), True, "a machine with up to four slots has two channels, filled one after the other"
    return None, False, "the slots' names do not tell the channel, and this kind of machine may have any number"


def _by_number(slots: list[_Slot], sockets: int, old: bool) -> int | None:
    """Populated channels, if each plausible wiring of the numbered slots gives the same; else None."""
    numbers = [int(match[1]) for slot in slots if (match := re.search(r"(\d{1,2})$", slot.locator))]
    if len(numbers) < len(slots):
        return None
    dell = all(re.fullmatch(r"[A-H]\d+", slot.locator) for slot in slots)  # its servers: the letter is the processor
    hpe = all(slot.locator.startswith("PROC ") for slot in slots)  # its servers
    share = max(1, len(slots) // max(1, sockets))
    processors: dict[object, list[tuple[int, bool]]] = {}
    for slot, number in zip(slots, numbers, strict=True):
        processor = slot.locator[0] if dell else _parts(slot)[:1] or (number - min(numbers)) // share
        processors.setdefault(processor, []).append((number, slot.module is not None))
    total = 0
    for group in processors.values():
        size, first = len(group), min(group)[0]
        order = [number - first for number, _ in group]
        if sorted(order) != list(range(size)):
            return None  # slots are missing from the list, or share a number
        widths = [size // k for k in (1, 2, 3) if size % k == 0] if old else _DDR5_CHANNELS.get(size, ())
        # Numbers run through the channels and then through their second slots (Dell), or channel by channel (HPE, HP, Lenovo);
        # firmware that lists the slots in another order than their numbers' lists them channel by channel.
        numbered = order == sorted(order)
        counts: set[int] = set()
        for width in (8,) if size == 8 and (dell or hpe) and not old else widths:
            if dell or (numbered and not hpe):
                counts.add(len({place % width for place, (_, populated) in zip(order, group, strict=True) if populated}))
            if not dell:
                ranks = order if numbered else range(size)
                counts.add(len({rank * width // size for rank, (_, populated) in zip(ranks, group, strict=True) if populated}))
        if len(counts) != 1:
            return None
        total += counts.pop()
    return total
