"""A rented container's service with a key, and under blows: a bad release, processes that die or hang, the container ended.

Uses the host that tests/lab/test_rented.py leaves, or deploys to it first.
"""

import urllib.error
from pathlib import Path

import pytest
from deployment import Deployment
from rented import MODEL, START, SUPERVISORCTL, Rented
from served import STOP_LIMIT_S

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def rented(rented_deployment: Deployment) -> Rented:
    rented = Rented(rented_deployment, MODEL)
    if rented.ssh("test -e /opt/bringup/current || echo bare"):
        rented_deployment.deploy()
    return rented


def test_api_key_guards_the_api_and_shows_nowhere(rented: Rented, tmp_path: Path) -> None:
    key = "sk-lab-0123456789abcdef"
    (tmp_path / "key").write_text(f"{key}\n")
    run = rented.deployment.deploy("--diff", "-vv", api_key_file=str(tmp_path / "key"))
    assert "(api-key none → " in run.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        rented.deployment.served_models()
    on_host = rented.ssh(
        "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /var/log/bringup/*; "
        "grep -r sk-lab- /opt/bringup/releases/*/*.* /etc /tmp /run/bringup || true"
    )
    for text in (run.stdout, run.stderr, on_host):
        assert key not in text
    rented.deployment.deploy()
    assert rented.deployment.served_models() == [MODEL]


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
    rented.all_end(before)
    rented.wait_until_active()
    assert rented.answer() == "length"
    assert len(rented.processes("VLLM::EngineCore")) == 1
    assert rented.ssh("pgrep -c -u root -x python3") == "2", "one keeper and one watch"
    # as much shared memory as one server has
    assert rented.ssh("ls /dev/shm | grep -c psm_") == "2"
    rented.ssh("rm -f /run/bringup/starts.json")  # the next victim's server need not wait longer


def test_server_that_hangs_is_ended_by_the_watch_and_comes_back(rented: Rented) -> None:
    rented.hang_and_come_back()
    assert "runs and does not answer: ending it" in rented.ssh("tail -n 20 /var/log/bringup/vllm-watch.log")
    rented.ssh("rm -f /run/bringup/starts.json")


def test_container_that_is_started_again_serves_again(rented: Rented) -> None:
    # as its owner does after reading the list
    rented.ssh(f"echo {START} > /root/onstart.sh")
    rented.deployment.cut_power()
    with pytest.raises(urllib.error.URLError):
        rented.deployment.served_models()
    rented.deployment.boot()
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
