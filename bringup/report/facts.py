"""A host's facts for people: findings first, then what the machine is and how that was learnt."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bringup.catalog import Catalog
from bringup.cpu_list import format_cpu_list
from bringup.findings import Finding
from bringup.hardware import Gpu, HostFacts, PcieLink

_STYLES = {"problem": "bold red", "impossible": "bold red", "warning": "yellow", "note": "dim"}
_NO_NAMES = ("System Product Name", "System manufacturer", "To Be Filled By O.E.M.", "Default string")
"""What firmware says that nobody filled in."""
Row = tuple[str, str, str]
"""What it is about, what is known, and how it was learnt."""


def render_facts(host: str, facts: HostFacts, findings: Sequence[Finding], catalog: Catalog) -> RenderableType:
    """Put one host's findings and facts together."""
    return Group(Text(host, style="bold"), findings_table(findings), _facts_table(facts, catalog), Text())


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """The findings, as they are sorted; a line in words where there are none."""
    if not findings:
        return Text("Nothing wrong or wasted was found.", style="green")
    table = Table("", "Found", "What it may cost", box=box.SIMPLE)
    for finding in findings:
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), escape(finding.text), escape(finding.cost))
    return table


def _facts_table(facts: HostFacts, catalog: Catalog) -> RenderableType:
    table = Table("", "What it is", box=box.SIMPLE)
    table.add_column("Learnt from", max_width=24)
    rows = [*_system(facts), *_cpu(facts), *_memory(facts), *_gpus(facts, catalog), *_software(facts), *_deployed(facts)]
    for about, what, source in rows:
        table.add_row(about, escape(what), Text(source, style="dim"))
    for section, reason in facts.unknown.items():
        table.add_row(Text("not known", style="yellow"), escape(f"{section}: {reason}"), "")
    return table


