"""A throw-away host at the far side of a delayed link, which writes down every command that arrives over SSH."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.delayed_link import FAR_ADDRESS, DelayedLink
from bringup.errors import BringupError
from bringup.lab.base import ensure_base
from bringup.lab.commands import run
from bringup.lab.machine import require_hosts
from bringup.lab.state import base_dir, lab_dir, read_state

_SSHD_LOG = Path("var/log/sshd.log")
_COMMANDS = Path("var/log/ssh-commands")
_RECORDER = Path("usr/local/sbin/record-ssh-command")
# At VERBOSE, sshd's log has a line for each session but not what it runs; that the recorder writes, which sshd starts instead.
_SSHD_SETTINGS = f"""\
ListenAddress {FAR_ADDRESS}
LogLevel VERBOSE
ForceCommand /{_RECORDER}
"""
_RECORDER_SCRIPT = f"""\
#!/bin/sh
printf '%s\\0' "$SSH_ORIGINAL_COMMAND" >>/{_COMMANDS}
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""


@dataclass(frozen=True)
class DistantHost:
    """The host: how pyinfra reaches it, and what arrived there."""

    lab: Path
    """The state folder of the lab that it is the one host of."""
    root: Path
    """Its root file system, as seen from this machine."""
    ssh_port: int

    @property
    def environment(self) -> dict[str, str]:
        """What makes `inventories/lab.py` mean this host."""
        return _environment(self.lab)

    @property
    def data(self) -> dict[str, str]:
        """What makes `inventories/lab.py` go through the link instead of loopback."""
        return {"ssh_hostname": FAR_ADDRESS, "ssh_known_hosts_file": str(self.lab / "known_hosts_far")}

    def take_commands(self) -> list[str]:
        """The commands that arrived since the last call, in order.

        Raises:
            BringupError: sshd's own log counts another number of them.
        """
        commands = (self.root / _COMMANDS).read_text().split("\0")[:-1]
        sessions = re.findall(r"^Starting session: ", (self.root / _SSHD_LOG).read_text(), re.MULTILINE)
        if len(sessions) != len(commands):
            raise BringupError(f"sshd logged {len(sessions)} sessions, but {len(commands)} commands were written down.")
        self.forget_commands()
        return commands

    def forget_commands(self) -> None:
        """Begin to count anew."""
        for log in (_COMMANDS, _SSHD_LOG):
            (self.root / log).write_text("")


@contextmanager
def distant_host(link: DelayedLink, lab: Path, console: Console) -> Iterator[DistantHost]:
    """Boot a bare throw-away host behind the link, with its state in the folder `lab`; remove it in the end.

    Raises:
        BringupError: no throw-away host can be started here, and why.
    """
    require_hosts(lab)
    ensure_base(lab_dir(), console)  # before we go where there is no other network
    bringup = str(Path(sys.executable).parent / "bringup")

    def lab_command(*words: str) -> None:
        run(*link.enter, bringup, "lab", *words, env=_environment(lab), failure=f"`bringup lab {words[0]}` failed:")

    try:
        lab_command("up")
        state = read_state(lab)
        (host,) = state.hosts
        (lab / "known_hosts_far").write_text(f"[{FAR_ADDRESS}]:{host.ssh_port} {host.host_key}\n")
        (host.root / "etc/ssh/sshd_config.d/distant.conf").write_text(_SSHD_SETTINGS)
        (host.root / "etc/default/ssh").write_text(f"SSHD_OPTS='-E /{_SSHD_LOG}'\n")
        (host.root / _RECORDER).write_text(_RECORDER_SCRIPT)
        (host.root / _RECORDER).chmod(0o755)
        lab_command("ssh", host.name, "systemctl restart ssh.service")
        distant = DistantHost(lab=lab, root=host.root, ssh_port=host.ssh_port)
        distant.forget_commands()
        yield distant
    finally:
        lab_command("down")


def _environment(lab: Path) -> dict[str, str]:
    return {"BRINGUP_LAB_DIR": str(lab), "BRINGUP_LAB_BASE_DIR": str(base_dir(lab_dir()))}
