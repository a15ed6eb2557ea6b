"""What the kernel's command line and the IOMMU rule. bringup changes neither: both count from a boot on, and a wrong word there can
keep a machine from booting."""

from bringup.findings.finding import Finding, note
from bringup.hardware import HostFacts

_TUNING = (
    "amd_pstate",
    "intel_pstate",
    "intel_idle.max_cstate",
    "processor.max_cstate",
    "idle",
    "isolcpus",
    "nohz_full",
    "rcu_nocbs",
    "mitigations",
    "nosmt",
    "irqaffinity",
    "numa_balancing",
    "pcie_aspm",
    "iommu",
    "intel_iommu",
    "amd_iommu",
)
"""Parameters of latency tuning (kernel documentation, admin-guide/kernel-parameters.txt)."""


def kernel_findings(facts: HostFacts) -> list[Finding]:
    """Name tuning parameters that somebody set, and cards behind an IOMMU that translates."""
    findings = []
    words = (facts.system.kernel_command_line or "").split()
    mine = facts.system.container is None
    tuned = [word for word in words if word.partition("=")[0] in _TUNING]
    if tuned and mine:
        text = f"the kernel's command line tunes this machine already ({' '.join(tuned)}); bringup does not change that line"
        findings.append(note("kernel-command-line", text))
    translating = [kind for kind in facts.tuning.iommu_types if kind.startswith("DMA")]
    if translating and facts.gpus and mine:
        text = (
            f"the IOMMU translates what devices read and write ({', '.join(translating)}); iommu=pt on the kernel's command line "
            "leaves out the host's own devices. bringup does not change that line"
        )
        findings.append(note("iommu-translates", text, "copies to and from the card, if anything; not measured by us"))
    return findings
