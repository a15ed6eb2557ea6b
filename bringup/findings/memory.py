"""What is wasted in a machine's memory."""

from bringup.findings.finding import Finding, warning
from bringup.hardware import HostFacts

_NOT_MEASURED = "what that costs a served token was not measured by us"


def memory_findings(facts: HostFacts) -> list[Finding]:
    """Name modules that run below their rated speed, and a machine with a single populated channel."""
    memory = facts.memory_modules
    if memory is None:
        return []
    findings = []
    rated, runs = memory.rated_mt_s, memory.configured_mt_s
    if rated and runs and runs < rated:
        shared = memory.channels and len(memory.modules) > memory.channels
        # overclocking profiles are a matter of unbuffered desktop memory
        cause = "its processor may allow no more" if memory.ecc else "EXPO or XMP may be off in the firmware's set-up"
        cause = f"two modules share a channel, and {cause}" if shared else cause
        has = memory.bandwidth_gb_s
        figures = f" ({has:.1f} of {has * rated / runs:.1f} GB/s)" if has else ""
        findings.append(
            warning(
                "memory-slow",
                f"memory is rated {rated} MT/s and runs at {runs} MT/s: {cause}",
                f"{1 - runs / rated:.0%} of the memory bandwidth{figures}; {_NOT_MEASURED}",
            )
        )
    if memory.channels == 1 and memory.empty_slots:
        findings.append(
            warning(
                "memory-one-channel",
                "one memory channel is populated: a module in the other one doubles the bandwidth",
                f"half of the memory bandwidth; {_NOT_MEASURED}",
            )
        )
    return findings
