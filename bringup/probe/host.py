"""The whole probe: labelled sections → `HostFacts`."""

from collections.abc import Callable
from typing import TypeVar, cast

from bringup.hardware import Cpu, Disk, Gpu, HostFacts, Memory, MemoryFacts, NumaNode, OperatingSystem, RootAccess
from bringup.probe.cpu import parse_cpu, parse_numa
from bringup.probe.dmidecode import parse_memory
from bringup.probe.gpu import parse_pci_displays, refine_with_nvidia_smi
from bringup.probe.installed import parse_home, parse_markers, parse_release, parse_service, parse_smoke
from bringup.probe.memory import parse_memory_use
from bringup.probe.sections import key_values, split_sections

T = TypeVar("T")


def _operating_system(os_release: str, uname: str) -> OperatingSystem:
    release = key_values(os_release)
    words = uname.split()
    return OperatingSystem(
        id=release.get("ID", "unknown"),
        version_id=release.get("VERSION_ID", ""),
        name=release.get("PRETTY_NAME", "unknown"),
        kernel=words[0] if words else "unknown",
        architecture=words[-1] if words else "unknown",
    )


def _modules(text: str) -> MemoryFacts | None:
    if text.startswith("dmidecode "):  # the probe's own words for why there is nothing
        raise ValueError(text.splitlines()[0])
    return parse_memory(text)


def _disks(text: str) -> tuple[Disk, ...]:
    rows = (line.split() for line in text.splitlines())
    return tuple(Disk(path=row[0], free_mib=int(row[1]) // 1024, device=row[2]) for row in rows if len(row) == 3)


def _sysctls(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    rows = [line.split(maxsplit=2) for line in text.splitlines()]
    values = {row[0]: row[2] for row in rows if len(row) == 3}
    return values, tuple(row[0] for row in rows if len(row) == 3 and row[1] == "ro")


def parse_host(text: str) -> HostFacts:
    """Turn the output of probe.sh into facts.

    A section that is missing or garbled becomes unknown with a reason; only output that is not the probe's at all raises.

    Raises:
        ValueError: the output is not the probe's, or was cut off.
    """
    sections = split_sections(text)
    unknown: dict[str, str] = {}

    def read(section: str, parse: Callable[[], T], otherwise: T) -> T:
        try:
            return parse()
        except (ValueError, IndexError) as error:
            unknown[section] = str(error)
            return otherwise

    def body(name: str) -> str:
        return sections.get(name, "")

    identity = key_values(body("identity"))
    no_gpus: tuple[Gpu, ...] = ()
    no_home: str | None = None
    no_modules: MemoryFacts | None = None
    no_nodes: tuple[NumaNode, ...] = ()
    no_disks: tuple[Disk, ...] = ()
    gpus = read("pci-display", lambda: parse_pci_displays(body("pci-display")), no_gpus)
    if any(gpu.kernel_driver == "nvidia" for gpu in gpus):
        gpus = read("nvidia-smi", lambda: refine_with_nvidia_smi(gpus, body("nvidia-smi")), gpus)
    sysctls, read_only = _sysctls(body("sysctl"))
    service = parse_service(body("service"))
    return HostFacts(
        os=_operating_system(body("os-release"), body("uname")),
        init=body("init").strip() or "unknown",
        virtualization=body("virtualization").strip() or "unknown",
        root_access=cast(RootAccess, identity["root"]) if identity.get("root") in ("root", "sudo") else "none",
        login_user=identity.get("user", "unknown"),
        clock_unix_s=read("clock", lambda: int(body("clock")), 0),
        cpu=read(
            "lscpu",
            lambda: parse_cpu(body("lscpu"), body("cpu-allowed"), body("cpu-model")),
            Cpu(model="unknown", usable=(), core_of={}, node_of={}),
        ),
        memory=read(
            "meminfo",
            lambda: parse_memory_use(body("meminfo"), body("cgroup-memory")),
            Memory(total_mib=0, available_mib=0),
        ),
        numa_nodes=read("numa", lambda: parse_numa(body("numa")), no_nodes),
        memory_modules=read("dmidecode", lambda: _modules(body("dmidecode")), no_modules),
        gpus=gpus,
        disks=read("disk", lambda: _disks(body("disk")), no_disks),
        sysctls=sysctls,
        read_only_sysctls=read_only,
        engines=parse_markers(body("engines")),
        models=parse_markers(body("models")),
        served=parse_release(body("release")),
        service_user_home=read("service-user", lambda: parse_home(body("service-user")), no_home),
        service_state=service.active,
        service_enabled=service.enabled,
        foreign_unit=service.foreign,
        smoke=parse_smoke(body("smoke")),
        unknown=unknown,
    )
