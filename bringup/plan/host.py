"""Kernel settings that this machine's facts justify."""

from bringup.findings import Finding
from bringup.hardware import HostFacts
from bringup.plan.model import Decision


def plan_sysctls(facts: HostFacts, card_node: int | None) -> tuple[list[Decision], list[Finding]]:
    """Decide the sysctls; those that this host's kernel does not let root set become findings for its owner.

    Args:
        facts: the host.
        card_node: NUMA node that the service is placed on; None where it is on all of them.
    """
    wanted = [
        Decision(
            key="vm.swappiness",
            value="10",
            why="keeps the server's memory resident: a page of the tokenizer or scheduler that was swapped out delays a token",
            source="kernel documentation (admin-guide/sysctl/vm.rst); effect on latency not measured by us",
        )
    ]
    if card_node is not None and len([node for node in facts.numa_nodes if node.cpus]) > 1:
        wanted.append(
            Decision(
                key="kernel.numa_balancing",
                value="0",
                why="the service's CPUs are all on one node, so automatic page migration only costs faults",
                source="kernel documentation (admin-guide/sysctl/kernel.rst); effect on latency not measured by us",
            )
        )
    wanted = [decision for decision in wanted if decision.key in facts.sysctls]
    findings = [
        Finding(
            level="warning",
            text=f"{decision.key} is {facts.sysctls[decision.key]} and cannot be set from inside this host "
            f"({facts.virtualization}); on the machine that runs it: sysctl -w {decision.key}={decision.value}",
        )
        for decision in wanted
        if decision.key in facts.read_only_sysctls and facts.sysctls[decision.key] != decision.value
    ]
    return wanted, findings
