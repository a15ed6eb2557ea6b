"""The main job on a real host: bare → served → unchanged → drifted → repaired, and what happens when a step breaks.

The tests build on each other, in this order: a deploy takes a minute, and each leaves lab1 serving for the next.
"""

import asyncio
import json
import re
import socket
import subprocess
import urllib.error
from pathlib import Path

import pytest
from deployment import Deployment, changed
from fake_hub import huggingface, modelscope, serving

from bringup.lab.model import demo_model_dir
from bringup.lab.state import lab_dir

pytestmark = pytest.mark.lab
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_dry_run_on_a_bare_host_shows_every_file_and_changes_nothing(deployment: Deployment) -> None:
    before = deployment.file_system("lab1")
    shown = deployment.dry_run("--diff").stderr
    assert deployment.file_system("lab1") == before
    for content in ("max-model-len: 2048", "ExecStart=/opt/bringup/engines/", "CPUAffinity=", "HF_HUB_OFFLINE=1"):
        assert f"+ {content}" in shown
    assert "torch==2.13.0+cpu" in shown


@pytest.mark.parametrize(
    ("prepare", "undo", "reason"),
    [
        ("mount -t tmpfs -o size=50m tmpfs /opt", "umount /opt", "/opt/bringup has 50 MiB free, the engine needs"),
        (
            "cp -p /etc/os-release /etc/os-release.kept && echo 'ID=plan9' > /etc/os-release",
            "mv /etc/os-release.kept /etc/os-release",
            "is not supported: take Debian 12",
        ),
    ],
    ids=["full disk", "unsupported OS"],
)
def test_unfit_host_is_refused_before_anything_is_done(deployment: Deployment, prepare: str, undo: str, reason: str) -> None:
    deployment.ssh(prepare, "lab2")
    before = deployment.file_system("lab2")
    run = deployment.deploy(limit="lab2", check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("    [lab2] Preflight | refused: ")
    assert reason in run.stderr.splitlines()[-1]
    assert deployment.file_system("lab2") == before
    assert deployment.diff(limit="lab2").returncode == 1
    deployment.ssh(undo, "lab2")


def test_bare_host_to_served_model(deployment: Deployment) -> None:
    run = deployment.deploy()
    assert "kernel settings cannot be written from here" in run.stderr
    assert f"PASS  {MODEL} on lab1" in run.stderr
    assert deployment.served_models() == [MODEL]
    # the plan's prediction is what vLLM itself logged
    assert "KV cache: vLLM has 46,592 tokens, the plan said 46,592" in run.stderr
    on_host = json.loads(deployment.ssh("cat /var/lib/bringup/smoke/latest.json"))
    (record,) = (deployment.reports / "lab1").glob("*.json")
    assert "✓ PASS" in record.with_suffix(".html").read_text(encoding="utf-8")
    assert json.loads(record.read_text()) == on_host
    assert on_host["outcome"] == "PASS"
    (stage,) = on_host["stages"]
    measured = [sample for sample in stage["requests"] if not sample["warm_up"]]
    assert len(measured) >= 5  # it takes as many to prove a P50
    assert {sample["completion_tokens"] for sample in measured} == {64}


def test_service_is_set_up_as_planned(deployment: Deployment) -> None:
    port = deployment.host().service_port
    assert deployment.ssh("ps -o user= -p $(systemctl show vllm.service -P MainPID)").strip() == "vllm"
    listening = {line.split()[3] for line in deployment.ssh(f"ss -Hltn 'sport = :{port}'").splitlines()}
    assert listening == {f"127.0.0.1:{port}"}
    assert deployment.ssh("systemd-analyze verify /etc/systemd/system/vllm.service 2>&1") == ""
    assert deployment.ssh("systemctl is-enabled vllm.service").strip() == "enabled"
    stop_s = deployment.ssh("systemctl show vllm.service -P TimeoutStopUSec").strip()
    assert stop_s == "45s"  # vLLM's own graceful stop is 30 s
    pid = deployment.main_pid()
    allowed = deployment.ssh(f"grep Cpus_allowed_list /proc/{pid}/status").split()[1]
    planned = json.loads(deployment.ssh("cat /opt/bringup/current/plan.json"))["service"]["cpus"]
    assert allowed == planned


def test_verify_finds_the_running_server_where_the_plan_wants_it(deployment: Deployment) -> None:
    found = deployment.verify()
    assert found.returncode == 0, found.stdout + found.stderr
    checks = {check["subject"]: check for check in json.loads(found.stdout)["hosts"]["lab1"]["checks"]}
    # of open files, a host in a container may have no more than whoever started it
    assert {check["status"] for subject, check in checks.items() if not subject.startswith("open files")} == {"ok"}
    placed = {subject: check for subject, check in checks.items() if subject.startswith("CPUs of process")}
    # the server and its engine at least, each with all of its threads
    assert any(f"process {deployment.main_pid()} " in subject for subject in placed)
    assert any("EngineCor" in subject for subject in placed)
    assert all(int(check["found"].split()[0]) >= 1 for check in placed.values())
    assert sum(int(check["found"].split()[0]) for check in placed.values()) > 10
    assert checks["vllm.service"]["found"] == "enabled, active"


def test_second_run_changes_nothing(deployment: Deployment) -> None:
    assert changed(deployment.deploy("--json")) == []
    plan = json.loads(deployment.dry_run("--json").stdout)["plan"]
    assert [operation["name"] for operation in plan if operation["hosts_with_change"]] == []
    assert [operation["name"] for operation in plan if operation["hosts_with_conditional_change"]] == []
    assert deployment.diff().returncode == 0


def test_what_is_served_is_measured_on_the_host_without_a_deploy(deployment: Deployment) -> None:
    words = ("--limit", "lab1", "--stage", "ladder", "--ladder-to", "2", "--max-tokens", "8", "--json")
    run = deployment.command("bringup", "smoke", "inventories/lab.py", *words, "--record-dir", str(deployment.reports / "by-hand"))
    (found,) = json.loads(run.stdout)["hosts"].values()
    assert [stage["load"]["concurrency"] for stage in found["stages"]] == [1, 2]
    assert all(stage["summary"]["failed"] == 0 for stage in found["stages"])
    assert found["plan"]["profile"] == "cpu-demo"
    assert found["facts"]["init"] == "systemd"
    assert {"api-server", "engine"} <= {process["role"] for process in found["timeline"]["processes"]}
    # what deploys go by is as it was
    assert deployment.diff().returncode == 0


def test_timer_repeats_the_benchmark_until_it_is_no_longer_asked_for(deployment: Deployment) -> None:
    before = deployment.ssh("readlink /var/lib/bringup/smoke/latest.json")
    deployment.deploy(smoke_timer="daily")
    assert "bringup-smoke.timer" in deployment.ssh("systemctl list-timers --no-legend bringup-smoke.timer")
    assert deployment.ssh("systemd-analyze verify /etc/systemd/system/bringup-smoke.* 2>&1") == ""
    assert deployment.diff(smoke_timer="daily").returncode == 0
    deployment.ssh("systemctl start bringup-smoke.service")
    assert deployment.ssh("systemctl show bringup-smoke.service -P Result").strip() == "success"
    assert deployment.ssh("readlink /var/lib/bringup/smoke/latest.json") != before
    deployment.deploy()
    assert deployment.ssh("ls /etc/systemd/system").count("bringup-smoke") == 0
    assert deployment.diff().returncode == 0


def test_drift_is_named_and_repaired(deployment: Deployment) -> None:
    deployment.ssh("sed -i 's/^max-num-seqs: .*/max-num-seqs: 2/' /opt/bringup/current/vllm.yaml && systemctl disable vllm.service")
    found = deployment.diff()
    assert found.returncode == 2
    assert "Write vllm.yaml of release" in found.stdout
    assert "vllm.yaml differs" in found.stdout.replace("\n", "")
    assert "- max-num-seqs: 2" in found.stderr
    verified = deployment.verify()
    assert verified.returncode == 2
    drifted = [check for check in json.loads(verified.stdout)["hosts"]["lab1"]["checks"] if check["status"] == "drift"]
    assert [(check["subject"], check["found"]) for check in drifted] == [("vllm.service", "disabled, active")]
    deployment.deploy()
    assert "max-num-seqs: 4" in deployment.ssh("cat /opt/bringup/current/vllm.yaml")
    assert deployment.ssh("systemctl is-enabled vllm.service").strip() == "enabled"
    assert deployment.diff().returncode == 0
    assert deployment.verify().returncode == 0


def test_configuration_that_vllm_refuses_never_touches_the_running_service(deployment: Deployment) -> None:
    deployment.refuses_what_vllm_refuses()
    assert deployment.served_models() == [MODEL]


def test_release_that_does_not_come_up_is_taken_back(deployment: Deployment) -> None:
    deployment.ssh(
        "cp -r /var/lib/bringup/models/*/ /srv/broken && "
        """sed -i 's/"num_hidden_layers": 30/"num_hidden_layers": 31/' /srv/broken/config.json"""
    )
    run = deployment.deploy(check=False, model_source={"kind": "host-folder", "path": "/srv/broken"})
    assert run.returncode == 1
    assert "the server ended while it started: ValueError: Following weights were not initialized" in run.stderr
    assert "--- last lines of the service's log" in run.stderr
    assert "which was served before, is served again" in run.stderr
    assert deployment.served_models() == [MODEL]
    assert deployment.diff().returncode == 0


def test_taken_port_is_refused(deployment: Deployment) -> None:
    pid = deployment.main_pid()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = deployment.deploy(check=False, port=port)
    assert run.returncode == 1
    assert f"port {port} is taken by" in run.stderr
    assert deployment.main_pid() == pid


def test_engine_that_cannot_be_installed_leaves_the_service_alone(deployment: Deployment) -> None:
    pid = deployment.main_pid()
    deployment.ssh("echo damaged > /opt/bringup/tools/smoke/.bringup-built")
    run = deployment.deploy(check=False, pip_index_url="http://127.0.0.1:9/simple")
    assert run.returncode == 1
    assert "error: smoke cannot be installed" in run.stderr
    assert "[lab1] Runtime | Build smoke" in run.stderr.splitlines()[-1]
    assert deployment.main_pid() == pid
    assert changed(deployment.deploy("--json")) == ["Runtime | Put the build request of smoke", "Runtime | Build smoke"]


def test_missed_line_fails_the_run_and_leaves_the_record(deployment: Deployment) -> None:
    run = deployment.deploy(check=False, acceptance={"ttft_p50_ms": 0.5})
    assert run.returncode == 1
    assert "FAIL" in run.stderr
    assert "TTFT P50" in run.stderr
    records = sorted((deployment.reports / "lab1").glob("*.json"))
    assert json.loads(records[-1].read_text())["outcome"] == "FAIL"
    assert deployment.served_models() == [MODEL]
    assert "Smoke | Run the smoke benchmark" in changed(deployment.deploy("--json"))  # the old lines hold again
    assert deployment.diff().returncode == 0


def test_user_with_sudo_and_user_without(deployment: Deployment) -> None:
    deployment.ssh(
        "apt-get install -y -qq sudo >/dev/null 2>&1; "
        "for user in admin guest; do useradd --create-home --shell /bin/bash $user; mkdir -p /home/$user/.ssh; "
        "cp /root/.ssh/authorized_keys /home/$user/.ssh/; chown -R $user: /home/$user/.ssh; done; "
        "echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin"
    )
    assert deployment.diff(ssh_user="admin").returncode == 0
    # of an earlier plan: this host has no swap, so that nothing is to be set
    deployment.ssh("echo vm.swappiness = 10 > /etc/sysctl.d/90-bringup.conf")
    assert changed(deployment.deploy("--json", ssh_user="admin")) == ["Tuning | Remove /etc/sysctl.d/90-bringup.conf"]
    refused = deployment.deploy(check=False, ssh_user="guest")
    assert refused.returncode == 1
    assert "user 'guest' is not root and cannot use sudo without a password" in refused.stderr


def test_unfit_and_unreachable_hosts_fail_alone(deployment: Deployment, project: Path, tmp_path: Path) -> None:
    deployment.ssh(
        "useradd --create-home --shell /bin/sh guest && cp -r /root/.ssh /home/guest/ && chown -R guest: /home/guest", "lab2"
    )
    inventory = tmp_path / "mixed.py"
    inventory.write_text(
        (project / "inventories/lab.py").read_text()
        + "lab[1][1]['ssh_user'] = 'guest'\n"
        + "lab.append(('gone', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1}))\n"
    )
    arguments = ("--group-data", "inventories/group_data", "--data", f"reports_dir={deployment.reports}")
    run = deployment.command("pyinfra", "-y", str(inventory), "deploys/qwen.py", *arguments, check=False)
    assert run.returncode == 1
    end = run.stderr[run.stderr.index("--> Failed hosts:") :].splitlines()[1:]
    assert end[0] == "    [gone] could not be reached or looked at, see above"
    assert end[1].startswith("    [lab2] Preflight | refused: user 'guest' is not root")
    assert len(end) == 2
    assert re.search(r"Grand total +\d+ +- ", run.stderr), "lab1 went through all operations without a change"


def test_api_key_guards_the_api_and_shows_nowhere(deployment: Deployment, tmp_path: Path) -> None:
    key = "sk-lab-0123456789abcdef"
    (tmp_path / "key").write_text(f"{key}\n")
    # as the user with sudo, through whose own files pyinfra uploads
    settings = {"api_key_file": str(tmp_path / "key"), "ssh_user": "admin"}
    preview = deployment.dry_run("--diff", "--json", **settings)
    run = deployment.deploy("--diff", "-vv", **settings)
    assert "(api-key none → " in run.stderr
    assert f"PASS  {MODEL}" in run.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        deployment.served_models()
    record = sorted((deployment.reports / "lab1").glob("*.json"))[-1].read_text()
    on_host = deployment.ssh(
        "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; journalctl --no-pager; "
        "grep -r sk-lab- /opt/bringup/releases/*/*.* /etc/systemd /tmp || true"
    )
    for text in (preview.stdout, preview.stderr, run.stdout, run.stderr, record, on_host):
        assert key not in text
    rights = deployment.ssh("cd /opt/bringup/current && stat -c '%a %U:%G' secrets api-key").split("\n")
    assert rights[:2] == ["640 root:vllm", "600 root:root"]
    assert changed(deployment.deploy("--json", **settings)) == []


@pytest.mark.parametrize(
    ("hub", "name"), [(huggingface, "huggingface"), (modelscope, "modelscope")], ids=["huggingface", "modelscope"]
)
def test_model_from_a_hub(deployment: Deployment, hub: object, name: str) -> None:
    revision = {"huggingface": "a" * 40, "modelscope": "v1.0"}[name]
    asked: list[str] = []

    async def deploy_with_hub() -> "subprocess.CompletedProcess[str]":
        async with serving(hub(demo_model_dir(lab_dir()), MODEL, revision, asked)) as endpoint:  # type: ignore[operator]
            source = {"kind": "hub", "hub": name, "revision": revision, "endpoint": endpoint}
            return await asyncio.to_thread(deployment.deploy, model_source=source)

    run = asyncio.run(deploy_with_hub())
    assert f"{MODEL} is complete in /var/lib/bringup/models/HuggingFaceTB--SmolLM2-135M-Instruct@{revision}" in run.stderr
    assert deployment.get("/v1/models")["data"][0]["root"].endswith(f"@{revision}")
    assert asked


def test_settings_that_only_the_owner_of_the_machine_can_make_stop_nothing(deployment: Deployment) -> None:
    # /sys is read-only there, and what it says is this machine's
    now = deployment.ssh("cat /sys/kernel/mm/transparent_hugepage/enabled", "lab2")
    other = "madvise" if "[never]" in now else "never"
    settings = {"host_settings": json.dumps({"transparent_hugepage": other}), "reports_dir": str(deployment.reports)}
    options = [word for name, value in settings.items() for word in ("--data", f"{name}={value}")]
    words = ("pyinfra", "-y", "inventories/lab.py", "deploys/tuning.py", "--json", "--limit", "lab2", *options)
    first = deployment.command(*words)
    assert "transparent_hugepage cannot be set from inside this host (systemd-nspawn); its owner can set it" in first.stderr
    assert changed(deployment.command(*words)) == []
    found = deployment.verify(limit="lab2")
    assert found.returncode == 0
    (check,) = [
        check for check in json.loads(found.stdout)["hosts"]["lab2"]["checks"] if check["subject"] == "transparent_hugepage"
    ]
    assert check["status"] == "cannot"
    assert f"; do echo {other} > $file; done" in check["why"]
    absent = [*options, "--data", "tuning_state=absent"]
    deployment.command(*words[: -len(options)], *absent)
    assert deployment.verify(limit="lab2").returncode == 1
