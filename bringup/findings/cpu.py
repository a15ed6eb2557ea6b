"""What is wasted or unusual in a machine's processors."""

from bringup.cpu_list import format_cpu_list
from bringup.findings.finding import Finding, note, warning
from bringup.hardware import HostFacts

OWN_CLOCK_DRIVERS = ("intel_pstate", "amd-pstate-epp")
"""cpufreq drivers under whose ``powersave`` the processor still chooses its clock by load (kernel documentation, admin-guide/pm);
under any other, ``amd-pstate`` included, powersave is the lowest clock."""


def cpu_findings(facts: HostFacts) -> list[Finding]:
    """Name limits of a container, processors that are switched off or kept apart, slow governors, sockets without memory."""
    cpu = facts.cpu
    findings = []
    if cpu.quota_cpus and cpu.quota_cpus < len(cpu.usable):
        findings.append(
            warning(
                "cpu-quota",
                f"this host gets the time of {cpu.quota_cpus:g} of the {len(cpu.usable)} CPUs that it sees: programs that count "
                "CPUs start too many threads",
                "such a program uses up its share in a moment, then stands still until the next period (100 ms as a rule)",
            )
        )
    if cpu.offline:
        findings.append(note("cpu-offline", f"CPUs {format_cpu_list(cpu.offline)} are switched off"))
    if cpu.isolated:
        listed = format_cpu_list(cpu.isolated)
        findings.append(note("cpu-isolated", f"CPUs {listed} are kept from the scheduler (isolcpus): only pinned work runs there"))
    governor = f"the CPU governor is {cpu.governor} ({cpu.frequency_driver})"
    if cpu.governor == "powersave" and cpu.frequency_driver not in OWN_CLOCK_DRIVERS:
        findings.append(warning("cpu-governor", f"{governor}: performance keeps the clocks up", "the lowest clock, all the time"))
    elif cpu.governor in ("conservative", "ondemand", "schedutil"):
        cost = "cores clock up only after work has come; not measured by us"
        findings.append(note("cpu-governor", f"{governor}: performance keeps the clocks up", cost))
    empty = [node.id for node in facts.numa_nodes if node.cpus and node.memory_mib == 0]
    if empty:
        findings.append(
            warning(
                "numa-memoryless",
                f"NUMA node {', '.join(map(str, empty))} has CPUs and no memory: put modules into that socket's slots",
                "everything that runs there works on remote memory",
            )
        )
    return findings