def _listed(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _switch(name: str, value: bool | None) -> str | None:
    return None if value is None else f"{name} {'on' if value else 'off'}"


def _system(facts: HostFacts) -> Iterator[Row]:
    system = facts.system
    if board := system.board:
        said = (board.vendor, board.product, board.board_vendor, board.board)
        names = " ".join(dict.fromkeys(name for name in said if name and name not in _NO_NAMES))
        yield "machine", f"{names}, firmware {board.firmware_version} of {board.firmware_date}", "SMBIOS in sysfs"
    where = "bare metal" if facts.virtualization == "none" else facts.virtualization
    yield (
        "runs in",
        _listed(where, f"process 1 is {facts.init}", f"login {facts.login_user} (root: {facts.root_access})"),
        "systemd-detect-virt",
    )
    yield "system", _listed(facts.os.name, f"kernel {facts.os.kernel}", facts.os.architecture), "os-release, uname"
    boot = _listed(
        system.boot and system.boot.upper(),
        _switch("Secure Boot", system.secure_boot),
        f"lockdown {system.lockdown}" if system.lockdown else None,
        None if system.iommu_groups is None else f"IOMMU {'on' if system.iommu_groups else 'off'}",
        f"transparent huge pages {system.transparent_hugepages}" if system.transparent_hugepages else None,
        f"swap {facts.memory.swap_mib} MiB",
    )
    yield "boot and kernel", boot, "sysfs, procfs"
    if system.kernel_command_line:
        yield "kernel command line", system.kernel_command_line, "/proc/cmdline"
    upkeep = _listed(
        f"time zone {system.time_zone}" if system.time_zone else None,
        _switch("clock synchronisation", system.clock_synchronized),
        _switch("unattended upgrades", system.unattended_upgrades),
        f"on hold: {' '.join(system.package_holds)}" if system.package_holds else None,
    )
    if upkeep:
        yield "upkeep", upkeep, "timedatectl, apt, dpkg"


def _cpu(facts: HostFacts) -> Iterator[Row]:
    cpu = facts.cpu
    cores = f"{cpu.physical_cores} cores"
    if cpu.performance:
        usable = set(cpu.usable)
        fast, slow = (len({cpu.core_of[c] for c in kind if c in usable}) for kind in (cpu.performance, cpu.efficiency))
        cores += f" ({fast} performance, {slow} efficiency)"
    threads = f"{len(cpu.usable)} threads" + (f" (time of {cpu.quota_cpus:g})" if cpu.quota_cpus else "")
    sockets = f"{cpu.sockets} socket{'s' if cpu.sockets != 1 else ''}" if cpu.sockets else None
    smt = (
        f"SMT {cpu.smt}" + ("" if cpu.smt_switchable or cpu.smt not in ("on", "off") else ", not switchable here")
        if cpu.smt
        else None
    )
    mhz = f"up to {cpu.max_mhz} MHz" if cpu.max_mhz else None
    governor = f"governor {cpu.governor} ({cpu.frequency_driver})" if cpu.governor else None
    yield "CPU", _listed(cpu.model, sockets, cores, threads, smt, mhz, governor), "sysfs, procfs, cgroup"
    if cpu.l3_groups:
        groups = (
            f"CPUs {format_cpu_list(group.cpus)}: {group.size_kib // 1024} MiB" if group.size_kib else format_cpu_list(group.cpus)
            for group in cpu.l3_groups
        )
        yield "L3 caches", "; ".join(groups), "sysfs"
    for node in facts.numa_nodes:
        what = f"CPUs {format_cpu_list(node.cpus) or 'none'}, {node.memory_mib} MiB"
        distances = f", distances {' '.join(map(str, node.distances))}" if len(node.distances) > 1 else ""
        yield f"NUMA node {node.id}", what + distances, "sysfs"


def _memory(facts: HostFacts) -> Iterator[Row]:
    yield "memory", f"{facts.memory.total_mib} MiB, {facts.memory.available_mib} MiB available", "/proc/meminfo, cgroup"
    memory = facts.memory_modules
    if memory is None:
        return
    sizes = Counter(f"{module.size_mib / 1024:g} GiB {module.type or ''}".strip() for module in memory.modules)
    modules = " + ".join(f"{count} × {size}" for size, count in sizes.items())
    empty = f"{memory.empty_slots} slots empty" if memory.empty_slots else "no slot empty"
    rated = f"rated {memory.rated_mt_s} MT/s" if memory.rated_mt_s else None
    runs = f"runs at {memory.configured_mt_s} MT/s" if memory.configured_mt_s else None
    yield "modules", _listed(modules or "none", empty, rated, runs, _switch("ECC", memory.ecc)), "SMBIOS (dmidecode)"
    if memory.channels:
        sure = "inferred" if memory.channels_inferred else "told"
        bandwidth = f"{memory.bandwidth_gb_s:.1f} GB/s at most" if memory.bandwidth_gb_s else None
        plural = "s" if memory.channels != 1 else ""
        yield "channels", _listed(f"{memory.channels} channel{plural} populated", bandwidth), f"{sure}: {memory.channels_reason}"
    else:
        yield "channels", f"not known: {memory.channels_reason}", "SMBIOS (dmidecode)"


def _link(link: PcieLink | None) -> str:
    if link is None:
        return "?"
    return f"{link.generation or '?'}.0 x{link.lanes or '?'}"


def _gpus(facts: HostFacts, catalog: Catalog) -> Iterator[Row]:
    if not facts.gpus:
        yield "card", "no NVIDIA card", "PCI devices in sysfs"
    for number, gpu in enumerate(facts.gpus):
        about = f"card {number}"
        known = catalog.gpu(gpu.pci_id)
        name = gpu.driver_name or (known.name if known else "unknown card")
        yield about, f"{name} ({gpu.pci_id}) at {gpu.pci_address}", "PCI id in sysfs" + (", nvidia-smi" if gpu.driver_name else "")
        if known:
            speed = f"{known.vram_mib} MiB at {known.bandwidth_gb_s:g} GB/s"
            yield "", f"{known.architecture}, compute capability {known.compute_capability}, {speed}", "catalog"
        node = "no NUMA node" if gpu.numa_node is None else f"NUMA node {gpu.numa_node}"
        link = f"PCIe now {_link(gpu.link_now)}, card {_link(gpu.link_max)}, slot {_link(gpu.slot_max)}"
        yield "", _listed(link, node, f"held by {gpu.kernel_driver or 'no driver'}"), "sysfs"
        yield from _state(gpu)


def _state(gpu: Gpu) -> Iterator[Row]:
    state = gpu.state
    if state is None:
        return
    power, temperature, clocks = state.power, state.temperature, state.clocks
    memory = f"{state.memory_used_mib} of {state.memory_total_mib} MiB used, {state.memory_reserved_mib} reserved"
    yield (
        "",
        _listed(memory, _switch("ECC", state.ecc_now), _switch("MIG", state.mig), f"compute mode {state.compute_mode}"),
        "nvidia-smi -q",
    )
    yield (
        "",
        _listed(
            f"{power.draw_w} W of {power.limit_w} W (usual {power.default_limit_w}, at most {power.max_limit_w})",
            f"{temperature.now_c} °C, slows down at {temperature.slowdown_c} °C",
            f"{clocks.sm_mhz} of {clocks.max_sm_mhz} MHz in {state.performance_state}",
            _switch("persistence", state.persistence_mode),
            f"slowed by {' '.join(state.throttle_reasons)}" if state.throttle_reasons else None,
        ),
        "nvidia-smi -q",
    )


def _software(facts: HostFacts) -> Iterator[Row]:
    nvidia = facts.nvidia
    if nvidia.running_version:
        kind = {True: " (open modules)", False: " (closed modules)", None: ""}[nvidia.open_modules]
        yield "NVIDIA driver", f"{nvidia.running_version}{kind}", "/proc/driver/nvidia"
    elif facts.gpus:
        yield "NVIDIA driver", "not loaded", "/proc/driver/nvidia"
    for module in nvidia.modules:
        has = f"NVIDIA {module.nvidia_version}" if module.nvidia_version else "no NVIDIA module"
        dkms = f"DKMS: {module.dkms}" if module.dkms else None
        yield f"kernel {module.kernel}", _listed(has, dkms, "running" if module.running else None), "/lib/modules, dkms"
    for toolkit in nvidia.toolkits:
        yield "CUDA toolkit", f"{toolkit.version or 'unknown version'} in {toolkit.path}", "file system"


def _deployed(facts: HostFacts) -> Iterator[Row]:
    for disk in facts.disks:
        what = f"{disk.free_mib / 1024:.0f} GiB free on {disk.device}" + (f" ({disk.filesystem})" if disk.filesystem else "")
        yield disk.path, what, "df"
    if facts.engines:
        yield "engines", ", ".join(sorted(facts.engines)), "/opt/bringup"
    if facts.models:
        yield "models", ", ".join(sorted(facts.models)), "/var/lib/bringup"
    if facts.served:
        yield "served", f"release {facts.served.digest}, vllm.service is {facts.service_state}", "/opt/bringup, systemd"
