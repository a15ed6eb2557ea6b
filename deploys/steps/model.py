"""Brings the model's files onto the host."""

import json
from io import StringIO

from pyinfra.api import deploy
from pyinfra.operations import files

from bringup.catalog.loader import tool_requirements
from bringup.settings import ControlFolderSource, HostFolderSource, HubSource
from deploys.context import Context
from deploys.operations import hidden_file, model_folder, streamed_shell
from deploys.owner import on_host
from deploys.steps.runtime import environment

HUB_TOKEN_FILE = "/opt/bringup/lib/hub-token"  # noqa: S105 (where it lies)
MODELSCOPE_DIR = "/opt/bringup/tools/modelscope"
HUGGINGFACE_DIR = "/opt/bringup/tools/huggingface"


@deploy("Model")
def model(context: Context) -> None:
    """Copy, download, or find the model; a copy that is whole is left alone."""
    plan, source = context.plan, context.settings.model_source
    if isinstance(source, HostFolderSource):
        return
    for path in ("/var/lib/bringup/models", plan.model_dir):
        files.directory(name=f"Make {path}", path=path, user="root", group="root", mode="755")
    if context.facts.models.get(plan.model_dir.rsplit("/", 1)[-1]) == plan.model_revision:
        return
    if isinstance(source, ControlFolderSource):
        model_folder(
            name=f"Copy {plan.model} ({context.manifest.size_mib} MiB) and verify its checksums",
            src=source.path,
            dest=plan.model_dir,
            checksums=context.manifest.checksums(),
        )
    else:
        _download(context, source)


def _download(context: Context, source: HubSource) -> None:
    """Let the hub's own client fetch the pinned revision; it resumes what an earlier run left."""
    plan = context.plan
    if source.hub == "modelscope":
        environment(context, MODELSCOPE_DIR, tool_requirements("modelscope"))
        client = f"{MODELSCOPE_DIR}/bin/modelscope"
    elif plan.engine_dir is None:
        environment(context, HUGGINGFACE_DIR, tool_requirements("huggingface"))
        client = f"{HUGGINGFACE_DIR}/bin/hf"
    else:
        client = f"{plan.engine_dir}/bin/hf"
    request = {
        "hub": source.hub,
        "client": client,
        "repository": plan.repository,
        "revision": plan.model_revision,
        "endpoint": source.endpoint,
        "target": plan.model_dir,
        "token_file": HUB_TOKEN_FILE if context.hub_token is not None else None,
        "size_mib": plan.needs.model_disk_mib,
    }
    path = f"{plan.model_dir}.download.json"
    files.put(
        name=f"Write the download request of {plan.model}",
        src=StringIO(json.dumps(request, indent=2) + "\n"),
        dest=path,
        mode="644",
        create_remote_dir=False,
    )
    if context.hub_token is not None:
        hidden_file(name="Put the hub's token, until the download ends", content=context.hub_token.encode(), dest=HUB_TOKEN_FILE)
    streamed_shell(name=f"Download {plan.model} from {source.hub}", command=on_host(f"download {path}"))
