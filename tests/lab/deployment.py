"""The commands that a user would type, and a look at the host from outside."""

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bringup.lab import hosts
from bringup.lab.container import KILL_LIMIT_S
from bringup.lab.state import LabHost, read_state

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LIMIT_S = 900
# what a log-in over SSH, or a minute gone by, changes by itself
_RESTLESS = ("var/log", "run", "tmp", "var/tmp", "var/lib/systemd", "var/lib/dbus", "etc/machine-id", "root/.cache")


def changed(run: "subprocess.CompletedProcess[str]") -> list[str]:
    """Operations of a `--json` run that did something."""
    return [operation["name"] for operation in json.loads(run.stdout)["results"]["operations"] if operation["success"]]


def nspawn_of(directory: Path, name: str) -> psutil.Process:
    """The process that is a lab's host, seen from outside."""
    (process,) = (
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "systemd-nspawn" and str(directory / "hosts" / name / "root") in process.info["cmdline"]
    )
    return process


@dataclass(frozen=True)
class Deployment:
    """Hosts of one lab, and where their smoke records go."""

    directory: Path
    reports: Path
    settings: dict[str, Any] = field(default_factory=dict)
    """Of every deploy to them."""

    def host(self, name: str = "lab1") -> LabHost:
        return read_state(self.directory).host(name)

    def command(self, *words: str, check: bool = True, limit_s: float = LIMIT_S) -> "subprocess.CompletedProcess[str]":
        """Run a command of the virtual environment from the project's folder."""
        finished = subprocess.run(**self._process(words), capture_output=True, text=True, timeout=limit_s)
        if check:
            assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished

    def _process(self, words: Sequence[str]) -> dict[str, Any]:
        """How a command is started, as `subprocess` takes it."""
        environment = {**os.environ, "BRINGUP_LAB_DIR": str(self.directory), "COLUMNS": "200", "NO_COLOR": "1"}
        return {"args": [str(BIN / words[0]), *words[1:]], "cwd": ROOT, "env": environment, "stdin": subprocess.DEVNULL}

    def start(self, **data: Any) -> "subprocess.Popen[bytes]":
        """A deploy that is not waited for."""
        words = ["pyinfra", "-y", "inventories/lab.py", "deploys/qwen.py", *self._options("lab1", data)]
        return subprocess.Popen(**self._process(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def deploy(self, *words: str, limit: str = "lab1", check: bool = True, **data: Any) -> "subprocess.CompletedProcess[str]":
        """`pyinfra -y inventories/lab.py deploys/qwen.py`, with settings overridden."""
        return self.command(
            "pyinfra", "-y", "inventories/lab.py", "deploys/qwen.py", *self._options(limit, data), *words, check=check
        )

    def dry_run(self, *words: str, limit: str = "lab1", **data: Any) -> "subprocess.CompletedProcess[str]":
        return self.command("pyinfra", "inventories/lab.py", "deploys/qwen.py", "--dry", *self._options(limit, data), *words)

    def diff(self, limit: str = "lab1", **data: Any) -> "subprocess.CompletedProcess[str]":
        return self.command("bringup", "diff", "inventories/lab.py", *self._options(limit, data), check=False)

    def verify(self, limit: str = "lab1", **data: Any) -> "subprocess.CompletedProcess[str]":
        return self.command("bringup", "verify", "inventories/lab.py", "--json", *self._options(limit, data), check=False)

    def _options(self, limit: str, data: dict[str, Any]) -> list[str]:
        settings = {"reports_dir": str(self.reports)} | self.settings | data
        values = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items())
        return ["--limit", limit, *(word for value in values for word in ("--data", value))]

    def ssh(self, script: str, name: str = "lab1", check: bool = True, limit_s: float = LIMIT_S) -> str:
        return self.command("bringup", "lab", "ssh", name, script, check=check, limit_s=limit_s).stdout

    def get(self, path: str, tls: ssl.SSLContext | None = None) -> Any:
        """Ask the served model over HTTP."""
        return json.load(self._open(path, tls))

    def origins(self, tls: ssl.SSLContext) -> dict[str, str | None]:
        """What the server allows pages from two places: the origin that it names, or None."""
        found = {}
        for origin in ("https://chat.example.org", "https://evil.example.org"):
            found[origin] = self._open("/health", tls, Origin=origin).headers["Access-Control-Allow-Origin"]
        return found

    def _open(self, path: str, tls: ssl.SSLContext | None, **headers: str) -> Any:
        """What the server answers."""
        url = f"{'https' if tls else 'http'}://127.0.0.1:{self.host().service_port}{path}"
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (to this machine)
        return urllib.request.urlopen(request, timeout=10, context=tls)  # noqa: S310

    def served_models(self) -> list[str]:
        return [model["id"] for model in self.get("/v1/models")["data"]]

    def main_pid(self) -> str:
        return self.ssh("systemctl show vllm.service --property=MainPID --value").strip()

    def cut_power(self) -> None:
        """Everything that runs on the host is gone, at once; what is on its disk is as it was."""
        nspawn = nspawn_of(self.directory, "lab1")
        # the container's first process takes all the others along, and outlives nspawn
        processes = [nspawn, *nspawn.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert psutil.wait_procs(processes, KILL_LIMIT_S)[1] == []

    def boot(self) -> None:
        """Start the host, which is off."""
        hosts.up(directory=self.directory)

    def refuses_what_vllm_refuses(self) -> None:
        """Deploy settings that contradict each other, which must not touch the running service."""
        pid = self.main_pid()
        run = self.deploy(check=False, engine_settings={"max-num-seqs": 512, "max-num-batched-tokens": 64})
        assert run.returncode == 1
        assert "vLLM refuses this configuration; nothing was changed on the running service" in run.stderr
        assert "max_num_batched_tokens (64)" in run.stderr
        assert self.main_pid() == pid
        assert self.diff().returncode == 0

    def file_system(self, name: str) -> dict[str, tuple[int, int, int]]:
        """All that differs from the base on a host: path to size, time and mode, less what a log-in changes by itself."""
        upper = self.directory / "hosts" / name / "upper"
        found = {}
        for path in upper.rglob("*"):
            relative = str(path.relative_to(upper))
            if not relative.startswith(_RESTLESS):
                stat = path.lstat()
                found[relative] = (stat.st_size, 0 if path.is_dir() else stat.st_mtime_ns, stat.st_mode)
        return found
