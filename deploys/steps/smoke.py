"""Proves the result: a short benchmark on the host against the acceptance lines."""

import json
from io import StringIO
from pathlib import Path

from pyinfra import host, logger
from pyinfra.api import deploy
from pyinfra.operations import files

from bringup.address import url_host
from bringup.smoke.model import AcceptanceLine, SmokeRequest
from bringup.smoke.run import EXIT_INCONCLUSIVE
from deploys.context import Context
from deploys.operations import smoke_run

RECORDS = "/var/lib/bringup/smoke"
TIMEOUT_S = 120
"""A request that takes longer counts as failed; the slowest line of any profile is 30 s."""


@deploy("Smoke")
def smoke(context: Context, restarted: bool) -> None:
    """Run the benchmark unless this very release was held against these very lines since it was started, and failed none."""
    plan, settings = context.plan, context.settings
    if settings.smoke == "never":
        host.log("smoke benchmark not run: smoke is 'never'", logger.warning)
        return
    request = SmokeRequest(
        base_url=f"http://{url_host(settings.listen_address)}:{settings.port}",
        model=plan.model,
        prompt=plan.smoke.prompt,
        max_tokens=plan.smoke.max_tokens,
        timeout_s=TIMEOUT_S,
        lines=tuple(AcceptanceLine(metric=metric, at_most=at_most) for metric, at_most in plan.smoke.lines.items()),
        release=plan.digest,
        host=host.name,
        profile=plan.profile,
        api_key_file=Path(plan.release_dir, "api-key") if settings.api_key_file else None,
    )
    path = f"{plan.release_dir}/smoke.json"
    content = json.dumps(request.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    files.put(name="Write the smoke request", src=StringIO(content), dest=path, mode="644", create_remote_dir=False)
    record = context.facts.smoke
    settled = record is not None and record.outcome != "FAIL" and record.request == request.model_dump(mode="json")
    if settled and record is not None and record.outcome == "INCONCLUSIVE":
        host.log("the last smoke benchmark could not settle every line: --data smoke=always measures again", logger.warning)
    if restarted or not settled or settings.smoke == "always":
        smoke_run(
            name="Run the smoke benchmark",
            # without the record of an earlier run, which must not be taken for this one's
            command=f"rm -f {RECORDS}/latest.json; PYTHONPATH=/opt/bringup/lib/bringup.zip "
            "/opt/bringup/tools/smoke/bin/python -m bringup.smoke "
            # inconclusive is told, and no reason to stop
            f"{path} --record-dir {RECORDS} || [ $? -eq {EXIT_INCONCLUSIVE} ]",
            record=f"{RECORDS}/latest.json",
            reports_dir=str(Path(settings.reports_dir) / host.name.replace("/", "_")),
        )
