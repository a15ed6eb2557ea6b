"""What the unit's limits do on a kernel of its own, with control groups that throw-away hosts do not have.

The server is a shell here: vLLM itself would need an hour on QEMU's emulated processor.
"""

import time

import pytest
from machine import Boot, Machine, Vm

from bringup.catalog import load_catalog
from bringup.plan import make_plan
from bringup.settings import Settings
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
[ ! -e greedy ] || { rm greedy; exec tail /dev/zero; }
wait
"""


@pytest.fixture(scope="module")
def machine(boot: Boot) -> Machine:
    machine = boot(Vm())
    settings = Settings.model_validate(
        {"profile": "cpu-demo", "model": "smollm2-135m", "model_source": {"kind": "host-folder", "path": "/srv/model"}}
    )
    plan = make_plan(demo_host(), settings, load_catalog(), "x")
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
