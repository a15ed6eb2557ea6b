"""Brings the model's files onto the host."""

import shlex

from pyinfra.api import deploy
from pyinfra.operations import files

from bringup.settings import ControlFolderSource, HostFolderSource, HubSource
from deploys.context import Context
from deploys.operations import model_folder, streamed_shell

MODELSCOPE = "modelscope"


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
        streamed_shell(name=f"Download {plan.model} from {source.hub}", command=_download(context, source))


def _download(context: Context, source: HubSource) -> str:
    """The hub's own client, from the engine's environment; it resumes what an earlier run left."""
    plan = context.plan
    place, revision = shlex.quote(plan.model_dir), shlex.quote(plan.model_revision)
    if source.hub == MODELSCOPE:
        raise NotImplementedError
    endpoint = f"HF_ENDPOINT={shlex.quote(source.endpoint)} " if source.endpoint else ""
    command = (
        f"{endpoint}HF_HUB_DISABLE_TELEMETRY=1 {plan.engine_dir}/bin/hf download {shlex.quote(plan.model)} "
        f"--revision {revision} --local-dir {place}"
    )
    return f"{command} && chmod -R a+rX {place} && echo {revision} > {place}/.bringup-complete"
