"""The whole probe: labelled sections → `HostFacts`."""

from collections.abc import Callable
from typing import TypeVar, cast

from bringup.hardware import Confines, Cpu, Disk, Gpu, GpuState, HostFacts, Memory, MemoryFacts, NumaNode, RootAccess
from bringup.onhost.lock import at_work
from bringup.probe.containers import parse_containers
from bringup.probe.cpu import parse_cpu, parse_numa
from bringup.probe.dmidecode import parse_memory
from bringup.probe.gpu import DriverRow, bus_of, parse_nvidia_smi_list, parse_pci_displays, refine_with_nvidia_smi
from bringup.probe.installed import parse_gpu_check, parse_home, parse_markers, parse_release, parse_service, parse_smoke
from bringup.probe.memory import parse_memory_use
from bringup.probe.nvidia import parse_nvidia, parse_packages
from bringup.probe.nvidia_smi import parse_nvidia_smi_xml
from bringup.probe.sections import key_values, split_sections
from bringup.probe.system import (
    parse_confines,
    parse_disks,
    parse_operating_system,
    parse_sysctls,
    parse_system,
    parse_virtualization,
)
from bringup.probe.tuning import parse_tuning

T = TypeVar("T")


class _Reading:
    """The sections, and what could not be read of them so far."""

    def __init__(self, text: str) -> None:
        self.sections = split_sections(text)
        self.unknown: dict[str, str] = {}

    def body(self, section: str) -> str:
        return self.sections.get(section, "")

    def read(self, section: str, parse: Callable[[str], T], otherwise: T) -> T:
        """Parse a section; a parser that refuses it makes the section unknown, with the parser's reason."""
        try:
            return parse(self.body(section))
        except (ValueError, IndexError) as error:
            self.unknown[section] = str(error)
            return otherwise

    def note(self, section: str, known: bool, reason: str) -> None:
        """Say why something is not known, unless the section has a reason already."""
        if not known:
            self.unknown.setdefault(section, reason)


def _modules(text: str) -> MemoryFacts | None:
    if text.startswith("dmidecode "):  # the probe's own words for why there is nothing
        raise ValueError(text.splitlines()[0])
    return parse_memory(text)


def _with_states(gpus: tuple[Gpu, ...], states: dict[str, GpuState], rows: dict[str, DriverRow]) -> tuple[Gpu, ...]:
    """Add the driver's long report; also the cards that it alone shows, as where sysfs is hidden (gVisor, WSL2)."""
    seen = {bus_of(gpu.pci_address) for gpu in gpus}
    hidden = tuple(
        Gpu(pci_address=bus, pci_id=state.pci_id, numa_node=None, kernel_driver=None)
        for bus, state in states.items()
        if bus not in seen and state.pci_id is not None
    )
    every = refine_with_nvidia_smi((*gpus, *hidden), rows)
    return tuple(gpu.model_copy(update={"state": states.get(bus_of(gpu.pci_address))}) for gpu in every)


def _cards(reading: _Reading, running_version: str | None) -> tuple[Gpu, ...]:
    none: tuple[Gpu, ...] = ()
    no_states: dict[str, GpuState] = {}
    gpus = reading.read("pci-display", parse_pci_displays, none)
    # without a card that NVIDIA's driver holds, a missing nvidia-smi is no failure
    driven = any(gpu.kernel_driver == "nvidia" for gpu in gpus) or running_version is not None
    if not driven and (gpus or reading.body("nvidia-smi").startswith("nvidia-smi is not")):
        return gpus
    no_rows: dict[str, DriverRow] = {}
    rows = reading.read("nvidia-smi", parse_nvidia_smi_list, no_rows)
    if "nvidia-smi" in reading.unknown:
        return gpus
    states = reading.read("nvidia-smi-xml", parse_nvidia_smi_xml, no_states)
    return _with_states(gpus, states, rows)


def parse_host(text: str) -> HostFacts:
    """Turn the output of probe.sh into facts.

    A section that is missing or garbled becomes unknown with a reason; only output that is not the probe's at all raises.

    Raises:
        ValueError: the output is not the probe's, or was cut off.
    """
    reading = _Reading(text)
    body, read, note = reading.body, reading.read, reading.note

    identity = key_values(body("identity"))
    no_home: str | None = None
    no_modules: MemoryFacts | None = None
    no_nodes: tuple[NumaNode, ...] = ()
    no_disks: tuple[Disk, ...] = ()
    os = parse_operating_system(body("os-release"), body("uname"))
    virtualization, container = parse_virtualization(body("virtualization"), body("board"), os.kernel)
    packages, holds = parse_packages(body("packages"))
    nodes = read("numa", parse_numa, no_nodes)
    cpu = read(
        "cpus",
        lambda cpus: parse_cpu(cpus, body("cpu-lists"), body("cpu-allowed"), body("cpu-model"), body("cgroup"), nodes),
        Cpu(model="unknown", usable=(), core_of={}, node_of={}),
    )
    sysctls, read_only = parse_sysctls(body("sysctl"))
    service = parse_service(body("service"))
    clock = read("clock", int, 0)
    system = parse_system(reading.sections, container, packages, holds)
    nvidia = parse_nvidia(
        body("nvidia-module"),
        packages,
        body("kernels"),
        body("dkms"),
        body("cuda"),
        body("kernel-log"),
        os.kernel,
        body("driver-origin"),
    )
    note("packages", holds is not None, body("packages").strip())
    note("kernel-log", not body("kernel-log").startswith("dmesg "), body("kernel-log").strip())
    note("numa", bool(nodes), "the kernel shows no NUMA node")
    note("cpus", cpu.sockets is not None, "the kernel shows no topology: each logical CPU counts as a core")
    note("board", system.board is not None, "the firmware names no machine")
    note("firmware", system.secure_boot is not None, "the firmware's variables cannot be seen from here")
    note("time", system.clock_synchronized is not None, "timedatectl does not answer: whether the clock is kept is not known")
    return HostFacts(
        os=os,
        init=body("init").strip() or "unknown",
        virtualization=virtualization,
        root_access=cast(RootAccess, identity["root"]) if identity.get("root") in ("root", "sudo") else "none",
        login_user=identity.get("user", "unknown"),
        clock_unix_s=clock,
        cpu=cpu,
        memory=read(
            "meminfo",
            lambda meminfo: parse_memory_use(meminfo, body("cgroup")),
            Memory(total_mib=0, available_mib=0),
        ),
        numa_nodes=nodes,
        memory_modules=read("dmidecode", _modules, no_modules),
        gpus=_cards(reading, nvidia.running_version),
        disks=read("disk", parse_disks, no_disks),
        sysctls=sysctls,
        read_only_sysctls=read_only,
        system=system,
        confines=read("confines", parse_confines, Confines()),
        tuning=parse_tuning(reading.sections),
        nvidia=nvidia,
        containers=parse_containers(body("containers")),
        engines=parse_markers(body("engines")),
        models=parse_markers(body("models")),
        model_folder_holds_model={"present": True, "absent": False}.get(body("model-folder").strip()),
        served=parse_release(body("release")),
        service_user_home=read("service-user", parse_home, no_home),
        service_state=service.active,
        service_enabled=service.enabled,
        foreign_unit=service.foreign,
        systemd_version=service.systemd_version,
        run_at_work=at_work(body("run-lock"), clock) if body("run-lock") else None,
        smoke=parse_smoke(body("smoke")),
        gpu_check=parse_gpu_check(body("gpu-check")),
        unknown=reading.unknown,
    )
