"""All findings of one host."""

from bringup.catalog import Catalog
from bringup.findings.cpu import cpu_findings
from bringup.findings.driver import driver_findings
from bringup.findings.finding import Finding, Level
from bringup.findings.gpu import gpu_findings
from bringup.findings.kernel import kernel_findings
from bringup.findings.memory import memory_findings
from bringup.findings.system import system_findings
from bringup.hardware import HostFacts

ORDER: tuple[Level, ...] = ("problem", "impossible", "warning", "note")


def host_findings(facts: HostFacts, catalog: Catalog) -> tuple[Finding, ...]:
    """What is wrong or wasted on this machine, the worst first."""
    cards = gpu_findings(facts, catalog)
    kernel = kernel_findings(facts)
    found = [*system_findings(facts), *driver_findings(facts), *cards, *memory_findings(facts), *cpu_findings(facts), *kernel]
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.level)))
