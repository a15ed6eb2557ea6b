"""The long report of the driver: `nvidia-smi -q -x` → what it says of each card.

Tags have been renamed over the driver's branches; each value is looked for under all its names. A value that the card does not
have reads ``N/A`` there and is None here.
"""

import re
from xml.etree import ElementTree

from bringup.hardware import GpuClocks, GpuPower, GpuProcess, GpuState, GpuTemperature, PcieLink
from bringup.probe.gpu import bus_of

_END = "</nvidia_smi_log>"
_IDLE = "gpu_idle"


def parse_nvidia_smi_xml(text: str) -> dict[str, GpuState]:
    """Map each card's PCI address (as in sysfs) to what the driver says of it.

    Raises:
        ValueError: the text is no such report; the message quotes its beginning.
    """
    # nvidia-smi prints warnings, such as one of a corrupted InfoROM, before or after the report
    start, end = text.find("<?xml"), text.find(_END)
    if start < 0 or end < 0:
        raise ValueError(f"nvidia-smi -q -x gave no report but: {' '.join(text.split())[:200]}")
    try:
        # the DTD is not fetched, and expat (2.4.1 or newer) limits what entities may grow to
        root = ElementTree.fromstring(text[start : end + len(_END)])  # noqa: S314
    except ElementTree.ParseError as error:
        raise ValueError(f"nvidia-smi -q -x gave a report that is no XML: {error}") from error
    return {bus_of(card.get("id", "")): _state(card) for card in root.findall("gpu")}


def _first(card: ElementTree.Element, *paths: str) -> str | None:
    """The first of the paths that the report has, unless its value is missing."""
    for path in paths:
        value = (card.findtext(path) or "").strip()
        if value and not re.match(r"\[?(N/A|Not Supported|Unknown Error|Requested functionality|GPU is lost|None$)", value, re.I):
            return value
    return None


def _int(card: ElementTree.Element, *paths: str) -> int | None:
    match = re.match(r"(-?[0-9]{1,9})(?![0-9])", _first(card, *paths) or "")
    return int(match[1]) if match else None


def _float(card: ElementTree.Element, *paths: str) -> float | None:
    match = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?![0-9])", _first(card, *paths) or "")
    return float(match[0]) if match else None


def _switch(card: ElementTree.Element, path: str) -> bool | None:
    return {"enabled": True, "disabled": False}.get((_first(card, path) or "").lower())


def _state(card: ElementTree.Element) -> GpuState:
    link = "pci/pci_gpu_link_info/"
    return GpuState(
        pci_id=_pci_id(card),
        architecture=_first(card, "product_architecture"),
        memory_total_mib=_int(card, "fb_memory_usage/total"),
        memory_reserved_mib=_int(card, "fb_memory_usage/reserved"),
        memory_used_mib=_int(card, "fb_memory_usage/used"),
        memory_free_mib=_int(card, "fb_memory_usage/free"),
        power=_power(card),
        clocks=GpuClocks(
            graphics_mhz=_int(card, "clocks/graphics_clock"),
            sm_mhz=_int(card, "clocks/sm_clock"),
            memory_mhz=_int(card, "clocks/mem_clock"),
            max_graphics_mhz=_int(card, "max_clocks/graphics_clock"),
            max_sm_mhz=_int(card, "max_clocks/sm_clock"),
            max_memory_mhz=_int(card, "max_clocks/mem_clock"),
        ),
        temperature=_temperature(card),
        performance_state=_first(card, "performance_state"),
        throttle_reasons=_throttle_reasons(card),
        persistence_mode=_switch(card, "persistence_mode"),
        ecc_now=_switch(card, "ecc_mode/current_ecc"),
        ecc_after_reboot=_switch(card, "ecc_mode/pending_ecc"),
        uncorrectable_ecc_errors=_uncorrectable(card),
        recovery_action=_first(card, "gpu_recovery_action"),
        compute_mode=_first(card, "compute_mode"),
        mig=_switch(card, "mig_mode/current_mig"),
        display_active=_switch(card, "display_active"),
        link_now=PcieLink(
            generation=_int(card, f"{link}pcie_gen/current_link_gen"), lanes=_int(card, f"{link}link_widths/current_link_width")
        ),
        link_max=PcieLink(
            generation=_int(card, f"{link}pcie_gen/max_device_link_gen", f"{link}pcie_gen/max_link_gen"),
            lanes=_int(card, f"{link}link_widths/max_link_width"),
        ),
        processes=_processes(card),
    )


