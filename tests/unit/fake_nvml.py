"""Stands for the module `pynvml` on a machine without a card: answers as a described card would, and fails as one can."""

from dataclasses import dataclass, field
from threading import Event
from types import SimpleNamespace
from typing import Any

import pynvml


@dataclass
class FakeNvml:
    """One card. `series` gives a list of values by name, one for each time that it is asked, the last one for ever."""

    series: dict[str, list[float]] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    processes: tuple[tuple[int, int], ...] = ()
    """Process and its bytes on the card."""
    other_cards: tuple[str, ...] = ()
    """Addresses of cards beside the first; nothing runs on them."""
    lost_after: int | None = None
    """Times that its utilisation can be asked before the card is lost."""
    hangs_after: int | None = None
    hang: Event = field(default_factory=Event)
    asked: dict[str, int] = field(default_factory=dict)

    def nvmlInit(self) -> None:  # noqa: N802
        if self.fixed.get("missing"):
            raise pynvml.NVMLError_LibraryNotFound

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1 + len(self.other_cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"card {index}"

    def nvmlDeviceGetHandleByPciBusId(self, address: bytes) -> str:  # noqa: N802
        addresses = ("0000:01:00.0", *self.other_cards)
        if address.decode() not in addresses:
            raise pynvml.NVMLError_NotFound
        return f"card {addresses.index(address.decode())}"

    def nvmlDeviceGetPciInfo(self, card: str) -> Any:  # noqa: N802
        return SimpleNamespace(busId=f"0000{('0000:01:00.0', *self.other_cards)[int(card.split()[1])]}")

    def nvmlDeviceGetUtilizationRates(self, _: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=self._next("gpu_util_percent"), memory=50)

    def nvmlDeviceGetMemoryInfo(self, _: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=int(self._next("gpu_memory_mib") * 2**20))

    def nvmlDeviceGetClockInfo(self, _: str, clock: int) -> float:  # noqa: N802
        return self._next("sm_clock_mhz" if clock == pynvml.NVML_CLOCK_SM else "memory_clock_mhz")

    def nvmlDeviceGetPowerUsage(self, _: str) -> float:  # noqa: N802
        return self._next("power_w") * 1000

    def nvmlDeviceGetTemperature(self, _: str, __: int) -> float:  # noqa: N802
        return self._next("temperature_c")

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: str) -> int:  # noqa: N802
        return int(self._next("throttle_reasons"))

    def nvmlDeviceGetCurrPcieLinkGeneration(self, _: str) -> float:  # noqa: N802
        return self._next("pcie_generation")

    def nvmlDeviceGetCurrPcieLinkWidth(self, _: str) -> float:  # noqa: N802
        return self._next("pcie_lanes")

    def nvmlDeviceGetPcieThroughput(self, _: str, direction: int) -> float:  # noqa: N802
        return self._next("pcie_rx_mb_s" if direction == pynvml.NVML_PCIE_UTIL_RX_BYTES else "pcie_tx_mb_s") * 1000

    def nvmlDeviceGetComputeRunningProcesses(self, card: str) -> list[Any]:  # noqa: N802
        return [] if card != "card 0" else [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes]

    def nvmlDeviceGetProcessUtilization(self, _: str, since_us: int) -> list[Any]:  # noqa: N802
        if "other_use" not in self.fixed:
            raise pynvml.NVMLError_NotFound
        return [SimpleNamespace(pid=pid, timeStamp=since_us + 1, smUtil=self.fixed["other_use"]) for pid, _ in self.processes]

    def nvmlDeviceGetGraphicsRunningProcesses(self, _: str) -> list[Any]:  # noqa: N802
        return []

    def nvmlSystemGetProcessName(self, _: int) -> str:  # noqa: N802
        return "/usr/bin/python3 train.py"

    def nvmlDeviceGetName(self, _: str) -> Any:  # noqa: N802
        return self._fixed("name")

    def nvmlDeviceGetMaxClockInfo(self, _: str, clock: int) -> Any:  # noqa: N802
        return self._fixed("max_sm_clock_mhz" if clock == pynvml.NVML_CLOCK_SM else "max_memory_clock_mhz")

    def nvmlDeviceGetEnforcedPowerLimit(self, _: str) -> Any:  # noqa: N802
        return self._fixed("power_limit_w") * 1000

    def nvmlDeviceGetPowerManagementDefaultLimit(self, _: str) -> Any:  # noqa: N802
        return self._fixed("default_power_limit_w") * 1000

    def nvmlDeviceGetMaxPcieLinkGeneration(self, _: str) -> Any:  # noqa: N802
        return self._fixed("max_pcie_generation")

    def nvmlDeviceGetMaxPcieLinkWidth(self, _: str) -> Any:  # noqa: N802
        return self._fixed("max_pcie_lanes")

    def nvmlDeviceGetTotalEccErrors(self, _: str, __: int, ___: int) -> int:  # noqa: N802
        return int(self._next("ecc"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml"):  # a card of this kind does not tell the rest
            return self._refuse
        raise AttributeError(name)

    def _refuse(self, *_: object) -> None:
        raise pynvml.NVMLError_NotSupported

    def _fixed(self, name: str) -> Any:
        if name not in self.fixed:
            raise pynvml.NVMLError_NotSupported
        return self.fixed[name]

    def _next(self, name: str) -> float:
        number = self.asked[name] = self.asked.get(name, 0) + 1
        uses = self.asked.get("gpu_util_percent", 0)
        if self.hangs_after is not None and uses > self.hangs_after:
            self.hang.wait()
        if self.lost_after is not None and uses > self.lost_after:
            raise pynvml.NVMLError_GpuIsLost
        values = self.series.get(name)
        if values is None:
            raise pynvml.NVMLError_NotSupported
        return values[min(number, len(values)) - 1]
