"""What NVML says of the cards, each call by itself: one that fails leaves a gap and a sentence, never an exception.

Nothing is changed on a card, and nothing is asked that would need root.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pynvml import (  # type: ignore[import-untyped]
    NVML_CLOCK_MEM,
    NVML_CLOCK_SM,
    NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
    NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    NVML_PCIE_UTIL_RX_BYTES,
    NVML_PCIE_UTIL_TX_BYTES,
    NVML_TEMPERATURE_GPU,
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
    NVML_VOLATILE_ECC,
    NVMLError,
    NVMLError_FunctionNotFound,
    NVMLError_LibraryNotFound,
    NVMLError_NotFound,
    NVMLError_NotSupported,
)

from bringup.smoke.sampler.proc import Rate, Reading

_MIB = 2**20
_RETRY_S = 5.0
"""A call that failed is tried again after so long: a lost card does not come back by itself, and asking it can take long."""
_MOST_CARDS = 8


class CardUse:
    """The cards that serve."""

    def __init__(
        self,
        library: Any,
        pci_address: str | None = None,
        pids: Callable[[], Iterable[int]] = tuple,
        proc: Path = Path("/proc"),
    ) -> None:
        """Begin with NVML.

        Args:
            library: the module `pynvml`, or what stands for it.
            pci_address: the card that serves; None takes those that the server has memory on, or all if none is found.
            pids: tells the server's processes now.
            proc: where processes are looked up, so that those of other containers are not taken for strangers here.
        """
        self.notes: dict[str, str] = {}
        self._library, self._pids, self._proc = library, pids, proc
        self._cards: list[_Card] = []
        named = self._handles(pci_address)
        known = frozenset(pids())
        mine = [handle for handle in named if self._holds(handle, known)]
        if pci_address is not None and not mine:  # the plan's card is another than the one that the server was given
            mine = [handle for handle in self._handles(None) if self._holds(handle, known)]
            if mine:
                self.notes["other card"] = f"the server is not on the planned card {pci_address}: the one that it is on was sampled"
        for handle in (mine or named)[:_MOST_CARDS]:
            self._cards.append(_Card(library, handle, self.notes))

    def _handles(self, pci_address: str | None) -> list[Any]:
        try:
            self._library.nvmlInit()
            if pci_address is not None:
                return [self._library.nvmlDeviceGetHandleByPciBusId(pci_address.encode())]
            return [self._library.nvmlDeviceGetHandleByIndex(index) for index in range(self._library.nvmlDeviceGetCount())]
        except NVMLError as error:
            missing = isinstance(error, NVMLError_LibraryNotFound)
            if pci_address is not None or not missing:  # a host without a card has no library, and nothing to say of it
                self.notes["nvml"] = f"NVML could not be used, so that no card was sampled: {error}"
            return []

    def read(self, now_s: float) -> Reading:
        """What changes quickly."""
        return _merged((card.address, card.read(now_s)) for card in self._cards)

    def read_state(self, now_s: float) -> Reading:
        """Memory, its clock and temperature, which change slowly."""
        return _merged((card.address, card.read_state(now_s)) for card in self._cards)

    def read_traffic(self, now_s: float) -> Reading:
        """What crosses the link."""
        return _merged((card.address, card.traffic(now_s)) for card in self._cards)

    def read_slowly(self, now_s: float) -> Reading:
        """The link, and who else has memory on the card."""
        mine = frozenset(self._pids())
        return _merged((card.address, card.read_slowly(now_s, mine, self._is_here)) for card in self._cards)

    def describe(self) -> list[dict[str, object]]:
        """Each card as `timeline.SampledCard`."""
        return [card.describe() for card in self._cards]

    def _holds(self, handle: Any, pids: frozenset[int]) -> bool:
        try:
            return bool(pids & {process.pid for process in _processes(self._library, handle)})
        except NVMLError:
            return False

    def _is_here(self, pid: int) -> bool:
        return (self._proc / str(pid)).exists()


class _Card:
    def __init__(self, library: Any, handle: Any, notes: dict[str, str]) -> None:
        self._library, self._handle, self._notes = library, handle, notes
        self._refused: dict[str, float] = {}
        self._rate = Rate()
        self._others: dict[int, str] = {}
        self._now_s = 0.0
        self._seen_us = 0
        self.address = self._pci_address()
        self._ecc_before = self._ask("ecc", self._ecc, 0.0)
        self._fixed = self._describe()

    def read(self, now_s: float) -> Reading:
        library, handle = self._library, self._handle
        self._now_s = now_s
        asked: dict[str, Callable[[], float]] = {
            "sm_clock_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, NVML_CLOCK_SM),
            "power_w": lambda: library.nvmlDeviceGetPowerUsage(handle) / 1000,
            "throttle_reasons": self._throttle_reasons,
        }
        reading = self._answers(asked, now_s)
        use = self._ask("utilisation", lambda: library.nvmlDeviceGetUtilizationRates(handle), now_s)
        if use is not None:
            reading |= {"gpu_util_percent": use.gpu, "gpu_memory_util_percent": use.memory}
        return reading

    def read_state(self, now_s: float) -> Reading:
        library, handle = self._library, self._handle
        asked: dict[str, Callable[[], float]] = {
            "gpu_memory_mib": lambda: round(library.nvmlDeviceGetMemoryInfo(handle).used / _MIB, 1),
            "memory_clock_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, NVML_CLOCK_MEM),
            "temperature_c": lambda: library.nvmlDeviceGetTemperature(handle, NVML_TEMPERATURE_GPU),
        }
        return self._answers(asked, now_s)

    def _answers(self, asked: Mapping[str, Callable[[], float]], now_s: float) -> Reading:
        return {name: value for name, ask in asked.items() if (value := self._ask(name, ask, now_s)) is not None}

    def read_slowly(self, now_s: float, mine: frozenset[int], is_here: Callable[[int], bool]) -> Reading:
        library, handle = self._library, self._handle
        asked: dict[str, Callable[[], float]] = {
            "pcie_generation": lambda: library.nvmlDeviceGetCurrPcieLinkGeneration(handle),
            "pcie_lanes": lambda: library.nvmlDeviceGetCurrPcieLinkWidth(handle),
        }
        reading = self._answers(asked, now_s)
        if mine:  # without the server's own there is no telling who is another
            processes = self._ask("processes", lambda: _processes(library, handle), now_s)
            if processes is not None:
                others = {p.pid: p.usedGpuMemory or 0 for p in processes if p.pid not in mine and is_here(p.pid)}
                reading["gpu_other_memory_mib"] = round(sum(others.values()) / _MIB, 1)
                for pid, used in others.items():
                    self._others[pid] = f"{self._process_name(pid)} ({pid}), {used / _MIB:.0f} MiB"
                use = self._ask("use by process", partial(self._use_of, frozenset(others)), now_s) if others else 0.0
                if use is not None:
                    reading["gpu_other_util_percent"] = use
        return reading

    def describe(self) -> dict[str, object]:
        after = self._ask("ecc", self._ecc, float("inf"))
        errors = after - self._ecc_before if after is not None and self._ecc_before is not None else None
        return {**self._fixed, "uncorrectable_ecc_errors": errors, "others": list(self._others.values())}

    def _describe(self) -> dict[str, object]:
        library, handle = self._library, self._handle
        asked: dict[str, Callable[[], object]] = {
            "name": lambda: library.nvmlDeviceGetName(handle),
            "max_sm_clock_mhz": lambda: library.nvmlDeviceGetMaxClockInfo(handle, NVML_CLOCK_SM),
            "max_memory_clock_mhz": lambda: library.nvmlDeviceGetMaxClockInfo(handle, NVML_CLOCK_MEM),
            "application_clock_mhz": lambda: library.nvmlDeviceGetApplicationsClock(handle, NVML_CLOCK_SM),
            "power_limit_w": lambda: library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            "default_power_limit_w": lambda: library.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1000,
            "slowdown_c": lambda: library.nvmlDeviceGetTemperatureThreshold(handle, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            "max_pcie_generation": lambda: library.nvmlDeviceGetMaxPcieLinkGeneration(handle),
            "max_pcie_lanes": lambda: library.nvmlDeviceGetMaxPcieLinkWidth(handle),
        }
        found = {name: self._ask(f"fixed {name}", ask, 0.0) for name, ask in asked.items()}
        return {"pci_address": self.address, **found, "name": found["name"] or "a card without a name"}

    def _ask(self, what: str, ask: Callable[[], Any], now_s: float) -> Any:
        """The answer, or None: what a card does not tell is never asked again, what failed is asked again after a while."""
        if now_s < self._refused.get(what, 0.0):
            return None
        try:
            return ask()
        except (NVMLError_NotSupported, NVMLError_FunctionNotFound):
            self._refused[what] = float("inf")
        except NVMLError as error:
            self._refused[what] = now_s + _RETRY_S
            said = f"{self.address} did not answer from {self._now_s:.1f} s on: {error}"
            self._notes.setdefault(f"{self.address} {error}", said)
        return None

    def _pci_address(self) -> str:
        try:
            bus_id = self._library.nvmlDeviceGetPciInfo(self._handle).busId
        except NVMLError as error:
            self._notes["address"] = f"a card does not tell its address: {error}"
            return "unknown"
        text = bus_id.decode() if isinstance(bus_id, bytes) else str(bus_id)
        domain, _, rest = text.lower().partition(":")
        return f"{domain[-4:]}:{rest}"  # sysfs writes the domain with four digits, NVML with eight

    def _throttle_reasons(self) -> int:
        try:
            return int(self._library.nvmlDeviceGetCurrentClocksEventReasons(self._handle))
        except NVMLError_FunctionNotFound:  # drivers before 535 know the call's older name only
            return int(self._library.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))

    def _ecc(self) -> int:
        return int(self._library.nvmlDeviceGetTotalEccErrors(self._handle, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC))

    def traffic(self, now_s: float) -> Reading:
        """MB/s over the link. Counters where the card has them; else NVML measures for 20 ms a direction (nvml.h)."""
        fields = {"pcie_rx_mb_s": NVML_FI_DEV_PCIE_COUNT_RX_BYTES, "pcie_tx_mb_s": NVML_FI_DEV_PCIE_COUNT_TX_BYTES}
        counters = self._ask("counters", lambda: self._counters(list(fields.values())), now_s)
        if counters is not None:
            rates = {name: self._rate.of(name, value, now_s) for name, value in zip(fields, counters, strict=True)}
            return {name: round(rate / 1e6, 2) for name, rate in rates.items() if rate is not None}
        directions = {"pcie_rx_mb_s": NVML_PCIE_UTIL_RX_BYTES, "pcie_tx_mb_s": NVML_PCIE_UTIL_TX_BYTES}
        reading: Reading = {}
        for name, direction in directions.items():
            kb_s = self._ask(name, partial(self._library.nvmlDeviceGetPcieThroughput, self._handle, direction), now_s)
            if kb_s is not None:
                reading[name] = round(kb_s / 1000, 2)
        return reading

    def _counters(self, fields: Sequence[int]) -> list[int]:
        answers = self._library.nvmlDeviceGetFieldValues(self._handle, list(fields))
        for answer in answers:
            if answer.nvmlReturn:
                raise NVMLError_NotSupported
        return [int(answer.value.ullVal) for answer in answers]

    def _use_of(self, pids: frozenset[int]) -> float:
        """Percent of the card's time that these processes took, as the driver's own samples since the last call say."""
        try:
            samples = self._library.nvmlDeviceGetProcessUtilization(self._handle, self._seen_us)
        except NVMLError_NotFound:  # none since then: nobody worked
            return 0.0
        self._seen_us = max([self._seen_us, *(sample.timeStamp for sample in samples)])
        taken: dict[int, list[int]] = {}
        for sample in samples:
            if sample.pid in pids:
                taken.setdefault(sample.pid, []).append(sample.smUtil)
        return round(sum(sum(values) / len(values) for values in taken.values()), 1)

    def _process_name(self, pid: int) -> str:
        try:
            name = self._library.nvmlSystemGetProcessName(pid)
        except NVMLError:
            return "a process"
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        return text.split(" ")[0].rsplit("/", 1)[-1] or "a process"


def _processes(library: Any, handle: Any) -> list[Any]:
    """Processes with memory on the card, those that compute and those that draw; one that does both is told once."""
    found: dict[int, Any] = {}
    for list_them in (library.nvmlDeviceGetComputeRunningProcesses, library.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            found |= {process.pid: process for process in list_them(handle)}
        except NVMLError_NotSupported:
            continue
    return list(found.values())


def _merged(readings: Iterable[tuple[str, Reading]]) -> Reading:
    return {f"{name}/{address}": value for address, reading in readings for name, value in reading.items()}
