"""`runtime: container` on a host with Debian 13 and Podman: from an image to a served model, and what becomes of it.

The image holds the engine's CPU build. A card is stood for by a device that a CDI specification of the test's own names as one; the
package that writes it is the test's own too, under the name of NVIDIA's. The tests build on each other, in this order.
"""

import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from deployment import Deployment
from nvidia_repository import Package, serving
from served import STOP_LIMIT_S, Service

from bringup.catalog import load_catalog
from bringup.hardware import HostFacts
from bringup.lab import container
from bringup.lab.container import ssh_command
from bringup.lab.state import read_state
from bringup.openpgp import dearmored
from bringup.plan import Plan, make_plan
from bringup.probe.host import parse_host
from bringup.probe.sections import probe_script
from bringup.settings import NvidiaRepository, Settings
from deploys.render import render
from deploys.steps.toolkit import install_command
from tests.unit.machines import changed, workstation

pytestmark = pytest.mark.lab
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SPECIFICATION = """cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
- name: all
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}, {path: /dev/nvidia1}]}
containerEdits: {env: [FROM_SPECIFICATION=yes]}
"""


def facts_of(podman: Deployment) -> HostFacts:
    command = [*ssh_command(read_state(podman.directory), podman.host()), "sh"]
    done = subprocess.run(command, input=probe_script(), check=True, capture_output=True, text=True)
    return parse_host(done.stdout)


def changes(run: "subprocess.CompletedProcess[str]") -> list[str]:
    return [operation["name"] for operation in json.loads(run.stdout)["results"]["operations"] if operation["success"]]


@dataclass(frozen=True)
class Contained(Service):
    """The service whose main process is Podman's, and its server's process another."""

    def server_pid(self) -> str:
        (server,) = self.processes("api_server")
        return server


@pytest.fixture(scope="module")
def service(podman: Deployment) -> Contained:
    return Contained(podman, MODEL)


def test_image_to_served_model(podman: Deployment) -> None:
    run = podman.deploy()
    assert "localhost/vllm-cpu:test is on this host already" in run.stderr
    assert f"PASS  {MODEL} on lab1" in run.stderr
    assert podman.served_models() == [MODEL]
    served = json.loads(podman.ssh("cat /opt/bringup/current/image.json"))
    running = json.loads(podman.ssh("podman inspect vllm"))[0]
    assert (served["image"], served["id"]) == ("localhost/vllm-cpu:test", running["Image"])
    assert served["digest"].startswith("sha256:")
    # nothing of the engine is on the host itself
    assert podman.ssh("ls -d /opt/bringup/engines/*/ 2>/dev/null || true") == ""


def test_server_has_the_surroundings_that_the_unit_says(podman: Deployment, service: Service) -> None:
    port = podman.host().service_port
    listening = {line.split()[3] for line in podman.ssh(f"ss -Hltn 'sport = :{port}'").splitlines()}
    assert listening == {f"127.0.0.1:{port}"}
    (server,) = service.processes("api_server")
    status = podman.ssh(f"cat /proc/{server}/status")
    words = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    assert (int(words["CapBnd"], 16), words["NoNewPrivs"], words["Seccomp"]) == (0, "1", "2")
    assert words["Uid"] == podman.ssh("id -u vllm").strip()
    release = podman.ssh("readlink -f /opt/bringup/current").strip()
    refused = podman.ssh(f"podman exec vllm touch /opt/x {release}/x /var/lib/bringup/models/x 2>&1 || true")
    assert refused.count("Read-only file system") == 3
    planned = json.loads(podman.ssh("cat /opt/bringup/current/plan.json"))
    assert int(podman.ssh("podman exec vllm sh -c 'df -m --output=size /dev/shm | tail -1'")) == planned["container"]["shm_mib"]


def test_second_run_changes_nothing_and_verify_finds_every_process(podman: Deployment, service: Service) -> None:
    assert changes(podman.deploy("--json")) == []
    assert podman.diff().returncode == 0
    found = podman.verify(**podman.settings)
    assert found.returncode == 0, found.stdout + found.stderr
    checks = {check["subject"]: check for check in json.loads(found.stdout)["hosts"]["lab1"]["checks"]}
    assert checks["vllm.service"]["found"] == "generated, active"
    placed = " ".join(subject for subject in checks if subject.startswith("CPUs of process"))
    assert all(pid in placed for pid in service.processes())


def test_configuration_that_vllm_refuses_never_touches_the_running_service(podman: Deployment, service: Service) -> None:
    podman.refuses_what_vllm_refuses()


def test_server_that_hangs_is_ended_by_the_watch_and_comes_back(podman: Deployment, service: Service) -> None:
    service.hang_and_come_back()
    assert podman.ssh("podman ps -aq | wc -l").strip() == "1"


def test_answer_that_is_running_ends_before_a_stop(podman: Deployment, service: Service) -> None:
    # fewer tokens than a busy machine generates until vLLM's own limit of 30 s
    service.stop_while_answering(50)
    assert podman.ssh("podman ps -aq") == ""


def test_host_that_boots_serves_again(podman: Deployment, service: Service) -> None:
    podman.ssh("systemctl poweroff", check=False)
    service.wait(lambda: not container.is_up(podman.host()), STOP_LIMIT_S, "the host is off")
    podman.boot()
    service.wait_until_active()
    assert service.answer() == "length"
    assert podman.diff().returncode == 0


# --- images


