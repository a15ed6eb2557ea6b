"""A throw-away host that looks like a machine with a card, its package repository, and what a user would type."""

import json
import os
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployment import BIN, ROOT, Deployment
from nvidia_repository import NvidiaRepository, Package
from workbench import put_card_in, switched_on_again

from bringup.lab import hosts
from bringup.lab.container import ssh_command
from bringup.lab.state import read_state

_NOT_NEEDED = shutil.ignore_patterns("*mypy*", "pip", "hypothesis", "setuptools", "ruff*", "ast_serialize", "__pycache__")
"""Of what is installed for the project's own checks."""


class Machine:
    """The host, its repository, and what a user would type."""

    def __init__(self, deployment: Deployment, repository: NvidiaRepository) -> None:
        self.deployment = deployment
        self.repository = repository
        self.bare: tuple[set[str], set[str]] = (set(), set())
        """Packages and files before anything was done; each module of tests leaves it so."""

    def deploy(
        self, *words: str, check: bool = True, dry: bool = False, job: str = "driver", **data: Any
    ) -> "subprocess.CompletedProcess[str]":
        return self.deployment.command("pyinfra", "--dry" if dry else "-y", *self._arguments(data, job), *words, check=check)

    def start(self, **data: Any) -> "subprocess.Popen[bytes]":
        """The same in the background; whoever starts it ends it."""
        command = [str(BIN / "pyinfra"), "-y", *self._arguments(data)]
        environment = {**os.environ, "BRINGUP_LAB_DIR": str(self.deployment.directory)}
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **silent)

    def _arguments(self, data: dict[str, Any], job: str = "driver") -> list[str]:
        if job == "qwen":  # what would really be served there, and not the lab's own small model
            data = {"model": "qwen3-4b", "model_source": {"kind": "hub"}, "profile": "interactive"} | data
        settings = {name: value for name, value in ({"nvidia_repository": self.repository.setting()} | data).items() if value}
        values = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items())
        options = (word for value in values for word in ("--data", value))
        return ["inventories/lab.py", f"deploys/{job}.py", "--limit", "lab1", *options]

    def deploy_itself(self, **data: Any) -> str:
        """Run the job on the host against the host (`@local`); returns what it says, and its exit code last."""
        here = self.deployment.host().root / "srv/bringup"
        shutil.copytree(sysconfig.get_path("purelib"), here / "site", ignore=_NOT_NEEDED)
        for name in ("bringup", "bringup_pyinfra", "deploys", "facts", "templates"):
            shutil.copytree(ROOT / name, here / name, ignore=_NOT_NEEDED)
        for path in (ROOT / "config.py", self.repository.key_file):
            shutil.copy(path, here)
        settings = {"nvidia_repository": self.repository.setting(key_file="/srv/bringup/key.asc")} | data
        options = [word for name, value in settings.items() for word in ("--data", f"{name}={json.dumps(value)}")]
        command = shlex.join(["python3", "-m", "pyinfra", "-y", "@local", "deploys/driver.py", *options])
        said = self.ssh(f"cd /srv/bringup && PYTHONPATH=/srv/bringup/site {command} 2>&1; echo exit code $?")
        shutil.rmtree(here)
        return said

    def ssh(self, script: str, check: bool = True) -> str:
        # not through `bringup lab ssh`, which takes longer to start than most scripts to run
        command = ssh_command(read_state(self.deployment.directory), self.deployment.host(), "-oConnectTimeout=5")
        finished = subprocess.run([*command, script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        if check:
            assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    def boot_id(self) -> str:
        return self.ssh("cat /proc/sys/kernel/random/boot_id").strip()

    def loaded(self) -> str:
        return self.ssh("cat /sys/module/nvidia/version 2>/dev/null || true").strip()

    def packages(self) -> set[str]:
        return set(self.ssh("dpkg-query -W -f '${db:Status-Abbrev}${Package}=${Version}\\n' | sed -n 's/^[ih]i *//p'").split())

    def restart(self, kernel: str | None = None) -> None:
        """Boot it anew, into another kernel if one is named."""
        before = self.boot_id()
        self.ssh(f"echo {kernel} > /root/booted-kernel" if kernel else "rm -f /root/booted-kernel")
        self.ssh("systemctl reboot", check=False)
        self.wait_until(f"! grep -q {before} /proc/sys/kernel/random/boot_id")

    @contextmanager
    def release(self, text: str) -> Iterator[None]:
        """Say that it is another distribution."""
        self.ssh(f"cp -a /etc/os-release /root/os-release && rm /etc/os-release && printf '{text}' > /etc/os-release")
        yield
        self.ssh("rm /etc/os-release && mv /root/os-release /etc/os-release")

    @contextmanager
    def secure_boot(self) -> Iterator[None]:
        """Say that Secure Boot is on, as the firmware does after the next boot and from now on."""
        self.ssh("touch /root/secure-boot && systemctl start card")
        yield
        self.ssh("rm /root/secure-boot && umount /sys/firmware")

    @contextmanager
    def power_cut(self) -> Iterator[None]:
        """Once it goes off, it stays so until the block ends."""
        cut = self.deployment.directory / "power-cut"
        cut.touch()
        try:
            yield
        finally:
            cut.unlink()
        self.wait_until("true")

    def wait_until(self, condition: str, limit_s: float = 60) -> None:
        """Wait for a shell command on the host to succeed; it may be off meanwhile."""
        limit = time.monotonic() + limit_s
        while "holds" not in self.ssh(f"if {condition}; then echo holds; fi", check=False):
            assert time.monotonic() < limit, condition
            time.sleep(0.3)

    def files(self) -> set[str]:
        """Every path, and what the files in /etc say, less what apt and a boot change by themselves."""
        pruned = ("/var/lib/apt", "/var/cache", "/var/lib/dpkg", "/var/lib/systemd", "/var/log", "/root", "/tmp", "/var/tmp")
        names = " -o ".join(f"-path {path}" for path in pruned)
        listed = self.ssh(
            rf"find / -xdev \( {names} \) -prune -o -print; find /etc -type f ! -name ld.so.cache -exec md5sum {{}} +"
        )
        return set(listed.splitlines())


@contextmanager
def machine_with_card(directory: Path, reports: Path, repository: NvidiaRepository) -> Iterator[Machine]:
    """The host, from its first boot with the card to its end."""
    hosts.up(1, directory)
    root = read_state(directory).host("lab1").root
    put_card_in(root)
    machine = Machine(Deployment(directory, reports), repository)
    # what Debian's installer leaves, and what a user adds: a kernel that follows updates, sudo, unattended-upgrades
    Package("linux-image-amd64", "99:1").build(root / "root")
    machine.ssh("echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/lab && dpkg -i /root/linux-image-amd64_*.deb && apt-get update -qq")
    machine.ssh("apt-get install -y -qq --no-install-recommends sudo unattended-upgrades > /root/apt.log 2>&1")
    # all else comes from repositories of the tests; the distribution's lists would take most of apt's time
    machine.ssh("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*_*")
    machine.ssh("useradd -m -s /bin/bash admin && cp -r /root/.ssh ~admin/ && touch ~admin/.sudo_as_admin_successful")
    machine.ssh("chown -R admin: ~admin")
    machine.ssh("echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin")
    with switched_on_again(directory):
        machine.restart()
        machine.bare = machine.packages(), machine.files()
        yield machine
    hosts.down(directory=directory)
