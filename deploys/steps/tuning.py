"""Kernel settings from the plan; what this host's kernel refuses was told by preflight and stops nothing."""

from io import StringIO

from pyinfra.api import deploy
from pyinfra.operations import files, server

from deploys.context import Context
from deploys.render import render

SYSCTL_FILE = "/etc/sysctl.d/90-bringup.conf"


@deploy("Tuning")
def tuning(context: Context) -> None:
    """Write the sysctl file and load it where a live value differs and may be set."""
    plan, facts = context.plan, context.facts
    if not plan.sysctls:
        # an earlier plan's, on a host that has changed since
        files.file(name=f"Remove {SYSCTL_FILE}", path=SYSCTL_FILE, present=False)
        return
    files.put(
        name=f"Write {SYSCTL_FILE}",
        src=StringIO(render("90-bringup.conf.j2", plan)),
        dest=SYSCTL_FILE,
        mode="644",
        create_remote_dir=False,
    )
    differing = {
        name: value for name, value in plan.sysctls.items() if facts.sysctls[name] != value and name not in facts.read_only_sysctls
    }
    if differing:
        changes = ", ".join(f"{name} {facts.sysctls[name]} → {value}" for name, value in differing.items())
        commands = [f"sysctl -q -w {name}={value}" for name, value in differing.items()]
        server.shell(name=f"Set {changes}", commands=commands)