@pytest.fixture
def registry(podman: Deployment) -> Iterator[str]:
    """A registry on the host, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {"version": 0.1, "storage": {"filesystem": {"rootdirectory": "/srv/registry"}}, "http": {"addr": address}}
    podman.ssh(f"cat > /root/registry.yml <<'end'\n{json.dumps(config)}\nend")
    podman.ssh("systemd-run --unit=registry docker-registry serve /root/registry.yml")
    podman.ssh(f"timeout 20 sh -c 'until ss -Hltn | grep -q {address}; do sleep 0.1; done'")
    yield address
    podman.ssh("systemctl stop registry")


def pull(podman: Deployment, image: str, check: bool = True) -> str:
    request = json.dumps({"image": image, "local_image": "localhost/bringup/vllm:tried"})
    return podman.ssh(
        f"printf %s '{request}' > /root/pull.json; /opt/bringup/bin/bringup-host pull /root/pull.json 2>&1", check=check
    )


def test_image_comes_by_its_digest_or_by_what_the_host_says_of_short_names(podman: Deployment, registry: str) -> None:
    podman.ssh(f"tar -c -C / etc/hostname | podman import - {registry}/tried/engine:1")
    podman.ssh(f"podman push --tls-verify=false --digestfile=/root/digest {registry}/tried/engine:1")
    digest = podman.ssh("cat /root/digest").strip()
    podman.ssh(f"podman rmi {registry}/tried/engine:1")

    refused = pull(podman, "tried/engine:1", check=False)
    assert "tried/engine:1 cannot be pulled: " in refused
    assert "unqualified-search-registries" in refused

    conf = f'unqualified-search-registries = ["{registry}"]\n[[registry]]\nlocation = "{registry}"\ninsecure = true\n'
    podman.ssh(f"mkdir -p /etc/containers/registries.conf.d; printf '%s' '{conf}' > /etc/containers/registries.conf.d/test.conf")
    assert f"tried/engine:1 is {digest}" in pull(podman, "tried/engine:1")
    by_digest = f"{registry}/tried/engine@{digest}"
    assert f"{by_digest} is {digest}" in pull(podman, by_digest)
    assert podman.ssh("podman image inspect --format '{{.Digest}}' localhost/bringup/vllm:tried").strip() == digest
    assert "localhost/bringup/vllm:tried" in facts_of(podman).containers.images
    podman.ssh("rm /etc/containers/registries.conf.d/test.conf")


# --- a card


def with_a_card() -> Plan:
    software = {"podman_version": "5.4.2", "cdi_devices": ("0",)}
    facts = changed(workstation(), containers=software)
    settings = Settings(runtime="container", container_image="localhost/vllm-cpu:test")
    return make_plan(facts, settings, load_catalog(), "0123")


def test_toolkit_comes_from_its_repository_which_is_not_made_one_of_the_hosts(
    podman: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    unit = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'mkdir -p /var/run/cdi; cp /usr/share/spec.yaml /var/run/cdi/nvidia.yaml'
"""
    files = (
        ("usr/bin/nvidia-ctk", b"#!/bin/sh\necho NVIDIA Container Toolkit CLI version 1.18.0\n", 0o755),
        ("usr/share/spec.yaml", SPECIFICATION.encode(), 0o644),
        ("usr/lib/systemd/system/nvidia-cdi-refresh.service", unit.encode(), 0o644),
    )
    package = Package("nvidia-container-toolkit-base", "1.18.0-1", (), files)
    assert facts_of(podman).containers.cdi_devices == ()
    sources = podman.ssh("ls /etc/apt/sources.list.d; cat /etc/apt/sources.list")
    with serving(tmp_path_factory.mktemp("toolkit"), [package]) as repository:
        setting = NvidiaRepository.model_validate(repository.setting())
        key = dearmored(repository.key_file.read_bytes())
        podman.ssh(install_command(with_a_card(), setting, key, 60))
    found = facts_of(podman).containers
    assert (found.nvidia_ctk, found.cdi_devices) == ("1.18.0", ("0", "all"))
    assert podman.ssh("ls /etc/apt/sources.list.d; cat /etc/apt/sources.list") == sources


def test_the_serving_card_alone_arrives_in_the_container(podman: Deployment, service: Service) -> None:
    plan = with_a_card()
    look = "id -un; ls /dev/nvidia*; echo x > /dev/nvidia0 && echo written; env | grep FROM_; grep CapEff /proc/self/status"
    command = ("sh", "-c", f'"{look}; touch /var/lib/bringup/cache/it-wrote"')
    plan = plan.model_copy(update={"service": plan.service.model_copy(update={"command": command})})
    podman.ssh("for n in 0 1; do [ -e /dev/nvidia$n ] || mknod -m 666 /dev/nvidia$n c 1 3; done")
    podman.ssh(f"mkdir -p {plan.release_dir} {plan.model_dir}; echo A=b > {plan.release_dir}/environment")
    assert plan.container is not None
    podman.ssh(f"podman tag localhost/vllm-cpu:test {plan.container.local_image}")
    # the section that says what the container is; the machine that it was planned for has other processors
    section = render("vllm.container.j2", plan).split("[Container]")[1].split("[Service]")[0].replace("=vllm\n", "=card\n", 1)
    text = f"[Container]{section}[Service]\nType=oneshot\n"
    podman.ssh(f"cat > /etc/containers/systemd/card.container <<'end'\n{text}\nend\nsystemctl daemon-reload; systemctl start card")
    said = podman.ssh("journalctl -u card -o cat --no-pager")
    # Podman's own lines may come in between
    assert {"vllm", "/dev/nvidia0", "written", "FROM_SPECIFICATION=yes", "CapEff:\t0000000000000000"} <= set(said.splitlines())
    assert "nvidia1" not in said
    assert podman.ssh("stat -c %U:%a /var/lib/bringup/cache/it-wrote").strip() == "vllm:600"
    podman.ssh("rm /etc/containers/systemd/card.container; systemctl daemon-reload")
