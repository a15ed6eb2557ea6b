"""What surrounds the service and will get in its way."""

from bringup.findings.finding import Finding, note, problem, warning
from bringup.hardware import HostFacts


def system_findings(facts: HostFacts) -> list[Finding]:
    """Name what stops a deploy here, and what will surprise its owner later."""
    findings = []
    if facts.init != "systemd":
        text = f"systemd does not run this host (process 1 is {facts.init})"
        if facts.system.container is None:
            findings.append(problem("no-systemd", f"{text}: services cannot be installed in the usual way"))
        else:
            findings.append(note("no-systemd", f"{text}: Supervisor runs the server in this container"))
    if facts.root_access == "none":
        text = f"user '{facts.login_user}' is not root and has no sudo without a password: much cannot be read, nothing can be set"
        findings.append(problem("no-root", text))
    if facts.read_only_sysctls:
        names = ", ".join(facts.read_only_sysctls)
        text = f"kernel settings cannot be written from here ({names}): where one is to be set, the machine's owner must"
        findings.append(note("read-only-sysctls", text))
    if facts.system.reboot_pending:
        findings.append(warning("reboot-pending", f"a reboot is pending, asked for by {', '.join(facts.system.reboot_pending)}"))
    if facts.system.clock_synchronized is False and facts.system.container is None:  # a container has its machine's clock
        text = "the clock is not synchronised: timedatectl set-ntp true"
        cost = "certificates and package signatures fail once it is far off; times in logs do not compare"
        findings.append(note("clock", text, cost))
    return findings
