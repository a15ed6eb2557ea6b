"""A host without systemd: who keeps its server running, what its owner must give it, and how the server is started there.

The whole of it, with the real supervisor and server, is in tests/lab/test_rented.py and test_rented_faults.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.hardware import Confines, HostFacts
from bringup.onhost import supervised, supervisor
from bringup.onhost.launch import Launch, read_launch
from bringup.onhost.supervised import Starts, Told, boot, tell
from bringup.onhost.supervisor import Supervisor, mark_start
from bringup.plan import Plan, make_plan
from bringup.plan.preflight import host_blockers, plan_blockers
from bringup.probe.system import parse_confines, parse_virtualization
from bringup.settings import Settings
from bringup.verify.compare import compare_settings
from bringup.verify.reading import Reading, SettingReading
from deploys.render import render
from tests.unit.machines import NOW_UNIX_S, changed, demo_host, workstation

CATALOG = load_catalog()
ROOT = Path(__file__).parents[2]
DOCKERS = int("a80425fb", 16)
"""Capabilities that Docker leaves to a container."""


def rented(host: HostFacts | None = None, **confines: Any) -> HostFacts:
    facts = host or workstation()
    system = facts.system.model_copy(update={"container": "docker"})
    has = Confines(**({"capabilities": DOCKERS, "open_files": 1048576, "shared_memory_mib": 64} | confines))
    return changed(facts, init="bash", virtualization="docker", system=system, confines=has)


def planned(facts: HostFacts, **settings: Any) -> Plan:
    return make_plan(facts, Settings(**settings), CATALOG, "cdbee75f")


def demo(facts: HostFacts) -> Plan:
    return planned(facts, profile="cpu-demo", model="HuggingFaceTB/SmolLM2-135M-Instruct")


def test_container_is_not_refused_and_its_server_is_run_by_a_supervisor() -> None:
    assert host_blockers(rented(), NOW_UNIX_S) == []
    plan = planned(rented())
    assert plan.manager == "supervisor"
    (decision,) = (decision for decision in plan.decisions if decision.key == "service-manager")
    assert decision.why.startswith("process 1 is bash and not systemd")
    assert planned(workstation()).manager == "systemd"


def test_machine_without_systemd_that_is_no_container_is_refused() -> None:
    (blocker,) = host_blockers(changed(workstation(), init="init"), NOW_UNIX_S)
    assert "process 1 is init" in blocker


def test_podman_in_a_container_without_systemd_is_refused() -> None:
    plan = planned(rented(), runtime="container", container_image="vllm/vllm-openai:v0.33.0")
    assert any("needs systemd" in blocker for blocker in plan_blockers(rented(), plan))


@pytest.mark.parametrize(("mib", "refused"), [(64, True), (400, False), (None, False)])
def test_shared_memory_that_the_cpu_backend_needs(mib: int | None, refused: bool) -> None:
    facts = rented(demo_host(), shared_memory_mib=mib)
    assert any("--shm-size" in blocker for blocker in plan_blockers(facts, demo(facts))) is refused
    assert not any("--shm-size" in blocker for blocker in plan_blockers(rented(), planned(rented()))), "one card needs none"


def told_to_the_owner(facts: HostFacts, **settings: Any) -> dict[str, str]:
    return {finding.id: finding.text for finding in planned(facts, **settings).findings}


def test_owner_is_told_what_only_he_can_give() -> None:
    told = told_to_the_owner(rented(open_files=1024))
    assert "/opt/bringup/bin/bringup-start" in told["start-command"]
    assert "docker run --ulimit nofile=65536:65536" in told["container-open-files"]
    assert "docker run --oom-score-adj -500" in told["container-oom-score"]
    assert "container-memory-nodes" not in told, "one node: there is nothing to bind"


def test_owner_is_not_told_what_the_container_has() -> None:
    told = told_to_the_owner(rented(capabilities=2**41 - 1, open_files=1024))
    assert {"container-open-files", "container-oom-score"} & told.keys() == set()
    assert told_to_the_owner(workstation()).keys() & {"start-command", "container-restart"} == set()


def test_settings_of_the_host_are_its_owners_and_none_is_made() -> None:
    facts = changed(rented(), sysctls={"net.core.somaxconn": "128"}, read_only_sysctls=())
    plan = planned(facts, host_settings={"net.core.somaxconn": "set"})
    assert plan.tuning.by_owner
    assert (plan.sysctls, plan.tuning.at_boot) == ({}, False)
    assert any("sysctl -w net.core.somaxconn=4096" in finding.text for finding in plan.findings)
    reading = Reading(
        request=plan.tuning,
        applied=True,
        settings={"net.core.somaxconn": SettingReading(files={"/proc/sys/net/core/somaxconn": "128"}, writable=True)},
        refused={},
        irqbalance_banned=None,
        tuned_profile=None,
        units={},
        plan=None,
    )
    (check,) = (check for check in compare_settings(reading) if check.subject == "net.core.somaxconn")
    assert (check.status, "sysctl -w" in check.why) == ("cannot", True)


# --- facts


def test_what_processes_may_is_parsed() -> None:
    found = parse_confines("capabilities=00000000a80425fb\nopen_files=unlimited\nshared_memory_kb=65536\n")
    assert found == Confines(capabilities=DOCKERS, open_files=None, shared_memory_mib=64)
    assert (found.may(0), found.may(24), Confines().may(24)) == (True, False, True)


def test_container_that_no_engine_marked_is_told_by_its_processes() -> None:
    assert parse_virtualization("detected=\nother=yes\nhypervisor=yes\n", "sys_vendor=QEMU", "6.1") == (
        "container-other",
        "container-other",
    )
    assert parse_virtualization("other=yes\nmarker=docker\n", "", "6.1") == ("docker", "docker")


# --- how the server is run


def launch(tmp_path: Path, plan: Plan) -> Launch:
    file = tmp_path / "vllm.toml"
    file.write_text(render("vllm.toml.j2", plan))
    return read_launch(file)


def test_release_says_how_its_server_is_run(tmp_path: Path) -> None:
    plan = planned(rented())
    found = launch(tmp_path, plan)
    assert found.command == (*plan.service.command, "--config", f"{plan.release_dir}/vllm.yaml")
    assert found.environment_files == (f"{plan.release_dir}/environment",)
    assert (found.cpus, found.limits, found.groups) == (plan.service.cpus, plan.service.limits, ("video",))
    assert (found.stop_timeout_s, found.starts) == (plan.service.stop_timeout_s, plan.service.starts)


def test_key_is_named_by_its_file_alone(tmp_path: Path) -> None:
    plan = make_plan(rented(), Settings(), CATALOG, "cdbee75f", api_key_fingerprint="123abc")
    assert launch(tmp_path, plan).environment_files[1] == f"{plan.release_dir}/secrets"


def test_delay_grows_as_systemds_does(tmp_path: Path) -> None:
    found = launch(tmp_path, planned(rented()))
    assert [found.delay_s(starts) for starts in range(7)] == [0, 10, 20, 40, 80, 160, 160]


def test_memory_is_bound_where_the_kernel_allows() -> None:
    code = (
        "from bringup.onhost.confine import bind_memory\nbind_memory([0])\nimport pathlib\n"
        "print(pathlib.Path('/proc/self/numa_maps').read_text().count('bind:0') > 10)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr or "No such file" in done.stderr or "Function not implemented" in done.stderr:
        pytest.skip("this machine's kernel, or the container that this runs in, binds no memory")
    assert done.stdout == "True\n", done.stderr


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /run/bringup, and for the log."""
    monkeypatch.setattr(supervised, "FOLDER", tmp_path)
    monkeypatch.setattr(supervisor, "LOG", tmp_path / "vllm.log")
    return tmp_path


