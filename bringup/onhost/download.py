"""Downloads a model from its hub with the hub's own client: resumable, verified by checksum, marked when it is whole."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from bringup.errors import BringupError
from bringup.onhost.lock import lock
from bringup.onhost.say import say

MARKER = ".bringup-complete"
_SAY_EVERY_S = 10


def download(request_file: Path, by: str | None = None) -> None:
    """Download what a request names, `by` says for whom.

    The request is a JSON file: ``hub`` (``huggingface`` or ``modelscope``), ``client`` (its program), ``repository``,
    ``revision``, ``endpoint`` (a mirror's address, or null), ``target`` (folder), ``size_mib`` (about; for the progress),
    ``token_file`` (holds a token for the hub and is removed in the end; or null).

    Raises:
        BringupError: the download failed or a checksum is wrong; what is there stays, and a repeated run resumes.
    """
    request = json.loads(request_file.read_text())
    try:
        with lock(f"downloading {request['repository']}", by):
            _download(request)
    finally:
        if request.get("token_file"):
            Path(request["token_file"]).unlink(missing_ok=True)


def _download(request: dict[str, Any]) -> None:
    target = Path(request["target"])
    target.mkdir(parents=True, exist_ok=True)
    get, verify, environment = _commands(request)
    say(f"downloading {request['repository']} at {request['revision']}, about {request['size_mib']} MiB")
    _run(get, environment, target, request["size_mib"], f"{request['repository']} cannot be downloaded")
    if verify:
        say("verifying checksums")
        _run(verify, environment, target, None, "the downloaded files are not those of the hub")
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (target / MARKER).write_text(f"{request['revision']}\n")
    say(f"{request['repository']} is complete in {target}")


def _commands(request: dict[str, Any]) -> tuple[list[str], list[str] | None, dict[str, str]]:
    """The client's command to get the files, its command to verify them (None where the first does it), its environment."""
    client, where = request["client"], [request["repository"], "--revision", request["revision"], "--local-dir", request["target"]]
    if request["hub"] == "modelscope":  # checks each file's SHA-256 while it downloads
        environment = {"MODELSCOPE_ENDPOINT": request["endpoint"]} if request["endpoint"] else {}
        return [client, "download", *where], None, environment
    environment = {"HF_ENDPOINT": request["endpoint"]} if request["endpoint"] else {}
    if request.get("token_file"):
        # by its name: an environment can be read in /proc
        environment["HF_TOKEN_PATH"] = request["token_file"]
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return [client, "download", *where], [client, "cache", "verify", *where, "--fail-on-missing-files"], environment


def _run(command: list[str], environment: dict[str, str], target: Path, size_mib: int | None, failure: str) -> None:
    with tempfile.TemporaryFile("w+", errors="replace") as output, tempfile.TemporaryDirectory() as home:
        # a home of its own: the client must neither read nor leave anything in root's
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "HOME": home, **environment}
        )
        try:
            said = time.monotonic()
            while process.poll() is None:
                if size_mib and time.monotonic() - said > _SAY_EVERY_S:
                    said = time.monotonic()
                    say(f"  {_size_mib(target)} of about {size_mib} MiB")
                time.sleep(0.2)
        except BaseException:
            process.kill()
            raise
        if process.returncode:
            raise BringupError(f"{failure}:\n{_tail(output)}")


def _tail(output: IO[str]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output.read().replace("\r", "\n").splitlines() if line.strip()]
    return "\n".join(lines[-8:])


def _size_mib(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue  # a partial file was renamed in this moment
    return total // 2**20
