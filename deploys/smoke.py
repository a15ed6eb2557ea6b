"""Measures what hosts serve, without deploying anything; `bringup smoke HOST` runs it.

    pyinfra -y inventories/prod.py deploys/smoke.py                                        # the acceptance lines again
    pyinfra -y inventories/prod.py deploys/smoke.py --data 'x_smoke_set=["stages=[\\"ladder\\"]"]'

`x_smoke_set` replaces values of the release's request (bringup.smoke.model.SmokeRequest); `x_smoke_reports` is the folder for
records; `x_smoke_quiet` leaves the report to who calls this. The records stay apart from those of deploys, which decide whether
a deploy measures again.
"""

import shlex
from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command

from bringup.report.load import reports_of
from deploys.operations import smoke_run
from deploys.steps.smoke import RECORDS, TOOL

records = f"{RECORDS}/by-hand"
changes = " ".join(f"--set {shlex.quote(change)}" for change in host.data.get("x_smoke_set") or [])
smoke_run(
    name="Measure what is served",
    # an outcome is a result here, whatever it is; anything else is a failed run
    command=f"rm -f {records}/latest.json; {TOOL} /opt/bringup/current/smoke.json {changes} --record-dir {records}; "
    "code=$?; [ $code -eq 0 ] || [ $code -eq 3 ] || [ $code -eq 4 ]",
    record=f"{records}/latest.json",
    reports_dir=str(reports_of(Path(host.data.get("x_smoke_reports") or "reports"), host.name)),
    show=not host.data.get("x_smoke_quiet"),
    _sudo=host.get_fact(Command, "id -u") != "0",
)
