"""The release folder, the unit or what stands in its place, and the switch to it."""

from io import StringIO

from pyinfra.api import deploy
from pyinfra.operations import files, server, systemd

from bringup.onhost.content import content_checksum, served_files, settings_in
from bringup.onhost.release import SMOKE_COPY
from bringup.onhost.supervisor import START
from bringup.plan.plan import TLS_DIR
from deploys.compare import read_text
from deploys.context import Context
from deploys.operations import hidden_file, smoke_run, streamed_shell
from deploys.owner import on_host
from deploys.render import render
from deploys.steps.smoke import put_facts, put_request, reports_dir, smoke_request

SUPERVISOR_CONFIGURATION = "/etc/bringup/supervisord.conf"
SUPPORT_UNITS = ("vllm-watch.service", "vllm-failed.service")
"""What vllm.service leans on; the same for every release."""


@deploy("Service")
def service(context: Context) -> bool:
    """Write the release, serve it and prove it; returns whether the service is restarted by this run."""
    plan = context.plan
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
        ("/opt/bringup/releases", "root", "755"),
        (plan.release_dir, "root", "755"),
    ):
        files.directory(name=f"Make {path}", path=path, user=user, group=user, mode=mode)

    if plan.manager == "systemd":
        _support_units(context)
    else:
        _supervisor(context)
    rendered = {name: render(f"{name}.j2", plan) for name in served_files(plan.container is not None, plan.manager)}
    reasons = _reasons_to_switch(context, rendered)
    if reasons:
        # until the switch is through, the next run must see that it is due, however this one ends
        files.file(name="Take back the mark that this release came up", path=f"{plan.release_dir}/.served", present=False)
    for name, content in (rendered | {"plan.json": plan.record()}).items():
        files.put(
            name=f"Write {name} of release {plan.digest}",
            src=StringIO(content),
            dest=f"{plan.release_dir}/{name}",
            user="root",
            group="root",
            mode="644",
            create_remote_dir=False,
        )
    if context.api_key is not None:
        # a release has its own key, so that the way back leads to the key that was served before
        secret = f"VLLM_API_KEY={context.api_key}\n".encode()
        hidden_file(name="Put the server's API key", content=secret, dest=f"{plan.release_dir}/secrets", group="vllm", mode="640")
        hidden_file(
            name="Put the smoke benchmark's API key", content=f"{context.api_key}\n".encode(), dest=f"{plan.release_dir}/api-key"
        )

    if context.tls is not None:
        _put_tls(context)
    if reasons:
        _switch(context, reasons)
    elif plan.manager == "systemd" and not context.facts.service_enabled:
        systemd.service(name="Start vllm.service at boot", service="vllm.service", running=None, enabled=True)
    return bool(reasons)


def _put_tls(context: Context) -> None:
    """Put the certificate and its key where the service alone can read them; another certificate has another folder."""
    folder = f"{TLS_DIR}/{context.tls.name}"
    for path, group, mode in (("/etc/bringup", "root", "755"), (TLS_DIR, "vllm", "750"), (folder, "vllm", "750")):
        files.directory(name=f"Make {path}", path=path, user="root", group=group, mode=mode)
    for name, content in (("cert.pem", context.tls.certificate), ("key.pem", context.tls.key)):
        hidden_file(name=f"Put the server's {name}", content=content, dest=f"{folder}/{name}", group="vllm", mode="640")


def _switch(context: Context, reasons: list[str]) -> None:
    """Serve the release; it stays only if it passes the benchmark, where one is wanted."""
    plan, why = context.plan, "; ".join(reasons)
    if context.settings.smoke == "never":
        streamed_shell(name=f"Switch to release {plan.digest} ({why})", command=on_host(f"switch {plan.digest}"))
        return
    request = smoke_request(context)
    path = put_request(context, request)
    put_facts(context, request)
    record = f"{plan.release_dir}/{SMOKE_COPY}"
    smoke_run(
        name=f"Switch to release {plan.digest} and run the smoke benchmark ({why})",
        # without the record of an earlier switch, which must not be taken for this one's
        command=f"rm -f {record}; {on_host(f'switch {plan.digest} --smoke {path}')}",
        record=record,
        reports_dir=reports_dir(context),
    )


def _supervisor(context: Context) -> None:
    """Write what runs the server in a container, the same for every release."""
    for path, mode in (("/etc/bringup", "755"), ("/var/log/bringup", "750")):
        files.directory(name=f"Make {path}", path=path, user="root", group="root", mode=mode)
    for path, template, mode in ((SUPERVISOR_CONFIGURATION, "supervisord.conf.j2", "644"), (START, "bringup-start.j2", "755")):
        content = render(template, context.plan)
        files.put(name=f"Write {path}", src=StringIO(content), dest=path, mode=mode, create_remote_dir=False)


def _support_units(context: Context) -> None:
    """Write the units around the server, and have systemd read them anew where one says something else."""
    units = {f"/etc/systemd/system/{name}": render(f"{name}.j2", context.plan) for name in SUPPORT_UNITS}
    differing = [path for path, content in units.items() if _differs(path, content)]
    for path, content in units.items():
        files.put(name=f"Write {path}", src=StringIO(content), dest=path, mode="644", create_remote_dir=False)
    if differing:
        server.shell(
            name="Have systemd read them", commands=["systemctl daemon-reload && systemctl try-restart vllm-watch.service"]
        )


def _reasons_to_switch(context: Context, rendered: dict[str, str]) -> list[str]:
    """Why the running service is not what the plan says; empty when it is."""
    plan, facts = context.plan, context.facts
    if facts.served is None:
        return ["nothing is served yet"]
    if facts.served.digest != plan.digest:
        return plan.changes_from(facts.served.decisions) or [f"{facts.served.digest} is served"]
    if facts.service_state != "active":
        return [f"the service is {facts.service_state}"]
    paths = {f"{plan.release_dir}/{name}": content for name, content in rendered.items()}
    if plan.manager == "systemd":
        paths[plan.unit] = rendered[served_files(plan.container is not None)[-1]]
    else:  # read by a running supervisor at a switch
        paths[SUPERVISOR_CONFIGURATION] = render("supervisord.conf.j2", plan)
    differing = [path for path, content in paths.items() if _differs(path, content)]
    if differing:
        return [f"{', '.join(differing)} differs"]
    if facts.served.content != content_checksum(rendered.values()):
        return ["its last start did not get through"]
    return []


def _differs(path: str, content: str) -> bool:
    """Whether a file on the host says something else than it should; another comment is no reason to restart a server."""
    return settings_in(read_text(path)) != settings_in(content)
