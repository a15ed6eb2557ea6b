"""NVIDIA cards: PCI functions from sysfs, and the short list of nvidia-smi where a driver runs."""

import re

from bringup.cpu_list import parse_cpu_list
from bringup.hardware import Frozen, Gpu, PcieLink
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


class DriverRow(Frozen):
    """What nvidia-smi's short list says of one card."""

    name: str
    memory_mib: int
    version: str


def parse_nvidia_smi_list(csv: str) -> dict[str, DriverRow]:
    """Parse `nvidia-smi --query-gpu=pci.bus_id,name,memory.total,driver_version` (csv, nounits): PCI address → what it says.

    Raises:
        ValueError: the text is an error message of nvidia-smi or not such a table; the message quotes it.
    """
    rows = {}
    for line in filter(None, csv.splitlines()):
        cells = [cell.strip() for cell in line.split(",")]
        # a card that fell off the bus is listed with [N/A] or [Unknown Error] in its fields
        if len(cells) != 4 or not re.fullmatch(r"[0-9]{1,9}", cells[2]) or not re.match(r"[0-9]{1,4}\.", cells[3] + "."):
            raise ValueError(f"nvidia-smi did not list the cards but said: {' '.join(csv.split())[:200]}")
        rows[bus_of(cells[0])] = DriverRow(name=cells[1], memory_mib=int(cells[2]), version=cells[3])
    return rows


def refine_with_nvidia_smi(gpus: tuple[Gpu, ...], rows: dict[str, DriverRow]) -> tuple[Gpu, ...]:
    """Add what the driver says; cards that it does not list stay as sysfs shows them."""
    return tuple(
        gpu.model_copy(update={"driver_name": row.name, "driver_memory_mib": row.memory_mib, "driver_version": row.version})
        if (row := rows.get(bus_of(gpu.pci_address)))
        else gpu
        for gpu in gpus
    )
