"""A host as rented containers are: sshd as start command, no systemd, kernel settings read-only, the rights of a Docker container.

The tests build on each other, in this order: a deploy takes a minute, and each leaves the host serving for the next.
"""

import json
import urllib.error
from dataclasses import dataclass
from typing import ClassVar

import psutil
import pytest
from deployment import Deployment, changed
from served import STOP_LIMIT_S, Service

from bringup.lab import hosts
from bringup.lab.container import KILL_LIMIT_S

pytestmark = pytest.mark.lab
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
START = "/opt/bringup/bin/bringup-start"
SUPERVISORCTL = "/opt/bringup/tools/supervisor/bin/supervisorctl -c /etc/bringup/supervisord.conf"


@dataclass(frozen=True)
class Rented(Service):
    """The service where a supervisor runs it."""

    log_tail: ClassVar[str] = "tail -n 40 /var/log/bringup/*.log"

    def status(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.ssh("/opt/bringup/bin/bringup-host status").splitlines())

    def state(self) -> str:
        return self.status()["ActiveState"]


@pytest.fixture(scope="module")
def rented(rented_deployment: Deployment) -> Rented:
    return Rented(rented_deployment, MODEL)


def test_dry_run_shows_what_stands_in_for_the_unit_and_changes_nothing(rented: Rented) -> None:
    before = rented.deployment.file_system("lab1")
    shown = rented.deployment.dry_run("--diff").stderr
    assert rented.deployment.file_system("lab1") == before
    for content in ("cpus = ", "stop_timeout_s = 45", "[program:vllm]", "HF_HUB_OFFLINE=1"):
        assert f"+ {content}" in shown
    assert "systemctl" not in shown


def test_bare_container_to_served_model_and_a_list_for_its_owner(rented: Rented) -> None:
    wishes = {"host_settings": {"net.core.somaxconn": "8192"}}
    run = rented.deployment.deploy(**wishes)
    assert f"PASS  {MODEL} on lab1" in run.stderr or f"INCONCLUSIVE  {MODEL} on lab1" in run.stderr
    assert rented.deployment.served_models() == [MODEL]
    assert "KV cache: vLLM has 46,592 tokens, the plan said 46,592" in run.stderr
    for said in (
        f"add the line {START} to that",
        "docker run --ulimit nofile=65536:65536",
        "docker run --oom-score-adj -500",
        "net.core.somaxconn cannot be set from inside this host",
        "sysctl -w net.core.somaxconn=8192",
    ):
        assert said in run.stderr
    assert changed(rented.deployment.deploy("--json", **wishes)) == []
    assert rented.deployment.diff(**wishes).returncode == 0
    plan, tuning = changed(rented.deployment.deploy("--json"))[::-1]
    assert (tuning, plan.startswith("Service | Write plan.json")) == ("Tuning | Remove /etc/bringup/tuning.json", True)


def test_server_runs_as_planned(rented: Rented) -> None:
    status = rented.ssh("cat /proc/$(/opt/bringup/bin/bringup-host status | sed -n s/^MainPID=//p)/status")
    assert f"Uid:\t{rented.ssh('id -u vllm')}\t" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    planned = json.loads(rented.ssh("cat /opt/bringup/current/plan.json"))
    assert planned["manager"] == "supervisor"
    assert f"Cpus_allowed_list:\t{planned['service']['cpus']}\n" in status
    assert rented.ssh("stat -c %a /var/log/bringup") == "750"


def test_verify_finds_the_server_and_what_was_changed_by_hand(rented: Rented) -> None:
    found = rented.deployment.verify()
    assert found.returncode == 0, found.stdout + found.stderr
    checks = {check["subject"]: check for check in json.loads(found.stdout)["hosts"]["lab1"]["checks"]}
    assert checks["vllm.service"]["found"] == "enabled, active"
    engine = next(check for subject, check in checks.items() if subject.startswith("CPUs of process") and "EngineCor" in subject)
    assert engine["status"] == "ok"
    # the container has fewer open files than planned, and its owner alone can change that
    assert {check["status"] for subject, check in checks.items() if subject.startswith("open files")} == {"cannot"}
    with rented.open(100, stream=True) as answer:
        assert answer.readline().startswith(b"data:")
        rented.ssh(f"{SUPERVISORCTL} stop vllm")
        assert answer.read().decode().rstrip().endswith("data: [DONE]"), "a running answer ends before a stop"
    stopped = rented.deployment.verify()
    assert stopped.returncode == 2
    assert "/var/log/bringup/vllm.log says why it is inactive" in stopped.stdout
    assert rented.processes() == set()
    rented.deployment.deploy()
    assert rented.deployment.verify().returncode == 0


