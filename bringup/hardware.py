"""What a machine is: the facts that a plan is made from.

All models are frozen. A value that could not be learnt is ``None`` (or empty), and `HostFacts.unknown` says why, by the
name of the probe's section. Nothing here is a guess.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RootAccess = Literal["root", "sudo", "none"]


class Frozen(BaseModel):
    """A value that nobody changes after it was made; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OperatingSystem(Frozen):
    """From /etc/os-release and uname."""

    id: str
    """``debian``, ``ubuntu``, …"""
    version_id: str
    """``12``, ``24.04``; empty on a rolling release."""
    name: str
    """For people: ``Debian GNU/Linux 12 (bookworm)``."""
    kernel: str
    architecture: str
    """As uname says: ``x86_64``."""


class Cpu(Frozen):
    """Processors that this host may use, which in a container can be fewer than the machine has."""

    model: str
    usable: tuple[int, ...]
    """Logical CPU numbers that are online and allowed to the login session."""
    core_of: dict[int, int]
    """Logical CPU number to physical core number (unique over all sockets)."""
    node_of: dict[int, int]
    """Logical CPU number to NUMA node."""

    @property
    def physical_cores(self) -> int:
        """Physical cores behind the usable logical CPUs."""
        return len({self.core_of.get(cpu, cpu) for cpu in self.usable})


class Memory(Frozen):
    """Main memory in MiB, the container's limit applied."""

    total_mib: int
    available_mib: int


class MemoryModule(Frozen):
    """One populated slot, or one soldered package."""

    locator: str
    bank: str
    size_mib: int
    type: str | None
    """``DDR5``, ``LPDDR5``…; None where the firmware does not tell."""
    rated_mt_s: int | None
    configured_mt_s: int | None
    data_width_bits: int | None
    total_width_bits: int | None
    """Wider than the data by the bits of error correction."""


class MemoryFacts(Frozen):
    """The machine's main memory as its firmware describes it."""

    modules: tuple[MemoryModule, ...]
    empty_slots: int
    type: str | None
    rated_mt_s: int | None
    """Of the slowest module; the firmware's figure, which for a kit with XMP or EXPO is often the plain JEDEC speed."""
    configured_mt_s: int | None
    """What the slowest module runs at."""
    channels: int | None
    """Populated 64-bit channels, all sockets together; None where it cannot be told or inferred."""
    channels_inferred: bool
    """True where the channels come from the kind of machine and not from the names of the slots."""
    channels_reason: str
    """How the channels were found, or why not."""
    total_gib: float
    bandwidth_gb_s: float | None
    """Theoretical: channels × 8 bytes × configured MT/s."""
    ecc: bool | None


class NumaNode(Frozen):
    """One NUMA node that has CPUs or memory."""

    id: int
    cpus: tuple[int, ...]
    memory_mib: int


class Gpu(Frozen):
    """One NVIDIA display controller, as sysfs shows it without a driver; the driver refines it."""

    pci_address: str
    pci_id: str
    """``10de:2685``, lower case."""
    numa_node: int | None
    kernel_driver: str | None
    """``nvidia``, ``nouveau``, ``vfio-pci``, or None where nothing holds the card."""
    driver_version: str | None = None
    driver_name: str | None = None
    """The card's name as nvidia-smi prints it."""
    driver_memory_mib: int | None = None
    """Memory in MiB as nvidia-smi prints it."""


class Disk(Frozen):
    """Free space for one folder of ours, measured at its nearest existing parent."""

    path: str
    device: str
    """As df names the file system; equal for folders that share one."""
    free_mib: int


class ServedRelease(Frozen):
    """What the host serves now."""

    digest: str
    content: str
    """Checksum of what its files said when it came up (onhost/content.py); another one, or ``none``: it must be started again."""
    decisions: dict[str, Any]
    """Setting to value, from the release's plan.json; empty when it could not be read."""


class SmokeRecord(Frozen):
    """The newest smoke record on the host, reduced to what decides whether to run it again."""

    request: dict[str, Any]
    """What was asked for, as the record holds it: release, prompt, lines…"""
    passed: bool


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
    engines: dict[str, str] = Field(default_factory=dict)
    """Environments that are built on the host: folder name to the checksum of the requirement list they were built from."""
    models: dict[str, str] = Field(default_factory=dict)
    """Models that are complete on the host: folder name to the fingerprint of their source."""
    served: ServedRelease | None = None
    service_state: str = "absent"
    """systemd's ActiveState of vllm.service, or ``absent``."""
    service_user_home: str | None = None
    """Home of the user vllm; None where there is no such user."""
    foreign_unit: str | None = None
    """Path of a vllm.service that bringup did not write."""
    service_enabled: bool = False
    """Whether vllm.service starts at boot."""
    smoke: SmokeRecord | None = None
    unknown: dict[str, str] = Field(default_factory=dict)
    """Probe section to the reason why it could not be read."""

    def disk(self, path: str) -> Disk | None:
        """Where `path` is or will be; None when it is unknown."""
        return next((disk for disk in self.disks if disk.path == path), None)
