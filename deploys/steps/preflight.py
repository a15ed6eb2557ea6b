"""Refuses a host that is not fit, and says what its owner should know."""

import shlex

from pyinfra import host, logger
from pyinfra.api import deploy
from pyinfra.operations import server

from bringup.findings import host_findings
from deploys.context import Context


@deploy("Preflight")
def preflight(context: Context) -> None:
    """Fail this host, and no other, where something stands in the way; tell what was found on it and in its plan."""
    for reason in context.blockers:
        # a failing command is how pyinfra drops one host; an exception would end the run for all
        server.shell(name=f"refused: {reason}", commands=[f"echo {shlex.quote(reason)} >&2; exit 1"])
    for section, reason in context.facts.unknown.items():
        host.log(f"note: {section} could not be read, so nothing is decided from it: {reason}", logger.info)
    of_plan = context.plan.findings if context.plan else ()
    for finding in (*host_findings(context.facts, context.catalog), *of_plan):
        host.log(f"{finding.level}: {finding.text}", logger.warning if finding.level != "note" else logger.info)
