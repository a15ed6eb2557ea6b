"""What is wasted in a machine's memory."""

from bringup.hardware import MemoryFacts
from bringup.plan.model import Finding


def memory_findings(memory: MemoryFacts | None) -> list[Finding]:
    """Name modules that run below their rated speed, and a machine with a single populated channel.

    Tokenising and scheduling on the CPU read and write main memory; how much either costs a served token was not measured by us.
    """
    if memory is None:
        return []
    findings = []
    if memory.rated_mt_s and memory.configured_mt_s and memory.configured_mt_s < memory.rated_mt_s:
        cause = "two modules share a channel, or" if memory.channels and len(memory.modules) > memory.channels else "perhaps"
        findings.append(
            Finding(
                level="warning",
                text=f"memory is rated {memory.rated_mt_s} MT/s and runs at {memory.configured_mt_s} MT/s: {cause} EXPO or "
                "XMP is off in the firmware's set-up",
            )
        )
    if memory.channels == 1 and memory.empty_slots:
        findings.append(
            Finding(level="warning", text="one memory channel is populated: a module in the other one doubles the bandwidth")
        )
    return findings
