"""CUDA's compiler, where the plan says why: at the engine's version, beside others, never as the machine's default."""

import base64
from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.facts.deb import DebPackages

from bringup.plan.cuda import CudaPlan
from deploys.context import Context
from deploys.operations import streamed_shell
from deploys.render import render
from deploys.script import shell_command
from deploys.steps.driver import SCRIPT as DRIVER_SCRIPT

SCRIPT = Path(__file__).with_name("cuda.sh")


@deploy("CUDA")
def cuda(context: Context) -> None:
    """Install what is missing of the toolkit."""
    plan = context.plan.cuda
    if plan is None:
        return
    installed = host.get_fact(DebPackages) or {}
    if any(package not in installed for package in plan.packages):
        streamed_shell(
            name=f"Install the compiler of CUDA {plan.version} ({plan.why})", command=_script(context, "install_cuda", plan)
        )


@deploy("CUDA")
def remove_cuda(context: Context) -> None:
    """Take away the toolkit that bringup installed, once nothing that is served needs it."""
    if context.plan.cuda is None and context.facts.nvidia.cuda_managed:
        streamed_shell(name="Remove the CUDA toolkit, which nothing needs any more", command=_script(context, "remove_cuda"))


def _script(context: Context, call: str, plan: CudaPlan | None = None) -> str:
    """The shell command that does one part of the work on the host."""
    driver = context.plan.driver
    # a managed driver's repository is one of the host's sources already
    passing = plan is not None and plan.repository is not None and (driver is None or driver.repository != plan.repository)
    source = render("passing.sources.j2", context.plan, repository=plan.repository) if passing and plan else ""
    variables = {
        "wait_s": str(context.settings.apt_wait_s),
        "packages": " ".join(plan.packages) if plan else "",
        "home": plan.home if plan else "",
        "source": base64.b64encode(source.encode()).decode(),
        "key": base64.b64encode(context.nvidia_key or b"").decode() if passing else "",
    }
    return shell_command(variables, *(path.read_text(encoding="utf-8") for path in (DRIVER_SCRIPT, SCRIPT)), call)
