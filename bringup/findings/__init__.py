"""What is wrong or wasted on a machine, and what it may cost: pure functions from facts to findings, one module a subject."""

from bringup.findings.finding import Finding
from bringup.findings.host import host_findings

__all__ = ["Finding", "host_findings"]
