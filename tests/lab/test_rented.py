"""A host as rented containers are: sshd as start command, no systemd, kernel settings read-only, the rights of a Docker container.

The tests build on each other, in this order: a deploy takes a minute, and each leaves the host serving for the next.
"""

import json

import pytest
from deployment import Deployment, changed
from rented import MODEL, START, Rented

pytestmark = pytest.mark.lab


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
    rented.stop_while_answering(100)
    stopped = rented.deployment.verify()
    assert stopped.returncode == 2
    assert "/var/log/bringup/vllm.log says why it is inactive" in stopped.stdout
    rented.deployment.deploy()
    assert rented.deployment.verify().returncode == 0


def test_what_is_served_is_measured_on_the_host(rented: Rented) -> None:
    words = ("--limit", "lab1", "--stage", "ladder", "--ladder-to", "1", "--max-tokens", "8", "--json")
    run = rented.deployment.command("bringup", "smoke", "inventories/lab.py", *words)
    assert json.loads(run.stdout)["hosts"]["lab1"]["stages"][0]["requests"]
