"""What the kernel's command line and the IOMMU rule. Both count from a boot on, and a wrong word there can keep a machine from
booting, so that bringup adds to that line what `kernel_parameters` of the inventory names, and nothing else."""

from bringup.findings.finding import Finding, note
from bringup.hardware import HostFacts
from bringup.host_settings import KERNEL_PARAMETERS


def kernel_findings(facts: HostFacts) -> list[Finding]:
    """Name tuning parameters that somebody set, and cards behind an IOMMU that translates."""
    findings = []
    words = (facts.system.kernel_command_line or "").split()
    mine = facts.system.container is None
    tuned = [word for word in words if word.partition("=")[0] in KERNEL_PARAMETERS]
    if tuned and mine:
        text = f"the kernel's command line tunes this machine already ({' '.join(tuned)}); bringup takes no word off it"
        findings.append(note("kernel-command-line", text))
    translating = [kind for kind in facts.tuning.iommu_types if kind.startswith("DMA")]
    if translating and facts.gpus and mine:
        text = (
            f"the IOMMU translates what devices read and write ({', '.join(translating)}); iommu=pt on the kernel's command line "
            "leaves out the host's own devices (setting kernel_parameters)"
        )
        findings.append(note("iommu-translates", text, "copies to and from the card, if anything; not measured by us"))
    return findings
