"""What the server needs beneath it: Debian packages, bringup's own tool, the smoke benchmark's environment, the engine."""

import json
from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.facts.deb import DebPackages
from pyinfra.operations import apt, files

from bringup.catalog.loader import engine_requirements, tool_requirements
from bringup.plan.container import ContainerPlan
from deploys.bundle import host_bundle
from deploys.context import Context
from deploys.operations import hidden_file, streamed_shell
from deploys.owner import on_host
from deploys.render import render, sha256

BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "iproute2", "procps", "rsync")


@deploy("Runtime")
def runtime(context: Context) -> None:
    """Install packages, put bringup's tool on the host, and build the environments that are not built yet."""
    plan = context.plan
    wanted = [*BASE_PACKAGES, *plan.needs.apt_packages]
    installed = host.get_fact(DebPackages) or {}
    if any(package not in installed for package in wanted):
        apt.update(name="Refresh the package lists")
    # a machine that has just booted is often in the middle of its own upgrades
    apt.packages(
        name="Install Debian packages", packages=wanted, no_recommends=True, extra_install_args="-o DPkg::Lock::Timeout=300"
    )

    host_tool(context)

    environment(context, "/opt/bringup/tools/smoke", tool_requirements("smoke"))
    if plan.manager == "supervisor":
        environment(context, "/opt/bringup/tools/supervisor", tool_requirements("supervisor"))
    if plan.engine_dir is not None:
        engine = context.catalog.engine(plan.engine, "cuda" if context.facts.gpus else "cpu")
        environment(context, plan.engine_dir, engine_requirements(engine), engine.torch_backend)
    if plan.container is not None:
        _image(context, plan.container)


def _image(context: Context, container: ContainerPlan) -> None:
    """Get the image, unless the host has what bringup got under that reference before."""
    if container.local_image in context.facts.containers.images:
        return
    request = "/opt/bringup/engines/image.json"
    content = json.dumps({"image": container.image, "local_image": container.local_image}, indent=2) + "\n"
    files.put(name="Write which image is pulled", src=StringIO(content), dest=request, mode="644", create_remote_dir=False)
    streamed_shell(name=f"Pull {container.image}", command=on_host(f"pull {request}"))


@deploy("Tool")
def tool(context: Context) -> None:
    """Put bringup's tool on a host that gets nothing else."""
    if "python3" not in (host.get_fact(DebPackages) or {}):
        apt.packages(
            name="Install python3",
            packages=["python3"],
            no_recommends=True,
            update=True,
            extra_install_args="-o DPkg::Lock::Timeout=300",
        )
    host_tool(context)


def host_tool(context: Context) -> None:
    """Put bringup's own tool on the host; it needs nothing but Python."""
    for path in ("/opt/bringup", *(f"/opt/bringup/{name}" for name in ("bin", "lib", "engines", "tools")), "/var/lib/bringup"):
        files.directory(name=f"Make {path}", path=path, user="root", group="root", mode="755")
    hidden_file(name="Put bringup's library", content=host_bundle(), dest="/opt/bringup/lib/bringup.zip", mode="644")
    files.put(
        name="Put bringup-host",
        src=StringIO(render("bringup-host.j2", context.plan)),
        dest="/opt/bringup/bin/bringup-host",
        mode="755",
        create_remote_dir=False,
    )


def environment(context: Context, target: str, requirements: str, torch_backend: str | None = None) -> None:
    """Build one virtual environment from its pinned list, unless exactly that one is built already."""
    settings = context.settings
    checksum = sha256(requirements)
    name = target.rsplit("/", 1)[-1]
    if context.facts.engines.get(name) == checksum:
        return
    listed = f"{target}.requirements.txt"
    request = f"{target}.build.json"
    files.put(name=f"Put the pinned list of {name}", src=StringIO(requirements), dest=listed, mode="644", create_remote_dir=False)
    content = json.dumps(
        {
            "target": target,
            "requirements": listed,
            "checksum": checksum,
            "index_url": settings.pip_index_url,
            "extra_index_urls": settings.pip_extra_index_urls,
            "find_links": settings.pip_find_links,
            "torch_backend": None if settings.torch_backend == "none" else settings.torch_backend or torch_backend,
            "torch_backend_is_set": settings.torch_backend is not None,
        }
    )
    hidden_file(name=f"Put the build request of {name}", content=content.encode(), dest=request)
    streamed_shell(name=f"Build {name}", command=on_host(f"build {request}"))
