"""Settings of the host that this machine's facts justify: what, why, with which evidence, and how each is read back.

What has no effect here is not in the list: NUMA balancing with one node, swappiness without swap, a governor that is right
already. What has an effect that nobody has shown to help is in the list and off (`HostSetting.default_on`): it is offered.

Left alone, for want of any evidence that a server of this kind gains from them: vm.dirty_* (the server writes nothing but
logs), vm.min_free_kbytes and vm.zone_reclaim_mode (the kernel's defaults), fs.file-max (systemd raises it at boot; the service's
own limit is the one that counts).
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from bringup.findings import Finding
from bringup.findings.cpu import OWN_CLOCK_DRIVERS
from bringup.findings.finding import warning
from bringup.hardware import Frozen, Gpu, HostFacts
from bringup.plan.placement import Placement

Evidence = Literal["measured", "vendor", "documentation", "folklore", "none"]
"""Why we believe that a setting helps: we measured it; its maker says so; documentation or source says what it does, and that
it is of use here follows; people say so; no reason at all."""

_NO_EFFECT_SHOWN = "effect on latency not measured by us"


class HostSetting(Frozen):
    """One setting of the host outside vLLM."""

    key: str
    """The sysctl's name, or the field's name for it: ``cpu_governor``, ``gpu_power_limit_w``."""
    kind: Literal["sysctl", "sysfs", "limit", "gpu"]
    value: str
    now: str | None
    """What it is now; None where it could not be learnt."""
    why: str
    evidence: Evidence
    source: str
    read_back: str
    """Command that prints the live value."""
    writable: bool | None
    """Whether root can set it from inside this host; None where that is not known."""
    default_on: bool
    """Whether the plan sets it; else it is offered, and set only where the inventory asks for it."""


def plan_host(facts: HostFacts, placement: Placement, gpu: Gpu | None) -> tuple[HostSetting, ...]:
    """List what may be set on this host.

    Args:
        facts: the host.
        placement: where the server runs.
        gpu: the card that serves; None for the CPU backend.
    """
    return (
        *_sysctls(facts, placement),
        *_service_limits(facts),
        *_transparent_hugepages(facts),
        *_clocks(facts),
        *_smt(facts, placement),
        *_power_limit(facts, gpu),
    )


def owner_findings(settings: Iterable[HostSetting], facts: HostFacts) -> tuple[Finding, ...]:
    """Name what the plan would set and cannot from inside this host, for the owner of the machine that runs it."""
    findings = []
    for setting in settings:
        if setting.default_on and setting.writable is False and setting.now != setting.value:
            command = f": sysctl -w {setting.key}={setting.value}" if setting.kind == "sysctl" else f", to {setting.value}"
            # without the live value: this text is kept with the release, and must not change by itself
            text = (
                f"{setting.key} cannot be set from inside this host ({facts.virtualization}); its owner can set it on the machine "
                f"that runs it{command}"
            )
            findings.append(warning("owner-must-set", text, f"{setting.evidence}: {setting.why}"))
    return tuple(findings)


def _sysctls(facts: HostFacts, placement: Placement) -> Iterator[HostSetting]:
    if facts.memory.swap_mib and "vm.swappiness" in facts.sysctls:
        yield _sysctl(
            facts,
            "vm.swappiness",
            "10",
            "the kernel gives up cached files before it swaps out memory of the server: a swapped-out page of its tokenizer or "
            "scheduler delays a token",
            f"kernel documentation, admin-guide/sysctl/vm.rst; that it is 10 is custom; {_NO_EFFECT_SHOWN}",
        )
    nodes_with_cpus = [node for node in facts.numa_nodes if node.cpus]
    serving_nodes = {facts.cpu.node_of.get(cpu) for cpu in placement.serving_cpus}
    balancing = facts.sysctls.get("kernel.numa_balancing")
    if len(nodes_with_cpus) > 1 and len(serving_nodes) == 1 and balancing is not None:
        # 2 is memory tiering, which somebody chose
        yield _sysctl(
            facts,
            "kernel.numa_balancing",
            "0",
            "the server's CPUs are all on one node, so that moving pages automatically only costs faults",
            'kernel documentation, admin-guide/sysctl/kernel.rst: "should be disabled" for a workload that is bound to nodes; the '
            f"advice's 63 % less deviation is folklore; {_NO_EFFECT_SHOWN}",
            default_on=balancing in ("0", "1"),
        )
    backlog = facts.sysctls.get("net.core.somaxconn")
    if backlog is None or (backlog.isdecimal() and int(backlog) < 2048):
        yield _sysctl(
            facts,
            "net.core.somaxconn",
            "4096",
            "the server asks for a queue of 2048 connections that wait to be accepted, and the kernel cuts that down to this; "
            "4096 is the kernel's own default since 5.4",
            "uvicorn config.py: backlog=2048, which vLLM 0.33.0 leaves as it is (entrypoints/launchers/launcher.py); listen(2)",
            # offered: once it is set, it cannot be told from a kernel's own default, and the next plan would take it back
            default_on=False,
        )


def _sysctl(facts: HostFacts, key: str, value: str, why: str, source: str, *, default_on: bool = True) -> HostSetting:
    writable = None if key not in facts.sysctls else key not in facts.read_only_sysctls and facts.root_access != "none"
    return HostSetting(
        key=key,
        kind="sysctl",
        value=value,
        now=facts.sysctls.get(key),
        why=why,
        evidence="documentation",
        source=source,
        read_back=f"sysctl -n {key}",
        writable=writable,
        default_on=default_on,
    )


def _service_limits(facts: HostFacts) -> Iterator[HostSetting]:
    """Limits of the service's processes; they are ours to set where systemd starts it."""
    systemd = facts.init == "systemd"
    writable = facts.root_access != "none" if systemd else None
    process = "$(systemctl show --property=MainPID --value vllm.service)" if systemd else "$(pgrep -o -f 'vllm serve')"
    yield HostSetting(
        key="nofile",
        kind="limit",
        value="65536",
        now=None,
        why="a connection is a file; vLLM raises its own limit to 65535 at its start, which fails where the hard limit is less",
        evidence="documentation",
        source="vLLM 0.33.0 utils/system_utils.py: set_ulimit",
        read_back=f"prlimit --nofile --noheadings --output=HARD --pid {process}",
        writable=writable,
        default_on=True,
    )
    yield HostSetting(
        key="memlock",
        kind="limit",
        value="unlimited",
        now=None,
        why="vLLM locks no memory itself, and the driver pins memory without regard to this limit; InfiniBand between several "
        "hosts would need it, which is not served here",
        evidence="none",
        source="no mlock in vLLM 0.33.0; the driver's part is hearsay",
        read_back=f"prlimit --memlock --noheadings --output=HARD --pid {process}",
        writable=writable,
        default_on=False,
    )


