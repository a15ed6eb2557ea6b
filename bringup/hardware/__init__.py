"""What a machine is: the facts that a plan is made from.

All models are frozen. A value that could not be learnt is ``None`` (or empty), and `HostFacts.unknown` says why, by the
name of the probe's section. Nothing here is a guess.
"""

from bringup.hardware.base import Frozen
from bringup.hardware.cpu import Cpu, L3Group, NumaNode, SmtState
from bringup.hardware.gpu import Gpu, GpuClocks, GpuPower, GpuProcess, GpuState, GpuTemperature, PcieLink
from bringup.hardware.host import HostFacts, RootAccess
from bringup.hardware.memory import Memory, MemoryFacts, MemoryModule
from bringup.hardware.software import (
    ContainerSoftware,
    CudaToolkit,
    GpuCheckRecord,
    KernelModule,
    NvidiaSoftware,
    ServedRelease,
    SmokeRecord,
)
from bringup.hardware.system import AptSource, Board, Confines, Disk, OperatingSystem, System
from bringup.hardware.tuning import TuningFacts

__all__ = [
    "AptSource",
    "Board",
    "Confines",
    "ContainerSoftware",
    "Cpu",
    "CudaToolkit",
    "Disk",
    "Frozen",
    "Gpu",
    "GpuCheckRecord",
    "GpuClocks",
    "GpuPower",
    "GpuProcess",
    "GpuState",
    "GpuTemperature",
    "HostFacts",
    "KernelModule",
    "L3Group",
    "Memory",
    "MemoryFacts",
    "MemoryModule",
    "NumaNode",
    "NvidiaSoftware",
    "OperatingSystem",
    "PcieLink",
    "RootAccess",
    "ServedRelease",
    "SmokeRecord",
    "SmtState",
    "System",
    "TuningFacts",
]