def test_what_is_served_is_measured_on_the_host(rented: Rented) -> None:
    words = ("--limit", "lab1", "--stage", "ladder", "--ladder-to", "1", "--max-tokens", "8", "--json")
    run = rented.deployment.command("bringup", "smoke", "inventories/lab.py", *words)
    assert json.loads(run.stdout)["hosts"]["lab1"]["stages"][0]["requests"]


def test_release_that_does_not_come_up_is_taken_back(rented: Rented) -> None:
    rented.ssh(
        "cp -r /var/lib/bringup/models/*/ /srv/broken && "
        """sed -i 's/"num_hidden_layers": 30/"num_hidden_layers": 31/' /srv/broken/config.json"""
    )
    run = rented.deployment.deploy(check=False, model_source={"kind": "host-folder", "path": "/srv/broken"})
    assert run.returncode == 1
    assert "the server ended while it started: ValueError: Following weights were not initialized" in run.stderr
    assert "which was served before, is served again" in run.stderr
    assert rented.deployment.served_models() == [MODEL]
    assert rented.deployment.diff().returncode == 0


@pytest.mark.parametrize(
    "victim",
    [
        "pgrep -u vllm -f vllm.entrypoints",
        "pgrep -u vllm -f VLLM::EngineCore",
        f"{SUPERVISORCTL} pid vllm",
        "cat /run/bringup/supervisord.pid",
    ],
    ids=["server", "engine", "keeper", "supervisor"],
)
def test_process_that_is_killed_leaves_no_other_behind_and_all_are_served_again(rented: Rented, victim: str) -> None:
    before = rented.processes()
    rented.ssh(f"kill -9 $({victim})")
    rented.wait(lambda: not before & rented.processes(), STOP_LIMIT_S, "every process of the old server has ended")
    rented.wait_until_active()
    assert rented.answer() == "length"
    assert len(rented.processes("VLLM::EngineCore")) == 1
    assert rented.ssh("pgrep -c -u root -x python3") == "2", "one keeper and one watch"
    # as much shared memory as one server has
    assert rented.ssh("ls /dev/shm | grep -c psm_") == "2"
    rented.ssh("rm -f /run/bringup/starts.json")  # the next victim's server need not wait longer


def test_container_that_is_started_again_serves_again(rented: Rented) -> None:
    # as its owner does after reading the list
    rented.ssh(f"echo {START} > /root/onstart.sh")
    host = rented.deployment.host()
    (container,) = (
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "systemd-nspawn" and str(host.root) in process.info["cmdline"]
    )
    container.terminate()
    container.wait(KILL_LIMIT_S)
    with pytest.raises(urllib.error.URLError):
        rented.deployment.served_models()
    hosts.up(directory=rented.deployment.directory)
    rented.wait_until_active()
    assert rented.answer() == "length"
    assert rented.deployment.diff().returncode == 0
    assert rented.deployment.verify().returncode == 0


def test_server_that_cannot_start_is_given_up_and_everybody_is_told(rented: Rented) -> None:
    toml = "/opt/bringup/current/vllm.toml"
    rented.ssh(
        f"cp {toml} /root/kept.toml; {SUPERVISORCTL} stop vllm; "
        f"""sed -i 's|^command = .*|command = ["/bin/false"]|; s|_delay_s = .*|_delay_s = 0.1|' {toml}; """
        f"{SUPERVISORCTL} start vllm"
    )
    rented.wait(lambda: rented.state() == "failed", STOP_LIMIT_S, "it is given up")
    assert "vllm.service has given up (exit code 1)" in rented.ssh("cat /run/motd.d/50-bringup")
    assert "bringup: vllm.service has given up" in rented.ssh("tail -n 5 /var/log/bringup/vllm.log")
    assert rented.deployment.diff().returncode == 2, "what is not served is drift"
    rented.ssh(f"cp /root/kept.toml {toml}; {SUPERVISORCTL} start vllm")
    rented.wait_until_active()
    assert rented.answer() == "length"