def _pci_id(card: ElementTree.Element) -> str | None:
    """``268510DE`` is product 2685 of vendor 10de."""
    match = re.fullmatch(r"(?:0x)?([0-9A-F]{4})10DE", _first(card, "pci/pci_device_id") or "", re.I)
    return f"10de:{match[1].lower()}" if match else None


def _power(card: ElementTree.Element) -> GpuPower:
    def read(*names: str) -> float | None:
        return _float(card, *(f"{group}/{name}" for group in ("gpu_power_readings", "power_readings") for name in names))

    return GpuPower(
        draw_w=read("instant_power_draw", "power_draw", "average_power_draw"),
        limit_w=read("current_power_limit", "power_limit", "enforced_power_limit"),
        default_limit_w=read("default_power_limit"),
        min_limit_w=read("min_power_limit"),
        max_limit_w=read("max_power_limit"),
    )


def _temperature(card: ElementTree.Element) -> GpuTemperature:
    """Newer cards tell thresholds as distances from the highest temperature that they may run at, which is now plus T.Limit.

    On our H100 (2026-11-24): 42 °C now, T.Limit 45, slow-down -2, shutdown -8; NVML gives 87, 89 and 95 °C.
    Both readings are rounded, so that the thresholds may be off by one.
    """
    now = _int(card, "temperature/gpu_temp")
    margin = _int(card, "temperature/gpu_temp_tlimit")
    top = now + margin if now is not None and margin is not None else None

    def threshold(absolute: str, relative: str) -> int | None:
        value = _int(card, f"temperature/{absolute}")
        distance = _int(card, f"temperature/{relative}")
        return value if value is not None else top - distance if top is not None and distance is not None else None

    return GpuTemperature(
        now_c=now,
        slowdown_c=threshold("gpu_temp_slow_threshold", "gpu_temp_slow_tlimit_threshold"),
        shutdown_c=threshold("gpu_temp_max_threshold", "gpu_temp_max_tlimit_threshold"),
        max_operating_c=threshold("gpu_temp_max_gpu_threshold", "gpu_temp_max_gpu_tlimit_threshold"),
        memory_c=_int(card, "temperature/memory_temp"),
    )


def _throttle_reasons(card: ElementTree.Element) -> tuple[str, ...]:
    active = []
    for kind in ("event", "throttle"):
        prefix = f"clocks_{kind}_reason_"
        for reason in card.iterfind(f"clocks_{kind}_reasons/*"):
            name = reason.tag.removeprefix(prefix)
            if (reason.text or "").strip().lower() == "active" and name != _IDLE:
                active.append(name)
    return tuple(dict.fromkeys(active))


def _uncorrectable(card: ElementTree.Element) -> int | None:
    names = ("sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_uncorrectable")
    counts = [_int(card, f"ecc_errors/volatile/{name}") for name in names]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _processes(card: ElementTree.Element) -> tuple[GpuProcess, ...]:
    found = []
    for process in card.iterfind("processes/process_info"):
        pid = _int(process, "pid")
        if pid is not None:
            found.append(
                GpuProcess(
                    pid=pid,
                    name=_first(process, "process_name") or "unknown",
                    kind=_first(process, "type") or "unknown",
                    memory_mib=_int(process, "used_memory"),
                )
            )
    return tuple(found)
