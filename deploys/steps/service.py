"""The release folder, the unit, and the switch to it."""

from io import StringIO

from pyinfra import host
from pyinfra.api import deploy
from pyinfra.facts.files import FileContents
from pyinfra.operations import files, server, systemd

from bringup.settings import Settings
from deploys.context import Context, api_key
from deploys.operations import hidden_file, streamed_shell
from deploys.render import render

UNIT = "/etc/systemd/system/vllm.service"
SECRETS = "/etc/bringup/vllm.secrets"
API_KEY = "/etc/bringup/api-key"


@deploy("Service")
def service(context: Context) -> bool:
    """Write the release and serve it; returns whether the service is restarted by this run."""
    plan, settings = context.plan, context.settings
    server.group(name="Make group vllm", group="vllm", system=True)
    server.user(
        name="Make user vllm",
        user="vllm",
        group="vllm",
        home="/var/lib/bringup/home",
        shell="/usr/sbin/nologin",
        system=True,
        create_home=False,
        ensure_home=False,
    )
    for path, user, mode in (
        ("/var/lib/bringup/home", "vllm", "750"),
        ("/var/lib/bringup/cache", "vllm", "750"),
        ("/var/lib/bringup/smoke", "root", "755"),
        ("/etc/bringup", "root", "755"),
        ("/opt/bringup/releases", "root", "755"),
        (plan.release_dir, "root", "755"),
    ):
        files.directory(name=f"Make {path}", path=path, user=user, group=user, mode=mode)

    reasons = _reasons_to_switch(context)
    if _put_api_key(settings) and not reasons:
        reasons.append("the API key changed")

    for name, content in (
        ("vllm.yaml", render("vllm.yaml.j2", plan)),
        ("environment", render("environment.j2", plan)),
        ("vllm.service", render("vllm.service.j2", plan)),
        ("plan.json", plan.record()),
    ):
        written = files.put(
            name=f"Write {name} of release {plan.digest}",
            src=StringIO(content),
            dest=f"{plan.release_dir}/{name}",
            user="root",
            group="root",
            mode="644",
            create_remote_dir=False,
        )
        if written.will_change and not reasons and name != "plan.json" and _differs(f"{plan.release_dir}/{name}", content):
            reasons.append(f"{name} differs")

    if reasons:
        streamed_shell(
            name=f"Switch to release {plan.digest} ({'; '.join(reasons)})",
            command=f"/opt/bringup/bin/bringup-host switch {plan.digest}",
        )
    elif not context.facts.service_enabled:
        systemd.service(name="Start vllm.service at boot", service="vllm.service", running=None, enabled=True)
    return bool(reasons)


def _put_api_key(settings: Settings) -> bool:
    """Put the key for the server's environment and for the smoke benchmark, or take both away; returns whether it changes."""
    key = api_key(settings)
    if key is None:
        gone = [files.file(name=f"Have no {path}", path=path, present=False) for path in (SECRETS, API_KEY)]
        return any(operation.will_change for operation in gone)
    secret = hidden_file(name=f"Put {SECRETS}", content=f"VLLM_API_KEY={key}\n".encode(), dest=SECRETS, group="vllm", mode="640")
    hidden_file(name=f"Put {API_KEY}", content=f"{key}\n".encode(), dest=API_KEY, mode="600")
    return bool(secret.will_change)


def _reasons_to_switch(context: Context) -> list[str]:
    """Why the running service is not what the plan says; empty when it is."""
    plan, facts = context.plan, context.facts
    if facts.served is None:
        return ["nothing is served yet"]
    if facts.served.digest != plan.digest:
        return plan.changes_from(facts.served.decisions) or [f"{facts.served.digest} is served"]
    reasons = []
    if facts.service_state != "active":
        reasons.append(f"the service is {facts.service_state}")
    if _differs(UNIT, render("vllm.service.j2", plan)):
        reasons.append("vllm.service differs")
    return reasons


def _differs(path: str, content: str) -> bool:
    """Whether a file on the host says something else than it should; another comment is no reason to restart a server."""
    return _settings_in(host.get_fact(FileContents, path=path) or []) != _settings_in(content.splitlines())


def _settings_in(lines: list[str]) -> list[str]:
    return [line for line in lines if line.strip() and not line.startswith("#")]
