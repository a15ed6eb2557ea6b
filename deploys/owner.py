"""Who this run is, for another one that is told to wait for it."""

import getpass
import os
import shlex
import socket


def on_host(words: str) -> str:
    """Return the command line of bringup's tool on the host, with the name of this run."""
    who = f"{getpass.getuser()}@{socket.gethostname()} (pid {os.getpid()})"
    return f"/opt/bringup/bin/bringup-host --by {shlex.quote(who)} {words}"
