"""NVIDIA cards: PCI functions from sysfs, and the short list of nvidia-smi where a driver runs."""

import re

from bringup.hardware import Gpu, PcieLink
from bringup.probe.cpu import parse_cpu_list
from bringup.probe.sections import fields


def _generation(transfer_rate: str) -> int | None:
    """PCI Express generation of a rate in GT/s as the kernel writes it: ``16`` or ``16.0``; None for ``Unknown``."""
    rates = {"2.5": 1, "5": 2, "8": 3, "16": 4, "32": 5, "64": 6, "128": 7}
    return rates.get(transfer_rate.removesuffix(".0"))


def _lanes(width: str) -> int | None:
    """0, 63 and 255 are what the kernel reads where there is no link."""
    return int(width) if re.fullmatch(r"[0-9]{1,2}", width) and 0 < int(width) <= 32 else None


def _link(speed: str, width: str) -> PcieLink | None:
    link = PcieLink(generation=_generation(speed), lanes=_lanes(width))
    return link if link.generation or link.lanes else None


def _id(text: str) -> str:
    match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{1,4})", text)
    if match is None:
        raise ValueError(f"not a PCI id: {text[:40]!r}")
    return f"{int(match[1], 16):04x}"


def parse_pci_displays(text: str) -> tuple[Gpu, ...]:
    """Parse a line of ``address= device= numa_node= …`` for each of NVIDIA's display controllers.

    Raises:
        ValueError: a line names no address, or its numbers are none.
    """
    gpus = []
    for line in filter(None, text.splitlines()):
        row = fields(line)
        if not row.get("address"):
            raise ValueError(f"not a PCI display controller: {line[:80]!r}")
        node = int(row.get("numa_node") or -1)
        board = (row.get("subsystem_vendor"), row.get("subsystem_device"))
        gpus.append(
            Gpu(
                pci_address=row["address"].lower(),
                pci_id=f"10de:{_id(row.get('device', ''))}",
                numa_node=node if node >= 0 else None,
                kernel_driver=row.get("driver") or None,
                subsystem_id=f"{_id(board[0])}:{_id(board[1])}" if board[0] and board[1] else None,
                local_cpus=parse_cpu_list(row.get("local_cpulist", "")),
                link_now=_link(row.get("current_link_speed", ""), row.get("current_link_width", "")),
                link_max=_link(row.get("max_link_speed", ""), row.get("max_link_width", "")),
                slot_max=_link(row.get("slot_speed", ""), row.get("slot_width", "")),
                responds=row["config"] != "ffffffff" if row.get("config") else None,
            )
        )
    return tuple(gpus)


def bus_of(address: str) -> str:
    """The PCI address in sysfs' form: nvidia-smi writes the domain with eight digits (``00000000:01:00.0``), sysfs with four."""
    return address.strip().lower()[-12:]


def refine_with_nvidia_smi(gpus: tuple[Gpu, ...], csv: str) -> tuple[Gpu, ...]:
    """Add what `nvidia-smi --query-gpu=pci.bus_id,name,memory.total,driver_version` (csv, nounits) says.

    Cards that nvidia-smi does not list stay as sysfs shows them.

    Raises:
        ValueError: the text is an error message of nvidia-smi or not such a table; the message quotes it.
    """
    by_bus: dict[str, list[str]] = {}
    for line in filter(None, csv.splitlines()):
        fields_ = [field.strip() for field in line.split(",")]
        # a card that fell off the bus is listed with [N/A] or [Unknown Error] in its fields
        if len(fields_) != 4 or not re.fullmatch(r"[0-9]{1,9}", fields_[2]) or not re.match(r"[0-9]{1,4}\.", fields_[3] + "."):
            raise ValueError(f"nvidia-smi did not list the cards but said: {' '.join(csv.split())[:200]}")
        by_bus[bus_of(fields_[0])] = fields_
    refined = []
    for gpu in gpus:
        row = by_bus.get(bus_of(gpu.pci_address))
        if row is not None:
            gpu = gpu.model_copy(update={"driver_name": row[1], "driver_memory_mib": int(row[2]), "driver_version": row[3]})
        refined.append(gpu)
    return tuple(refined)
