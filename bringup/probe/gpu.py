"""NVIDIA cards: PCI functions from sysfs, refined by nvidia-smi where a driver runs."""

from bringup.hardware import Gpu


def parse_pci_displays(text: str) -> tuple[Gpu, ...]:
    """Parse lines of ``address device-id numa-node [driver]`` of NVIDIA's display controllers.

    sysfs gives NUMA node -1 where the firmware names none.

    Raises:
        ValueError: a line has another form.
    """
    gpus = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) not in (3, 4):
            raise ValueError(f"not a PCI display controller: {line!r}")
        address, device, node = fields[:3]
        gpus.append(
            Gpu(
                pci_address=address.lower(),
                pci_id=f"10de:{int(device, 16):04x}",
                numa_node=int(node) if int(node) >= 0 else None,
                kernel_driver=fields[3] if len(fields) == 4 else None,
            )
        )
    return tuple(gpus)


def _bus(address: str) -> str:
    """nvidia-smi writes the PCI domain with eight digits (``00000000:01:00.0``), sysfs with four."""
    return address.strip().lower()[-12:]


def refine_with_nvidia_smi(gpus: tuple[Gpu, ...], csv: str) -> tuple[Gpu, ...]:
    """Add what `nvidia-smi --query-gpu=pci.bus_id,name,memory.total,driver_version` (csv, nounits) says.

    Cards that nvidia-smi does not list stay as sysfs shows them.

    Raises:
        ValueError: the text is an error message of nvidia-smi or not such a table; the message quotes it.
    """
    by_bus: dict[str, list[str]] = {}
    for line in filter(None, csv.splitlines()):
        fields = [field.strip() for field in line.split(",")]
        # a card that fell off the bus is listed with [N/A] or [Unknown Error] in its fields
        if len(fields) != 4 or not fields[2].isdecimal() or not fields[3].partition(".")[0].isdecimal():
            raise ValueError(f"nvidia-smi did not list the cards but said: {' '.join(csv.split())[:200]}")
        by_bus[_bus(fields[0])] = fields
    refined = []
    for gpu in gpus:
        row = by_bus.get(_bus(gpu.pci_address))
        if row is not None:
            gpu = gpu.model_copy(update={"driver_name": row[1], "driver_memory_mib": int(row[2]), "driver_version": row[3]})
        refined.append(gpu)
    return tuple(refined)
