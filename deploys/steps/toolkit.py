"""NVIDIA's container toolkit, where Podman needs its CDI specification to find the card (`runtime: container`)."""

import base64
from pathlib import Path

from pyinfra.api import deploy

from bringup.plan import Plan
from bringup.plan.container import TOOLKIT_PACKAGE
from bringup.settings import NvidiaRepository
from deploys.context import Context
from deploys.operations import streamed_shell
from deploys.render import render
from deploys.script import shell_command
from deploys.steps.cuda import SCRIPT as CUDA_SCRIPT
from deploys.steps.driver import SCRIPT as DRIVER_SCRIPT

SCRIPT = Path(__file__).with_name("toolkit.sh")


@deploy("Container toolkit")
def toolkit(context: Context) -> None:
    """Install it where the host has no specification of its cards; its own unit writes one, and again with each driver."""
    container = context.plan.container
    if container is not None and container.toolkit is not None and context.toolkit_key is not None:
        command = install_command(context.plan, container.toolkit, context.toolkit_key, context.settings.apt_wait_s)
        streamed_shell(name=f"Install {TOOLKIT_PACKAGE} (there is no CDI specification of the cards)", command=command)


def install_command(plan: Plan, repository: NvidiaRepository, key: bytes, apt_wait_s: int) -> str:
    """The shell command that installs it from the repository, which is not made one of the host's."""
    source = render("passing.sources.j2", plan, repository=repository)
    variables = {
        "wait_s": str(apt_wait_s),
        "packages": TOOLKIT_PACKAGE,
        "source": base64.b64encode(source.encode()).decode(),
        "key": base64.b64encode(key).decode(),
    }
    scripts = (path.read_text(encoding="utf-8") for path in (DRIVER_SCRIPT, CUDA_SCRIPT, SCRIPT))
    return shell_command(variables, *scripts, "install_toolkit")