def _machine_writable(facts: HostFacts) -> bool:
    """Settings of the machine, not of the host: a container's are its owner's."""
    return facts.system.container is None and facts.root_access != "none"


def _transparent_hugepages(facts: HostFacts) -> Iterator[HostSetting]:
    now = facts.system.transparent_hugepages
    if now is None:
        return
    if now == "madvise":
        why = "stays as it is: programs that want huge pages ask for them, no others wait while the kernel makes some"
    elif now == "always":
        why = "with always, any program may wait while the kernel makes a huge page, and takes more memory; "
        why += "madvise leaves that to those that ask"
    else:
        why = "with never, programs that ask for huge pages get none; whether the server's would gain is not known"
    yield HostSetting(
        key="transparent_hugepage",
        kind="sysfs",
        value="madvise",
        now=now,
        why=why,
        evidence="documentation" if now != "never" else "none",
        source=f"kernel documentation, admin-guide/mm/transhuge.rst; {_NO_EFFECT_SHOWN}",
        read_back=r"sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled",
        writable=_machine_writable(facts),
        default_on=False,
    )


def _clocks(facts: HostFacts) -> Iterator[HostSetting]:
    """Governor, the processor's bias and its idle states; a virtual machine's are the business of what runs it."""
    driver, governor = facts.cpu.frequency_driver, facts.cpu.governor
    if driver is None or governor is None:
        return
    own_clock = driver in OWN_CLOCK_DRIVERS
    lowest = "powersave" in governor.split(",") and not own_clock
    if governor != "performance":
        if lowest:
            why = f"powersave of {driver} keeps the processor at its lowest clock"
        elif own_clock:
            why = f"{governor} of {driver} is not slow: the processor itself chooses its clock by load; "
            why += "performance asks it for the highest"
        else:
            why = f"{governor} raises the clock after work has come; performance keeps it up, at the cost of power and heat"
        yield HostSetting(
            key="cpu_governor",
            kind="sysfs",
            value="performance",
            now=governor,
            why=why,
            evidence="documentation",
            source=f"kernel documentation, admin-guide/pm (cpufreq, intel_pstate, amd-pstate); {_NO_EFFECT_SHOWN}",
            read_back="cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor | sort -u",
            writable=_machine_writable(facts),
            default_on=False,  # no step of the deploy sets it yet
        )
    if own_clock and governor == "powersave":
        yield HostSetting(
            key="cpu_energy_performance_preference",
            kind="sysfs",
            value="performance",
            now=None,
            why="the milder way than the governor, and instead of it: a bias for the processor's own choice of clock",
            evidence="none",
            source=f"kernel documentation, admin-guide/pm/intel_pstate.rst and amd-pstate.rst; {_NO_EFFECT_SHOWN}",
            read_back="cat /sys/devices/system/cpu/cpu*/cpufreq/energy_performance_preference | sort -u",
            writable=_machine_writable(facts),
            default_on=False,
        )
    yield HostSetting(
        key="cpu_idle_latency_us",
        kind="sysfs",
        value="1",
        now=None,
        why="forbids idle states that take longer to leave; cores that wait for the card between steps might wake sooner, and "
        "all of them draw more power, which takes from the others' turbo clocks",
        evidence="folklore",
        source="the figure of tuned's latency-performance profile (force_latency), held open in /dev/cpu_dma_latency; "
        f"{_NO_EFFECT_SHOWN}",
        read_back="od -An -td4 -N4 /dev/cpu_dma_latency | tr -d ' '",
        writable=_machine_writable(facts),
        default_on=False,
    )


