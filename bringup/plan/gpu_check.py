"""What a host's cards are compared with: before anything is done, from the facts, and as they run, on the host itself."""

from collections.abc import Mapping
from typing import Any

from bringup.catalog import Catalog
from bringup.catalog.entries import GpuModel
from bringup.hardware import Gpu, HostFacts
from bringup.plan.model import Plan
from bringup.settings import Settings

_OF_SERVICE = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HOME")
"""Variables of the service that decide which card a CUDA program sees."""


def expectation_blockers(facts: HostFacts, settings: Settings, catalog: Catalog) -> list[str]:
    """Say in which way the host's cards are not those that the inventory expects; empty where they are.

    Cards that are held for virtual machines, or that no longer answer on the bus, do not count.
    """
    expect = settings.expect
    if expect is None:
        return []
    cards = [gpu for gpu in facts.gpus if gpu.kernel_driver != "vfio-pci" and gpu.responds is not False]
    wanted = catalog.gpus_named(expect.gpu) if expect.gpu is not None else ()
    ids = {pci_id for model in wanted for pci_id in model.pci_ids}
    right = [gpu for gpu in cards if not wanted or gpu.pci_id in ids]
    if len(right) == expect.count if expect.count is not None else right:
        return []
    what = wanted[0].name if wanted else "NVIDIA cards"
    count = f"{expect.count} × " if expect.count is not None else ""
    found = ", ".join(f"{_name(gpu, catalog)} at {gpu.pci_address}" for gpu in cards) or "none"
    return [
        f"the inventory expects {count}{what} (`expect`), and this host has: {found}: look at the missing card's seat, power and "
        "slot, or correct `expect`"
    ]


def _name(gpu: Gpu, catalog: Catalog) -> str:
    known = catalog.gpu(gpu.pci_id)
    return known.name if known else f"a card of id {gpu.pci_id}"


def gpu_check_request(plan: Plan, facts: HostFacts, settings: Settings, catalog: Catalog) -> dict[str, Any]:
    """What `bringup-host gpu-check` is asked, the engine's Python apart; the same before and after there is a driver."""
    expect = settings.expect
    wanted = catalog.gpus_named(expect.gpu) if expect is not None and expect.gpu is not None else ()
    known = {gpu.pci_id: model for gpu in facts.gpus if (model := catalog.gpu(gpu.pci_id)) is not None}
    return {
        "serving": plan.gpu,
        "expect": {
            "gpu": wanted[0].name if wanted else None,
            "pci_ids": [pci_id for model in wanted for pci_id in model.pci_ids],
            "count": expect.count,
        }
        if expect is not None
        else None,
        "known": {pci_id: _known(model) for pci_id, model in sorted(known.items())},
        "cards": {gpu.pci_address: gpu.pci_id for gpu in facts.gpus},
        "least_branch": plan.needs.min_driver_branch,
        "environment": _environment(plan.environment),
    }


def _environment(service: Mapping[str, str]) -> dict[str, str]:
    return {name: service[name] for name in _OF_SERVICE if name in service}


def _known(model: GpuModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "memory_mib": [model.vram_mib, *model.other_vram_mib],
        "memory_is_nominal": model.vram_nominal,
        "pcie_generation": model.pcie_generation,
        "pcie_lanes": model.pcie_lanes,
    }
