"""What can be known of a release before the running service is touched."""

import os
import pwd
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bringup.errors import BringupError
from bringup.onhost.container import PODMAN_FAILED, run_command
from bringup.onhost.content import environment_in
from bringup.onhost.log import last_words
from bringup.onhost.manager import Manager

USER = "vllm"
FOLDERS = (Path("/var/lib/bringup/home"), Path("/var/lib/bringup/cache"))
"""Where the server writes."""
_ROOM_BYTES = 16 * 2**20
"""What a start writes at least: markers, compile caches of a small model. Judged; a full disk has none of it."""
_NOTHING_CHANGED = "nothing was changed on the running service"

# Runs inside the engine's own Python: parses the file as the server would and builds the engine's configuration from it.
_CHECK = """
import importlib, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
cli = importlib.import_module(sys.argv[1])
args = cli.make_arg_parser(FlexibleArgumentParser()).parse_args(["--config", sys.argv[2]])
cli.validate_parsed_serve_args(args)
AsyncEngineArgs.from_cli_args(args).create_engine_config()
"""

# As the service's user: whether a folder takes a file of that size.
_TRY_TO_WRITE = """
import os, sys, tempfile
for folder in sys.argv[2:]:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, int(sys.argv[1]))
    except OSError as error:
        sys.exit(f"{folder}: {error.strerror}")
"""


def check_configuration(release: Path, plan: dict[str, Any]) -> None:
    """Have the engine's own parser read the release's configuration.

    Raises:
        BringupError: the engine refuses it; the message has its words.
    """
    check = ["-c", _CHECK, plan["service"]["parser_module"], str(release / "vllm.yaml")]
    if plan.get("container"):
        done = subprocess.run(run_command(plan, release, "python3", check), capture_output=True, text=True, check=False)
        if done.returncode in PODMAN_FAILED:
            raise BringupError(f"Podman cannot run the image; {_NOTHING_CHANGED}:\n{last_words(done.stderr, 4)}")
    else:
        environment = environment_in((release / "environment").read_text())
        done = _as_user([str(Path(plan["engine_dir"]) / "bin/python"), *check], environment)
    if done.returncode:
        raise BringupError(f"vLLM refuses this configuration; {_NOTHING_CHANGED}:\n{last_words(done.stderr, 4)}")


def check_folders() -> None:
    """See whether the server can write where it must.

    Raises:
        BringupError: it cannot, or the disk is full.
    """
    done = _as_user(["/usr/bin/python3", "-c", _TRY_TO_WRITE, str(_ROOM_BYTES), *map(str, FOLDERS)], {})
    if done.returncode:
        raise BringupError(f"user {USER} cannot write {last_words(done.stderr, 1)}; {_NOTHING_CHANGED}")


def check_port(port: int, service: Manager) -> None:
    """Refuse a port that somebody other than our own service listens on.

    Raises:
        BringupError: somebody does; the message says who.
    """
    listeners = subprocess.run(["ss", "-Hltnpe", f"sport = :{port}"], capture_output=True, text=True, check=False).stdout.strip()
    if not listeners:
        return
    pids = re.findall(r"pid=(\d+)", listeners)
    if not pids and re.findall(r"uid:(\d+)", listeners) == [str(pwd.getpwnam(USER).pw_uid)] * len(listeners.splitlines()):
        return  # in a container root may not see whose socket it is (CAP_SYS_PTRACE), but the user is our server's alone
    if not pids or not all(service.owns(pid) for pid in pids):
        names = re.findall(r'\("([^"]+)"', listeners)
        by = f"{', '.join(sorted(set(names)))} (pid {', '.join(pids)})" if pids else "a process that is not visible from here"
        raise BringupError(f"port {port} is taken by {by}; stop it or set another port; {_NOTHING_CHANGED}")


def _as_user(command: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a program as the service's user; what it leaves in its folder for temporary files goes with that."""
    user = pwd.getpwnam(USER)
    with tempfile.TemporaryDirectory(prefix="bringup-check-") as temporary:
        os.chown(temporary, user.pw_uid, user.pw_gid)
        return subprocess.run(
            command,
            env={**environment, "TMPDIR": temporary},
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