def test_state_is_what_the_keeper_tells_while_there_is_one(run: Path) -> None:
    assert Supervisor().state() == "inactive"
    with supervised.keeping() as alone:
        assert alone
        tell(Told("active", main_pid=os.getpid(), session=1, boot=boot()))
        assert Supervisor().state() == "active"
        assert Supervisor().main_pid() is None, "a process of another session or user is not the server"
    assert Supervisor().state() == "inactive", "killed, and no supervisor runs that would start it again"
    tell(Told("failed", "exit code 1", boot=boot()))
    assert (Supervisor().state(), Supervisor().result()) == ("failed", "exit code 1")


def test_what_was_told_before_the_container_was_started_anew_does_not_count(run: Path) -> None:
    tell(Told("failed", "exit code 1", boot="another"))
    (run / "starts.json").write_text(json.dumps({"boot": "another", "starts_s": [1.0, 2.0]}))
    assert Supervisor().state() == "inactive"
    assert Supervisor().restarts() == 0


def test_restarts_are_counted_from_the_second_start_on(run: Path) -> None:
    starts = Starts()
    for expected in (0, 1, 2):
        starts.add()
        assert Supervisor().restarts() == expected
    Supervisor().forget_failures()
    assert Supervisor().restarts() == 0


def test_log_is_of_the_starts_since_a_time(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "vllm.log.1").write_text("bringup: start at 1000.000\nof an old server\n")
    mark_start()
    (run / "vllm.log").write_text(f"the old one stops\n{capsys.readouterr().out}of the new one\nits last line\n")
    assert Supervisor().log(2000.0, 2) == "of the new one\nits last line"
    assert "old" not in Supervisor().log(2000.0)
    assert Supervisor().log(999.0).startswith("bringup: start at 1000.000\nof an old server")
    assert Supervisor().log(4_000_000_000.0) == ""