def _smt(facts: HostFacts, placement: Placement) -> Iterator[HostSetting]:
    if facts.cpu.smt != "on":
        return
    same = "the plan leaves the siblings of serving cores idle, which does the same for the server; " if placement.idle_cpus else ""
    yield HostSetting(
        key="smt",
        kind="sysfs",
        value="off",
        now="on",
        why=f"{same}switching it off takes the second threads from everything else as well",
        evidence="folklore",
        source=f"the advice, whose figures were taken with SMT off and never with it on; {_NO_EFFECT_SHOWN}",
        read_back="cat /sys/devices/system/cpu/smt/control",
        writable=facts.cpu.smt_switchable,
        default_on=False,
    )


def _power_limit(facts: HostFacts, gpu: Gpu | None) -> Iterator[HostSetting]:
    """Offer the card's default where another limit is set; nothing above the default is ever planned."""
    power = gpu.state.power if gpu is not None and gpu.state is not None else None
    if gpu is None or power is None or power.limit_w is None or power.default_limit_w is None:
        return
    if power.limit_w == power.default_limit_w:
        return
    if power.limit_w < power.default_limit_w:
        why = (
            "somebody set less than the card's default, perhaps for its power supply or its cooling: ask first; the clocks of long "
        )
        why += "prompts and many streams suffer, decoding for one user is bound by memory"
    else:
        why = "somebody set more than the card's default; the plan never does"
    yield HostSetting(
        key="gpu_power_limit_w",
        kind="gpu",
        value=f"{power.default_limit_w:.2f}",
        now=f"{power.limit_w:.2f}",
        why=why,
        evidence="vendor",
        source=f"the card's default, as its driver says; {_NO_EFFECT_SHOWN}",
        read_back=f"nvidia-smi --id={gpu.pci_address} --query-gpu=power.limit --format=csv,noheader,nounits",
        writable=None if facts.system.container is not None else facts.root_access != "none",
        default_on=False,
    )
