"""Puts the cards to work through the engine's own PyTorch, as the service's user: prints a line of JSON after each stage.

Runs in the engine's Python from this file's text alone (``python -c``): whoever starts it reads from the last line where it hung or
failed. Argument: seconds of copying a direction, 0 for none.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

COPY_BYTES = 64 * 2**20
COPIES_AT_ONCE = 8


def tell(stage: str, **values: Any) -> None:
    """Print one stage at once."""
    print(json.dumps({"stage": stage, **values}), flush=True)


def address_of(properties: Any) -> str | None:
    """PCI address as sysfs has it; None where this PyTorch does not tell."""
    domain, bus, device = (getattr(properties, f"pci_{name}_id", None) for name in ("domain", "bus", "device"))
    return None if domain is None or bus is None or device is None else f"{domain:04x}:{bus:02x}:{device:02x}.0"


def link_of(address: str | None) -> dict[str, str] | None:
    """The link's speed and width at this moment, as the kernel reads them from the card; None where sysfs does not show it."""
    try:
        folder = Path("/sys/bus/pci/devices", address or "none")
        return {name: (folder / f"current_link_{name}").read_text().strip() for name in ("speed", "width")}
    except OSError:
        return None


def compute(torch: Any, device: Any) -> None:
    """An allocation, a kernel of PyTorch's own and one of cuBLAS, with results that are known exactly."""
    count = 2**20
    total = torch.ones(count, device=device).mul_(3).sum().item()
    if total != 3 * count:
        raise ArithmeticError(f"3 + 3 + … ({count} times) gave {total}")
    # bf16 holds 256 exactly
    ones = torch.ones(256, 256, dtype=torch.bfloat16, device=device)
    product = ones @ ones
    if product.min().item() != 256 or product.max().item() != 256:
        raise ArithmeticError(f"a product of ones gave {product.min().item()} to {product.max().item()} instead of 256")


def copy(torch: Any, device: Any, address: str | None, seconds: float, to_card: bool) -> dict[str, Any]:
    """Copy between pinned memory and the card for a while; the link is read while copies are under way."""
    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    card = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    source, target = (host, card) if to_card else (card, host)
    links: list[dict[str, str]] = []
    copied, rate = 0, 0.0
    began = time.perf_counter()
    # the first half trains the link up and is not counted
    measured_from = began
    while (now := time.perf_counter()) - began < seconds:
        if measured_from == began and now - began > seconds / 2:
            copied, measured_from = 0, now
        for _ in range(COPIES_AT_ONCE):
            target.copy_(source, non_blocking=True)
        link = link_of(address)
        torch.cuda.synchronize(device)
        copied += COPIES_AT_ONCE * COPY_BYTES
        rate = copied / (time.perf_counter() - measured_from) / 1e9
        if link is not None and link not in links:
            links.append(link)
    return {"gb_s": round(rate, 2), "links": links}


def main(seconds: float) -> None:
    """Go through all stages for every card that is visible."""
    tell("start")
    import torch  # type: ignore[import-not-found]  # the engine's own

    tell("torch", version=torch.__version__, cuda=torch.version.cuda)
    torch.cuda.init()
    tell("cuda", cards=torch.cuda.device_count())
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        device, address = torch.device("cuda", index), address_of(properties)
        tell("card", index=index, address=address, name=properties.name, total_mib=properties.total_memory // 2**20)
        compute(torch, device)
        free, total = torch.cuda.mem_get_info(index)
        tell("computed", index=index, free_mib=free // 2**20, total_mib=total // 2**20)
        if seconds:
            before = link_of(address)
            rates = {name: copy(torch, device, address, seconds, name == "to_card") for name in ("to_card", "from_card")}
            tell("copied", index=index, before=before, **rates)
    tell("done")


if __name__ == "__main__":
    try:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5)
    except Exception as error:  # noqa: BLE001 (whatever it is, the words of it are what is wanted)
        tell("failed", error=f"{type(error).__name__}: {error}"[:600])
        sys.exit(1)
