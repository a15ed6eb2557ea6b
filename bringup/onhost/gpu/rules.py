"""What is right and what is wrong with the cards of a running machine: pure rules over what was read."""

from collections.abc import Iterator

from bringup.onhost.gpu.cuda_rules import check_cuda, check_nodes
from bringup.onhost.gpu.judgement import Check, KnownCard, Level, Wanted
from bringup.onhost.gpu.link_rules import check_links
from bringup.onhost.gpu.model import DrivenCard, Readings
from bringup.onhost.gpu.xid_rules import check_xids

_LESS_MEMORY = 0.99
"""The driver rounds; ECC takes a sixteenth."""


def judge(readings: Readings, wanted: Wanted) -> tuple[Check, ...]:
    """Judge everything that was read, in the order in which one thing rests on the other."""
    return (
        *_driver(readings, wanted),
        *_cards(readings, wanted),
        *_expected(readings, wanted),
        *check_nodes(readings),
        *check_cuda(readings),
        *check_links(readings, wanted),
        *check_xids(readings, wanted),
        *_persistence(readings),
    )


def _driver(readings: Readings, wanted: Wanted) -> Iterator[Check]:
    """One version in the kernel, in the library and among the packages."""
    module, library = readings.module_version, readings.library_version
    if readings.smi_error is not None:
        yield Check("problem", "driver-silent", f"{readings.smi_error}: {_silence(readings)}")
    if module is None:
        if readings.smi_error is None:
            yield Check(
                "note", "module-unknown", "the version of the loaded module cannot be read here (a container without /proc/driver)"
            )
        return
    answers = readings.smi[0].driver_version if readings.smi else None
    others = {f"nvidia-smi {answers}": answers, f"libcuda {library}": library}
    differing = [name for name, version in others.items() if version is not None and version != module]
    packages = {name: version for name, version in readings.packages.items() if version != module}
    if differing:
        fix = "reboot; if that does not help, another driver's library lies in the way (ldconfig -p | grep cuda)"
        yield Check("problem", "driver-mismatch", f"the loaded module is {module}, but {' and '.join(differing)}: {fix}")
    if packages:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(packages.items())[:4])
        text = f"the loaded module is {module}, but installed are {listed}"
        fix = "reboot, so that what is installed runs; a server that restarts before that does not come up"
        # what runs now agrees with itself or was told above
        yield Check("warning", "driver-packages", f"{text}: {fix}")
    if wanted.least_branch is not None and int(module.split(".")[0]) < wanted.least_branch:
        text = f"driver {module} is older than the engine needs: branch {wanted.least_branch} or newer (setting nvidia_driver)"
        yield Check("problem", "driver-old", text)
    if not differing and not packages and readings.smi_error is None:
        seen = ["module", "nvidia-smi", *(["libcuda"] if library else []), *(["packages"] if readings.packages else [])]
        yield Check("ok", "driver", f"driver {module}: {', '.join(seen[:-1])} and {seen[-1]} agree")


def _silence(readings: Readings) -> str:
    """What to do about a driver that does not answer."""
    said = (readings.smi_error or "").lower()
    if "version mismatch" in said:
        return "the driver was upgraded while it ran: reboot"
    if readings.smi_hangs:
        return "a card or the driver hangs: look into the kernel log (journalctl -k | grep NVRM), then reboot"
    if not readings.cards:
        return "and the machine shows no NVIDIA card: look at its seat and power"
    if readings.module_version is None:
        return "its module is not loaded: modprobe nvidia, and see journalctl -k | grep -i nvidia for why it is not"
    return "look into the kernel log (journalctl -k | grep NVRM)"


def _known(readings: Readings, wanted: Wanted, address: str) -> KnownCard | None:
    card = next((card for card in readings.cards if card.address == address), None)
    return wanted.known.get(card.pci_id) if card else None


def _cards(readings: Readings, wanted: Wanted) -> Iterator[Check]:
    """Each card of the machine is listed by its driver, with the memory that it should have."""
    if readings.smi_error is not None:
        return
    listed = {card.address for card in readings.smi}
    for card in readings.cards:
        if card.address in listed or card.holder == "vfio-pci":
            continue
        level: Level = "problem" if wanted.matters(card.address) else "warning"
        why = (
            "the driver holds it and does not list it: look into the kernel log (journalctl -k | grep NVRM), check its power cables"
            if card.holder == "nvidia"
            else f"{card.holder or 'no driver'} holds it: reboot, so that NVIDIA's driver can take it"
        )
        yield Check(level, "gpu-not-listed", f"the card at {card.address} is not listed by nvidia-smi; {why}")
    if wanted.serving is not None and wanted.serving not in listed and wanted.serving not in {c.address for c in readings.cards}:
        fix = "it fell off the bus or was taken out: power the machine off and on, reseat it, look at its cables"
        yield Check("problem", "gpu-gone", f"the card at {wanted.serving}, which is to serve, is not there any more: {fix}")
    for driven in readings.smi:
        yield _memory(driven, _known(readings, wanted, driven.address))


def _memory(card: DrivenCard, known: KnownCard | None) -> Check:
    name = f"{card.name} at {card.address}"
    if card.memory_mib is None:
        return Check("warning", "gpu-memory", f"{name}: the driver does not say how much memory it has; look at nvidia-smi")
    if known is None:
        return Check("ok", "gpu-memory", f"{name}: {card.memory_mib} MiB")
    least = min(known.memory_mib) * (0.9 if known.memory_is_nominal else _LESS_MEMORY)
    if card.memory_mib < least:
        text = f"{name} has {card.memory_mib} MiB, a {known.name} has {' or '.join(map(str, known.memory_mib))} MiB"
        why = "ECC takes a sixteenth (nvidia-smi -e 0, then reboot), failing memory is taken out of use, or it is another card"
        return Check("warning", "gpu-memory", f"{text}: {why}")
    return Check("ok", "gpu-memory", f"{name}: {card.memory_mib} MiB, as a {known.name} has")


def _expected(readings: Readings, wanted: Wanted) -> Iterator[Check]:
    """Compare with what the inventory expects."""
    if wanted.expected_name is None and wanted.expected_count is None:
        return
    ids = {card.address: card.pci_id for card in readings.cards}
    right = [card for card in readings.smi if not wanted.expected_ids or ids.get(card.address) in wanted.expected_ids]
    what = wanted.expected_name or "cards"
    found = ", ".join(f"{card.name} at {card.address}" for card in readings.smi) or "none that answers"
    if wanted.expected_count is not None and len(right) != wanted.expected_count:
        text = f"the inventory expects {wanted.expected_count} × {what}, and there are {len(right)} (found: {found})"
        fix = "look at the missing cards' seat and power, or correct `expect`"
        yield Check("problem", "expect", f"{text}: {fix}")
    elif not right:
        yield Check("problem", "expect", f"the inventory expects {what}, found: {found}: put it in, or correct `expect`")
    else:
        yield Check("ok", "expect", f"{len(right)} × {what}, as the inventory expects")


def _persistence(readings: Readings) -> Iterator[Check]:
    off = [card.address for card in readings.smi if card.persistent is False]
    if off:
        text = (
            f"persistence is off for {', '.join(off)}: settings such as the power limit are lost whenever the last program lets go"
        )
        yield Check("note", "persistence", f"{text}; bringup-nvidia.service keeps it on")
