"""Proves the result: a short benchmark on the host against the acceptance lines, repeated by a timer where that is asked for."""

import json
from io import StringIO
from pathlib import Path

from pyinfra import host, logger
from pyinfra.api import deploy
from pyinfra.facts.files import File
from pyinfra.operations import files, server, systemd

from bringup.address import url_host
from bringup.report.load import reports_of
from bringup.smoke.model import SmokeRequest
from bringup.smoke.run import EXIT_INCONCLUSIVE
from deploys.compare import differs
from deploys.context import Context
from deploys.operations import hidden_file, smoke_run
from deploys.render import render

RECORDS = "/var/lib/bringup/smoke"
TOOL = "PYTHONPATH=/opt/bringup/lib/bringup.zip /opt/bringup/tools/smoke/bin/python -m bringup.smoke"
TIMEOUT_S = 120
"""A request that takes longer counts as failed; the slowest line of any profile is 30 s."""
UNITS = ("bringup-smoke.service", "bringup-smoke.timer")


@deploy("Smoke")
def smoke(context: Context, switched: bool) -> None:
    """Run the benchmark unless the switch has done so, or this very release was held against these very lines since it was started,
    and failed none."""
    plan, settings = context.plan, context.settings
    if settings.smoke == "never":
        host.log("smoke benchmark not run: smoke is 'never'", logger.warning)
        _timer(context, wanted=False)
        return
    if not switched:
        _repeat(context)
    _timer(context, wanted=plan.smoke.timer != "never")


def _repeat(context: Context) -> None:
    request = smoke_request(context)
    path = put_request(context, request)
    record = context.facts.smoke
    settled = record is not None and record.outcome != "FAIL" and record.request == request.model_dump(mode="json")
    if settled and record is not None and record.outcome == "INCONCLUSIVE":
        host.log("the last smoke benchmark could not settle every line: --data smoke=always measures again", logger.warning)
    if not settled or context.settings.smoke == "always":
        put_facts(context, request)
        smoke_run(
            name="Run the smoke benchmark",
            # without the record of an earlier run, which must not be taken for this one's; inconclusive is no reason to stop
            command=f"rm -f {RECORDS}/latest.json; {TOOL} {path} --record-dir {RECORDS} || [ $? -eq {EXIT_INCONCLUSIVE} ]",
            record=f"{RECORDS}/latest.json",
            reports_dir=reports_dir(context),
        )


def put_request(context: Context, request: SmokeRequest) -> str:
    """Write the request into the release's folder; returns its path on the host."""
    path = f"{context.plan.release_dir}/smoke.json"
    content = json.dumps(request.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    files.put(name="Write the smoke request", src=StringIO(content), dest=path, mode="644", create_remote_dir=False)
    return path


def put_facts(context: Context, request: SmokeRequest) -> None:
    """Write the host's facts for the record of a run that is due; free memory and temperatures differ in each."""
    facts = context.facts.model_dump_json().encode()
    hidden_file(name="Put the host's facts for the smoke record", content=facts, dest=str(request.facts_file), mode="644")


def reports_dir(context: Context) -> str:
    """Where this host's records go on the control machine."""
    return str(reports_of(Path(context.settings.reports_dir), host.name))


def smoke_request(context: Context) -> SmokeRequest:
    """Return what the benchmark asks of the release that is planned."""
    plan, settings = context.plan, context.settings
    return SmokeRequest.model_validate(
        {
            "base_url": f"{'https' if context.tls else 'http'}://{url_host(settings.listen_address)}:{settings.port}",
            "model": plan.model,
            "prompt": plan.smoke.prompt,
            "max_tokens": plan.smoke.max_tokens,
            "concurrency": plan.smoke.concurrency,
            "budget_s": plan.smoke.budget_s,
            "stages": plan.smoke.stages,
            "demo_model": plan.profile == "cpu-demo",
            "timeout_s": TIMEOUT_S,
            "lines": [{"metric": metric, "at_most": at_most} for metric, at_most in plan.smoke.lines.items()],
            "release": plan.digest,
            "host": host.name,
            "profile": plan.profile,
            "api_key_file": f"{plan.release_dir}/api-key" if settings.api_key_file else None,
            "tls_sha256": context.tls.sha256 if context.tls else None,
            "plan_file": f"{plan.release_dir}/plan.json",
            "facts_file": f"{RECORDS}/facts.json",
        }
    )


def _timer(context: Context, wanted: bool) -> None:
    """Have systemd repeat the benchmark, or no longer."""
    if context.plan.manager != "systemd":
        if wanted:
            host.log("smoke_timer is not applicable: there is no systemd here to repeat the benchmark", logger.warning)
        return
    units = {f"/etc/systemd/system/{name}": name for name in UNITS}
    *_, timer = UNITS
    if wanted:
        contents = {path: render(f"{name}.j2", context.plan) for path, name in units.items()}
        differing = [path for path, text in contents.items() if differs(path, text)]
        for path, text in contents.items():
            files.put(name=f"Write {path}", src=StringIO(text), dest=path, mode="644", create_remote_dir=False)
        if differing:
            # a timer that runs goes by its old calendar until it is started again
            server.shell(
                name="Have systemd read the smoke timer", commands=[f"systemctl daemon-reload && systemctl try-restart {timer}"]
            )
        systemd.service(name="Start the smoke timer", service=timer, running=True, enabled=True)
    elif host.get_fact(File, path=f"/etc/systemd/system/{timer}"):
        server.shell(name="Stop the smoke timer", commands=[f"systemctl disable --now {timer} 2>/dev/null || true"])
        for path in units:
            files.file(name=f"Remove {path}", path=path, present=False)
        server.shell(name="Have systemd forget the smoke timer", commands=["systemctl daemon-reload"])
