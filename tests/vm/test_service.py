"""What the unit's limits do on a kernel of its own, with control groups that throw-away hosts do not have.

The server is a shell here: vLLM itself would need an hour on QEMU's emulated processor.
"""

import json
import time
from pathlib import Path

import pytest
from machine import Boot, Machine, Vm

from bringup.catalog import load_catalog
from bringup.plan import Plan, make_plan
from bringup.settings import Settings
from deploys.bundle import host_bundle
from deploys.render import render
from tests.unit.machines import demo_host

pytestmark = pytest.mark.vm
LIMIT_MIB = 64
_SERVER = r"""#!/bin/sh
cd /var/lib/bringup/cache
exec > seen 2>&1
# a thread may ask for other CPUs than its affinity, and gets none outside of its control group
taskset --cpu-list --pid 0-1 $$ > /dev/null
echo "cpus=$(taskset --cpu-list --pid $$ | sed 's/.*: //')"
echo "memory=$(cat /sys/fs/cgroup/system.slice/vllm.service/memory.max)"
echo "oom=$(cat /proc/self/oom_score_adj)"
echo "devices=$(ls /dev | grep -c vd)"
echo "others=$(ls /proc | grep -c '^1$')"
echo "users=$(unshare --user true && echo yes)"
echo "written=$(touch /etc/x /opt/x /usr/x && echo yes)"
echo "mode=$(touch new; stat -c %a new)"
sleep infinity & echo "child=$!"
echo "end=yes"
mv seen done
[ ! -e answering ] || exec /usr/bin/python3 answering
[ ! -e greedy ] || { rm greedy; exec tail /dev/zero; }
wait
"""
_ANSWERING = r"""
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        with open("asked", "a") as asked:
            asked.write("x")

http.server.HTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""


def plan_of_demo() -> Plan:
    settings = Settings.model_validate(
        {"profile": "cpu-demo", "model": "smollm2-135m", "model_source": {"kind": "host-folder", "path": "/srv/model"}}
    )
    return make_plan(demo_host(), settings, load_catalog(), "x")


@pytest.fixture(scope="module")
def machine(boot: Boot) -> Machine:
    machine = boot(Vm())
    plan = plan_of_demo()
    service = plan.service.model_copy(update={"command": ("/usr/local/bin/server",), "cpus": "1", "memory_max_mib": LIMIT_MIB})
    plan = plan.model_copy(update={"service": service})  # which is another release
    unit = render("vllm.service.j2", plan)
    # nothing answers here
    unit = "\n".join(line for line in unit.splitlines() if not line.startswith("ExecStartPost="))
    machine.run_script(
        "set -e; useradd --system --home-dir /var/lib/bringup/home vllm; mkdir -p /var/lib/bringup/home /var/lib/bringup/cache\n"
        f"chown vllm: /var/lib/bringup/*; mkdir -p {plan.release_dir}; touch {plan.release_dir}/environment\n"
        f"cat > /usr/local/bin/server <<'E'\n{_SERVER}E\nchmod 755 /usr/local/bin/server\n"
        f"cat > /etc/systemd/system/vllm.service <<'E'\n{unit}\nE\n"
        "systemctl daemon-reload"
    )
    return machine


def seen(machine: Machine) -> dict[str, str]:
    """Start the server and return what it found."""
    folder = "/var/lib/bringup/cache"
    machine.ssh(f"rm -f {folder}/done; systemctl restart vllm.service")
    text = machine.ssh(f"for i in $(seq 600); do [ -e {folder}/done ] && break; sleep 0.1; done; cat {folder}/done").stdout
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_limits_hold_whatever_the_server_tries(machine: Machine) -> None:
    found = seen(machine)
    assert found["end"] == "yes"
    assert found["cpus"] == "1"
    assert found["memory"] == str(LIMIT_MIB * 2**20)
    assert found["oom"] == "-500"
    assert (found["devices"], found["others"]) == ("0", "0")
    assert (found["users"], found["written"], found["mode"]) == ("", "", "600")


def test_server_that_takes_too_much_memory_is_ended_as_a_whole_and_started_again(machine: Machine) -> None:
    machine.ssh("systemctl reset-failed vllm.service; touch /var/lib/bringup/cache/greedy")
    child = seen(machine)["child"]
    limit = time.monotonic() + 120
    while machine.ssh("systemctl show vllm.service -P NRestarts").stdout.strip() == "0":
        assert time.monotonic() < limit
        time.sleep(0.5)
    assert "oom-kill" in machine.ssh("journalctl -u vllm.service -o cat --no-pager").stdout
    # no orphan of it, although the kernel chose another process of the two
    assert machine.ssh(f"ps -o args= -p {child}", check=False).stdout.strip() != "sleep infinity"


@pytest.fixture(scope="module")
def watched(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine with a server that answers, and a watch that gives up on it within a second or two."""
    plan = plan_of_demo()
    release = {"model": plan.model, "vllm": {"host": "127.0.0.1", "port": 8000}}
    tool = render("bringup-host.j2", plan)
    bundle: Path = tmp_path_factory.mktemp("bundle") / "bringup.zip"
    bundle.write_bytes(host_bundle())
    machine.write_file("/opt/bringup/lib/bringup.zip", bundle)
    watch = render("vllm-watch.service.j2", plan).replace("bringup-host watch", "bringup-host watch --interval-s 0.5 --failures 2")
    machine.run_script(
        f"cat > /var/lib/bringup/cache/answering <<'E'\n{_ANSWERING}\nE\n"
        f"mkdir -p /opt/bringup/bin /opt/bringup/current; echo '{json.dumps(release)}' > /opt/bringup/current/plan.json\n"
        f"cat > /opt/bringup/bin/bringup-host <<'E'\n{tool}\nE\nchmod 755 /opt/bringup/bin/bringup-host\n"
        f"cat > /etc/systemd/system/vllm-watch.service <<'E'\n{watch}\nE\n"
        "chown vllm: /var/lib/bringup/cache/answering; systemctl daemon-reload; systemctl reset-failed vllm.service\n"
        "systemctl restart vllm.service vllm-watch.service"
    )
    return machine


def server_and_starts(machine: Machine) -> list[str]:
    return machine.ssh("systemctl show vllm.service vllm-watch.service -P MainPID -P NRestarts").stdout.split()


def wait_until_asked_often(machine: Machine) -> None:
    """Until the watch has had several answers from now on."""
    asked = "/var/lib/bringup/cache/asked"
    machine.ssh(f"rm -f {asked}; timeout 120 sh -c 'until [ $(cat {asked} 2>/dev/null | wc -c) -ge 5 ]; do sleep 0.2; done'")


@pytest.mark.parametrize("days", [90, -180], ids=["forward", "back"])
def test_clock_that_jumps_ends_no_server_and_the_watch_still_minds_it(watched: Machine, days: int) -> None:
    wait_until_asked_often(watched)
    before = server_and_starts(watched)
    watched.ssh(f"date -s @$(($(date +%s) + {days * 86400}))")
    wait_until_asked_often(watched)
    assert server_and_starts(watched) == before
    # one that hangs is still ended in time, and another one serves
    watched.ssh(f"kill -STOP {before[0]}")
    wait_until_asked_often(watched)
    pid, restarts, *_ = server_and_starts(watched)
    assert pid not in ("0", before[0])
    assert int(restarts) == int(before[1]) + 1
