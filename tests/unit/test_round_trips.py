"""How many commands a host's facts cost; `make bench` measures what they take over a slow link."""

import os
import re
import subprocess
import sys
from pathlib import Path

from bringup.probe.sections import probe_script

ROOT = Path(__file__).parents[2]
HOSTS = ["@replay/4090d-workstation", "@replay/amd-two-ccd-4090d"]


def commands_of_dry_run() -> list[tuple[str, str]]:
    """Host and text of everything that pyinfra sends while it prepares a deploy of both hosts; -vv makes it show that."""
    pyinfra = Path(sys.executable).parent / "pyinfra"
    command = [str(pyinfra), ",".join(HOSTS), "deploys/qwen.py", "--dry", "-vv"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    _, *parts = re.split(r"^ *\[(\S+)\] >>> ", done.stderr, flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))


def test_probe_is_sent_once_a_host() -> None:
    sent = commands_of_dry_run()
    assert len(sent) > len(HOSTS)  # what pyinfra's own operations ask is seen, too
    probes = [(host, text) for host, text in sent if "@@bringup" in text]
    assert sorted(host for host, _ in probes) == HOSTS
    assert all(text.startswith(probe_script().strip()) for _, text in probes)  # the whole of it: no section is asked apart
