"""Reads back from the running machine that the card is what the plan counts on, before anything is served with it."""

import json
from io import StringIO

from pyinfra.api import deploy
from pyinfra.operations import files

from bringup.plan.gpu_check import gpu_check_request
from deploys.bundle import host_bundle
from deploys.context import Context
from deploys.operations import passing_command, streamed_shell

RECORD = "/var/lib/bringup/gpu-check.json"
REQUEST = "/var/lib/bringup/gpu-check.request.json"
_PASSING_ZIP = "/run/bringup-gpu-check.zip"
_PASSING_REQUEST = "/run/bringup-gpu-check.json"


@deploy("GPU check")
def gpu_check(context: Context) -> None:
    """Look at the cards and put the serving one to work, unless exactly that was done with this driver and passed."""
    plan, facts = context.plan, context.facts
    if plan.gpu is None:
        return
    request = gpu_check_request(plan, facts, context.settings, context.catalog)
    if plan.engine_dir is not None:  # an image's PyTorch meets the card when the release starts
        request |= {"python": f"{plan.engine_dir}/bin/python", "user": "vllm"}
    content = json.dumps(request, indent=2) + "\n"
    files.put(
        name="Write what the cards are compared with", src=StringIO(content), dest=REQUEST, mode="644", create_remote_dir=False
    )
    record = facts.gpu_check
    # what may change by itself (a lost card, lanes, errors in the log) the facts tell at each run
    seen = record is not None and record.passed and record.request == request
    if not seen or record.driver_version != facts.nvidia.running_version:
        streamed_shell(
            name="Look at the card as it runs: driver, link under load, errors, a CUDA kernel",
            command=f"/opt/bringup/bin/bringup-host gpu-check {REQUEST} --record {RECORD}",
        )


@deploy("GPU check")
def driver_check(context: Context) -> None:
    """The same with the driver alone, which has no engine to put the card to work with; leaves nothing on the host."""
    request = gpu_check_request(context.plan, context.facts, context.settings, context.catalog)
    passing_command(
        name="Look at the card as it runs: driver, device nodes, errors",
        contents={_PASSING_ZIP: host_bundle(), _PASSING_REQUEST: json.dumps(request).encode()},
        command=f"""
            python3 -c "import json, subprocess, importlib.resources" 2>/dev/null ||
                {{ echo "note: the cards were not looked at: the host has no python3, or a part of it alone"; exit 0; }}
            PYTHONPATH={_PASSING_ZIP} python3 -m bringup.onhost gpu-check {_PASSING_REQUEST}
        """,
    )
