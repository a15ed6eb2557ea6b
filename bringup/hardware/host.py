"""The facts of one host, put together."""

from typing import Any, Literal

from pydantic import Field

from bringup.hardware.base import Frozen
from bringup.hardware.cpu import Cpu, NumaNode
from bringup.hardware.gpu import Gpu
from bringup.hardware.memory import Memory, MemoryFacts
from bringup.hardware.software import ContainerSoftware, GpuCheckRecord, NvidiaSoftware, ServedRelease, SmokeRecord
from bringup.hardware.system import Confines, Disk, OperatingSystem, System
from bringup.hardware.tuning import TuningFacts

RootAccess = Literal["root", "sudo", "none"]


class HostFacts(Frozen):
    """Everything that the planner and the deploy may know of a host before they start."""

    os: OperatingSystem
    init: str
    """``systemd`` where it runs the machine, else the name of process 1."""
    virtualization: str
    """As systemd-detect-virt says: ``none``, ``kvm``, ``docker``, ``systemd-nspawn``…"""
    root_access: RootAccess
    """How the login user gets root's rights: it is root, sudo without a password, or not at all."""
    login_user: str
    clock_unix_s: int
    cpu: Cpu
    memory: Memory
    numa_nodes: tuple[NumaNode, ...]
    memory_modules: MemoryFacts | None = None
    """What the firmware says of the memory; None where dmidecode is missing or may not be run."""
    gpus: tuple[Gpu, ...]
    disks: tuple[Disk, ...]
    sysctls: dict[str, str]
    """Live values of the settings that the planner knows, by dotted name."""
    read_only_sysctls: tuple[str, ...] = ()
    """Those of them that root cannot write here (a container whose owner must set them)."""
    system: System = System()
    confines: Confines = Confines()
    tuning: TuningFacts = TuningFacts()
    nvidia: NvidiaSoftware = NvidiaSoftware()
    containers: ContainerSoftware = ContainerSoftware()
    engines: dict[str, str] = Field(default_factory=dict)
    """Environments that are built on the host: folder name to the checksum of the requirement list they were built from."""
    models: dict[str, str] = Field(default_factory=dict)
    """Models that are complete on the host: folder name to the fingerprint of their source."""
    model_folder_holds_model: bool | None = None
    """Whether the folder that the inventory names on the host holds a model; None where it names none."""
    served: ServedRelease | None = None
    service_state: str = "absent"
    """State of the service by systemd's names (ActiveState), whoever manages it, or ``absent``."""
    service_user_home: str | None = None
    """Home of the user vllm; None where there is no such user."""
    foreign_unit: str | None = None
    """Path of a vllm.service that bringup did not write."""
    service_enabled: bool = False
    """Whether the service starts at boot."""
    run_at_work: str | None = None
    """Which other run of bringup is at work on the host, in words; None where there is none."""
    systemd_version: int | None = None
    """``252``; None where it is not known."""
    smoke: SmokeRecord | None = None
    gpu_check: GpuCheckRecord | None = None
    """The newest look at the cards as they run."""
    unknown: dict[str, str] = Field(default_factory=dict)
    """Probe section to the reason why it could not be read."""

    def to_json(self) -> Any:
        """What pyinfra prints for ``pyinfra INVENTORY fact facts.host.HostProbe``."""
        return self.model_dump(mode="json")

    def disk(self, path: str) -> Disk | None:
        """Where `path` is or will be; None when it is unknown."""
        return next((disk for disk in self.disks if disk.path == path), None)
