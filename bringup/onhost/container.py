"""The engine in a container: its image on the host, and programs of it."""

import json
import subprocess
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.onhost.lock import lock
from bringup.onhost.log import last_words
from bringup.onhost.say import say

PODMAN_FAILED = (125, 126, 127)
"""What `podman run` ends with where it is not the program in the container that failed (its manual, Exit Status)."""
RECORD = "image.json"
"""Beside a release's plan: which image it is served from."""


def pull(request_file: Path, by: str | None = None) -> None:
    """Get an image and give it the name under which bringup runs it.

    The request is a JSON file: ``image``, as a registry knows it; ``local_image``, its name on the host. An image that somebody has
    loaded under its name is taken as it is. `by` says for whom.

    Raises:
        BringupError: it cannot be had; the message has Podman's words.
    """
    request = json.loads(request_file.read_text())
    image, local_image = request["image"], request["local_image"]
    with lock(f"pulling {image}", by):
        if _podman("image", "exists", image).returncode == 0:
            say(f"{image} is on this host already")
        else:
            _pull(image)
        tagged = _podman("tag", image, local_image)
        if tagged.returncode:
            raise BringupError(f"{image} cannot be given the name {local_image}: {last_words(tagged.stderr)}")
        say(f"{image} is {_described(image)['digest']}")


def record_image(release: Path, plan: dict[str, Any]) -> None:
    """Write down which image the release is served from.

    Raises:
        BringupError: it is not on this host.
    """
    container = plan["container"]
    described = _described(container["local_image"])
    (release / RECORD).write_text(json.dumps({"image": container["image"], **described}, indent=2) + "\n")
    say(f"image {container['image']}: {described['digest']}")


def run_command(plan: dict[str, Any], release: Path, program: str, arguments: list[str]) -> list[str]:
    """The command that runs a program of the release's image in the surroundings of its server, to its end."""
    container = plan["container"]
    read_only = ["/etc/passwd", "/etc/group", str(release), *container["read_only"]]
    mounts = [f"--volume={path}:{path}:ro" for path in read_only] + [f"--volume={path}:{path}" for path in container["writable"]]
    device = [f"--device={container['device']}"] if container["device"] else []
    sandbox = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--ulimit=host", "--pids-limit=0"]
    where = ["--user=vllm:vllm", "--network=host", "--workdir=/", f"--env-file={release / 'environment'}"]
    command = ["podman", "run", "--rm", "--pull=never", *sandbox, *where, *mounts, *device, f"--entrypoint={program}"]
    return [*command, container["local_image"], *arguments]


def _pull(image: str) -> None:
    """Pass Podman's lines on as they come."""
    said = ""
    command = ["podman", "pull", image]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout or ():
            said += line
            say(f"  {line.rstrip()}")
    if process.returncode:
        advice = (
            "name it with its registry in container_image, or name the registry in unqualified-search-registries of "
            "/etc/containers/registries.conf"
            if "short-name" in said
            else "see whether the host reaches the registry, and whether root is logged in there if that is needed (podman login)"
        )
        raise BringupError(f"{image} cannot be pulled: {last_words(said, 1)}\n{advice}")


def _described(image: str) -> dict[str, Any]:
    done = _podman("image", "inspect", image)
    try:
        (found,) = json.loads(done.stdout)
        return {"digest": str(found["Digest"]), "id": str(found["Id"]), "repository_digests": list(found["RepoDigests"] or ())}
    except (ValueError, KeyError, TypeError) as error:
        raise BringupError(f"the image {image} is not on this host ({last_words(done.stderr, 1)}): run the deploy again") from error


def _podman(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
