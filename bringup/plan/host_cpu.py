"""Clocks, idle states, second threads and interrupts; a virtual machine's clocks are the business of what runs it."""

from collections.abc import Iterator, Mapping

from bringup.cpu_list import format_cpu_list
from bringup.findings.cpu import OWN_CLOCK_DRIVERS
from bringup.hardware import HostFacts
from bringup.host_settings import KEEP, PLANNED
from bringup.plan.host_setting import NO_EFFECT_SHOWN, Candidate, HostSetting, Unneeded, as_found, machine_writable
from bringup.plan.placement import Placement

_CPUS = "/sys/devices/system/cpu"


def cpu_settings(facts: HostFacts, placement: Placement, wishes: Mapping[str, str]) -> Iterator[Candidate]:
    """List them; what an inventory wishes of the governor decides whether the processor still has a say."""
    yield _governor(facts)
    yield _preference(facts, wishes)
    yield _idle_latency(facts, placement)
    yield _smt(facts, placement)
    yield _irq_affinity(facts, placement)


def _governor(facts: HostFacts) -> Candidate:
    key = "cpu_governor"
    driver, now = facts.cpu.frequency_driver, facts.cpu.governor
    governor = as_found(facts, key, now)
    if driver is None or governor is None:
        return Unneeded(key=key, why="the kernel rules no clocks here, as in a virtual machine")
    if governor == "performance":
        why = "as set in the inventory; it is the machine's own choice already"
    elif "powersave" in governor.split(",") and driver not in OWN_CLOCK_DRIVERS:
        why = f"powersave of {driver} keeps the processor at its lowest clock"
    elif driver in OWN_CLOCK_DRIVERS:
        why = f"{governor} of {driver} is not slow: the processor itself chooses its clock by load; "
        why += "performance asks it for the highest"
    else:
        why = f"{governor} raises the clock after work has come; performance keeps it up, at the cost of power and heat"
    setting = HostSetting(
        key=key,
        kind="sysfs",
        value="performance",
        now=now,
        why=why,
        evidence="documentation",
        source=f"kernel documentation, admin-guide/pm (cpufreq, intel_pstate, amd-pstate); {NO_EFFECT_SHOWN}",
        read_back="cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor | sort -u",
        writable=machine_writable(facts),
        default_on=False,
        paths=(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_governor",),
    )
    return Unneeded(key=key, why="it is performance already", setting=setting) if governor == "performance" else setting


def _preference(facts: HostFacts, wishes: Mapping[str, str]) -> Candidate:
    key = "cpu_energy_performance_preference"
    driver = facts.cpu.frequency_driver
    if driver not in OWN_CLOCK_DRIVERS:
        return Unneeded(key=key, why="no processor here chooses its clock by itself")
    wish = wishes.get("cpu_governor", KEEP)
    governor = as_found(facts, "cpu_governor", facts.cpu.governor) if wish == KEEP else wish
    if governor in ("performance", PLANNED):
        return Unneeded(key=key, why="under the governor performance the driver fixes it at performance itself")
    setting = HostSetting(
        key=key,
        kind="sysfs",
        value="performance",
        now=facts.cpu.energy_preference,
        why="the milder way than the governor, and instead of it: a bias for the processor's own choice of clock",
        evidence="none",
        source=f"kernel documentation, admin-guide/pm/intel_pstate.rst and amd-pstate.rst; {NO_EFFECT_SHOWN}",
        read_back="cat /sys/devices/system/cpu/cpu*/cpufreq/energy_performance_preference | sort -u",
        writable=machine_writable(facts),
        default_on=False,
        paths=(f"{_CPUS}/cpu[0-9]*/cpufreq/energy_performance_preference",),
    )
    return setting if governor == "powersave" else Unneeded(key=key, why=f"the governor is {governor}", setting=setting)


def _idle_latency(facts: HostFacts, placement: Placement) -> Candidate:
    key = "cpu_idle_latency_us"
    deepest = facts.tuning.deepest_idle_us
    if facts.cpu.frequency_driver is None and deepest is None:
        return Unneeded(key=key, why="the kernel rules no idle states here, as in a virtual machine")
    if deepest is not None and deepest <= 1:
        return Unneeded(key=key, why=f"no idle state here takes longer than {deepest} µs to leave")
    return HostSetting(
        key=key,
        kind="sysfs",
        value="1",
        now=None,
        why="forbids the serving CPUs idle states that take longer to leave; cores that wait for the card between steps might wake "
        "sooner, and all of them draw more power, which takes from the others' turbo clocks",
        evidence="folklore",
        source="the figure of tuned's latency-performance profile (force_latency); for each CPU: kernel documentation, "
        f"admin-guide/pm/cpuidle.rst; {NO_EFFECT_SHOWN}",
        read_back=f"cat {_CPUS}/cpu{placement.serving_cpus[0]}/power/pm_qos_resume_latency_us",
        writable=machine_writable(facts),
        default_on=False,
        paths=tuple(f"{_CPUS}/cpu{cpu}/power/pm_qos_resume_latency_us" for cpu in placement.serving_cpus),
    )


def _smt(facts: HostFacts, placement: Placement) -> Candidate:
    key = "smt"
    now = facts.cpu.smt
    found = as_found(facts, key, now)
    if found != "on":
        return Unneeded(
            key=key, why="it is off already" if found in ("off", "forceoff") else "this processor has no second threads"
        )
    same = "the plan leaves the siblings of serving cores idle, which does the same for the server; " if placement.idle_cpus else ""
    return HostSetting(
        key=key,
        kind="sysfs",
        value="off",
        now=now,
        why=f"{same}switching it off takes the second threads from everything else as well",
        evidence="folklore",
        source=f"the advice, whose figures were taken with SMT off and never with it on; {NO_EFFECT_SHOWN}",
        read_back="cat /sys/devices/system/cpu/smt/control",
        writable=facts.cpu.smt_switchable,
        default_on=False,
        paths=(f"{_CPUS}/smt/control",),
    )


def _irq_affinity(facts: HostFacts, placement: Placement) -> Candidate:
    key = "irq_affinity"
    if not facts.tuning.interrupts:
        return Unneeded(key=key, why="no interrupts can be seen from here")
    if not placement.system_cpus:
        return Unneeded(key=key, why="too few cores to keep one apart from the server")
    by = "irqbalance is kept from the others, and " if facts.tuning.irqbalance else ""
    return HostSetting(
        key=key,
        kind="irq",
        value=format_cpu_list(placement.system_cpus),
        now=None,
        why=f"interrupts do not stop the server's threads; {by}those that the kernel manages itself stay where they are",
        evidence="documentation",
        source=f"kernel documentation, core-api/irq/irq-affinity.rst; irqbalance(1); {NO_EFFECT_SHOWN}",
        read_back="cat /proc/irq/*/smp_affinity_list | sort -u",
        writable=machine_writable(facts),
        default_on=False,
        paths=("/proc/irq/[0-9]*/smp_affinity_list",),
    )
