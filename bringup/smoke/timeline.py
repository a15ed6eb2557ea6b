"""What was sampled beside the load: columns under one time axis, and what was learnt once about processes, cores and cards."""

from typing import Literal

from pydantic import Field, model_validator

from bringup.hardware import Frozen

SeriesName = Literal[
    # of a card (`of`: its PCI address)
    "gpu_util_percent",
    "gpu_memory_util_percent",
    "gpu_memory_mib",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "power_w",
    "temperature_c",
    "throttle_reasons",
    "pcie_rx_mb_s",
    "pcie_tx_mb_s",
    "pcie_generation",
    "pcie_lanes",
    "gpu_other_memory_mib",
    "gpu_other_util_percent",
    # of a logical CPU (`of`: its number), and of all of them
    "core_busy_percent",
    "cpu_steal_percent",
    "memory_available_mib",
    "pages_migrated_per_s",
    "numa_hint_faults_per_s",
    "numa_miss_per_s",
    "swapped_in_mib_per_s",
    # of a process of the server, or of the load client (`of`: its number)
    "process_cpu_percent",
    "hottest_thread_cpu_percent",
    "run_queue_delay_ms_per_s",
    "voluntary_switches_per_s",
    "involuntary_switches_per_s",
    "rss_mib",
    # of the server's cgroup; of its memory on one NUMA node (`of`: the node's number)
    "cgroup_throttled_ms_per_s",
    "node_memory_mib",
    # what the server says of itself (/metrics)
    "requests_running",
    "requests_waiting",
    "kv_use_percent",
    "preemptions_total",
    "server_requests_total",
    "server_ttft_count",
    "server_ttft_sum_s",
    "server_queue_count",
    "server_queue_sum_s",
    "server_prefill_count",
    "server_prefill_sum_s",
    "server_e2e_count",
    "server_e2e_sum_s",
]
"""What a series shows; its unit stands in the name.

`gpu_util_percent`: part of the time in which a kernel ran. `gpu_memory_util_percent`: part of the time in which the card's memory
was read or written. `throttle_reasons`: bits of NVML's clocks event reasons, see `THROTTLE_REASONS`. `gpu_other_memory_mib` and
`gpu_other_util_percent`: memory and time of the card that processes take which are not the server's. `run_queue_delay_ms_per_s`:
time that the process's threads were ready to run and waited for a CPU, added up over threads, so that it can exceed 1000.
`hottest_thread_cpu_percent`: of the thread that used most in that interval. `cgroup_throttled_ms_per_s`: time for which a CPU quota
stopped the cgroup. Names in `_total`, `_count` and `_sum_s` are counters since the server's start; `_sum_s` over `_count` is a mean
in seconds.
"""

THROTTLE_REASONS: dict[int, str] = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""NVML's clocks event reasons (nvml.h, nvmlClocksEventReason*), under the names that `nvidia-smi -q` and HostFacts use."""


class Series(Frozen):
    """One column: a value for each moment of `Timeline.at_s`; None where it was not sampled or could not be."""

    name: SeriesName
    unit: str
    """``%``, ``MiB``, ``MHz``, ``W``, ``°C``, ``MB/s``, ``ms/s``, ``1/s``, ``s``; empty for counts and bits."""
    of: str = ""
    """What it belongs to where there are several: a card's PCI address, a logical CPU, a process, a NUMA node."""
    label: str = ""
    """That in words: ``CPU 3``, ``VLLM::EngineCore (4711)``."""
    values: tuple[float | None, ...]


class SampledProcess(Frozen):
    """A process of the server, or the load client."""

    pid: int
    name: str
    """As it calls itself: ``VLLM::EngineCore``, ``vllm``."""
    role: Literal["api-server", "engine", "worker", "server", "client"]
    """``server``: one of the server's processes that is none of the others."""
    cpus: tuple[int, ...]
    """Logical CPUs that it may run on."""
    threads: int
    hottest_thread: str = ""
    """Name and number of the thread that used most CPU over the whole run; empty where threads could not be read."""


class SampledCard(Frozen):
    """A card as NVML described it while the load began; None where the card or the driver does not tell."""

    pci_address: str
    name: str
    max_sm_clock_mhz: int | None = None
    max_memory_clock_mhz: int | None = None
    application_clock_mhz: int | None = None
    """Of the SMs, as it is set; on cards that can be set."""
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    slowdown_c: int | None = None
    max_pcie_generation: int | None = None
    """What card and slot can do together."""
    max_pcie_lanes: int | None = None
    uncorrectable_ecc_errors: int | None = None
    """That came up during the run."""
    others: tuple[str, ...] = ()
    """Processes on the card that are not the server's, in words: ``python3 (812), 2048 MiB``."""


class Timeline(Frozen):
    """What was sampled beside the load."""

    interval_s: float
    """Between two moments of `at_s` as it was meant to be; some sources are read less often and have gaps."""
    at_s: tuple[float, ...]
    """Seconds since the run's start (monotonic), ascending."""
    series: tuple[Series, ...]
    server_is_local: bool = True
    """False: the server runs elsewhere, and only the client's side and /metrics were sampled."""
    processes: tuple[SampledProcess, ...] = ()
    siblings: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    """Logical CPU to the others on its physical core."""
    cards: tuple[SampledCard, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be sampled, and why; sentences for people."""
    sampler_cpu_percent: float | None = None
    """What sampling cost, in percent of one core."""

    @model_validator(mode="after")
    def _columns_are_even(self) -> "Timeline":
        for series in self.series:
            if len(series.values) != len(self.at_s):
                raise ValueError(f"{series.name} {series.of} has {len(series.values)} values for {len(self.at_s)} moments")
        return self

    def all(self, name: SeriesName) -> tuple[Series, ...]:
        """Every series of that name: one a card, CPU or process."""
        return tuple(series for series in self.series if series.name == name)

    def one(self, name: SeriesName, of: str | None = None) -> Series | None:
        """The series of that name (the first one, or that of `of`); None where it was not sampled."""
        return next((series for series in self.all(name) if of is None or series.of == of), None)

    def between(self, begin_s: float, end_s: float) -> "Timeline":
        """The part from `begin_s` to `end_s`, both included."""
        kept = [index for index, at in enumerate(self.at_s) if begin_s <= at <= end_s]
        first, end = (kept[0], kept[-1] + 1) if kept else (0, 0)
        series = tuple(one.model_copy(update={"values": one.values[first:end]}) for one in self.series)
        return self.model_copy(update={"at_s": self.at_s[first:end], "series": series})


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Names of the reasons that are set; a bit without a name is given as hexadecimal number."""
    names = []
    for shift in range(bits.bit_length()):
        bit = 1 << shift
        if bits & bit:
            names.append(THROTTLE_REASONS.get(bit, hex(bit)))
    return tuple(names)
