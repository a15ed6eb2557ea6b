"""`runtime: container`: what is planned, what its unit says, and which hosts are refused with which ways out."""

import configparser
import json
from pathlib import Path
from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.errors import BringupError
from bringup.hardware import ContainerSoftware, HostFacts
from bringup.onhost.container import run_command
from bringup.plan import Plan, make_plan
from bringup.plan.preflight import plan_blockers
from bringup.probe.containers import parse_containers
from bringup.settings import Settings, problems_with
from deploys.render import render
from tests.unit.machines import changed, demo_host, workstation

CATALOG = load_catalog()
REVISION = "cdbee75f"
READY = ContainerSoftware(podman_version="5.4.2", cgroup_v2=True, cdi_devices=("0", "all"))
REPOSITORY = {"uri": "https://mirror.example.org/toolkit", "key_file": "/srv/key.asc", "fingerprint": "0" * 40}


def planned(facts: HostFacts | None = None, **data: Any) -> Plan:
    facts = facts or changed(workstation(), containers=READY)
    return make_plan(facts, Settings.model_validate({"runtime": "container"} | data), CATALOG, REVISION)


def quadlet(plan: Plan) -> dict[str, list[str]]:
    """Keys of the [Container] section with all of their values."""
    section = render("vllm.container.j2", plan).split("[Container]\n")[1].split("\n[Service]")[0]
    pairs = [line.split("=", 1) for line in section.splitlines() if line and not line.startswith("#")]
    return {key: [value for name, value in pairs if name == key] for key, _ in pairs}


def test_card_alone_reaches_the_container_and_nothing_of_the_host_is_built() -> None:
    plan = planned()
    keys = quadlet(plan)
    assert keys["AddDevice"] == ["nvidia.com/gpu=0"]
    assert plan.container is not None
    assert plan.container.image == "vllm/vllm-openai:v0.33.0"
    assert keys["Image"] == [plan.container.local_image]
    assert plan.needs.apt_packages == ("podman",)
    assert (plan.engine_dir, plan.cuda) == (None, None)
    assert not {"PATH", "CUDA_VISIBLE_DEVICES"} & plan.environment.keys()


def test_container_sees_the_model_and_its_release_and_writes_its_caches_alone() -> None:
    plan = planned(api_key_file="/srv/key")
    writable = [volume for volume in quadlet(plan)["Volume"] if not volume.endswith(":ro")]
    assert writable == [f"{path}:{path}" for path in ("/var/lib/bringup/home", "/var/lib/bringup/cache")]
    read_only = {volume.split(":")[0] for volume in quadlet(plan)["Volume"] if volume.endswith(":ro")}
    assert read_only == {plan.model_dir, plan.release_dir, "/etc/passwd", "/etc/group"}
    assert quadlet(plan)["ReadOnly"] == quadlet(plan)["NoNewPrivileges"] == ["true"]
    assert quadlet(plan)["DropCapability"] == ["all"]


def test_key_is_in_no_unit_and_certificates_are_seen() -> None:
    facts = changed(workstation(), containers=READY)
    settings = Settings(runtime="container", tls_cert_file="/srv/cert", tls_key_file="/srv/tls-key", api_key_file="/srv/key")
    plan = make_plan(facts, settings, CATALOG, REVISION, "", "0123456789ab", "f00d")
    assert f"{plan.release_dir}/secrets" in quadlet(plan)["EnvironmentFile"]
    assert "/etc/bringup/tls/f00d:/etc/bringup/tls/f00d:ro" in quadlet(plan)["Volume"]
    assert "VLLM_API_KEY" not in render("vllm.container.j2", plan)


def test_it_listens_where_the_plan_says() -> None:
    assert quadlet(planned())["Network"] == ["host"], "a published port would listen on all addresses inside"
    assert planned().vllm["host"] == "127.0.0.1"


def test_unit_places_and_limits_it_as_without_a_container() -> None:
    def service(template: str, plan: Plan) -> dict[str, str]:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(render(template, plan))
        return dict(parser["Service"])

    facts = changed(workstation(), containers=READY)
    inside = service("vllm.container.j2", planned(facts))
    outside = service("vllm.service.j2", make_plan(facts, Settings(), CATALOG, REVISION))
    names = ("CPUAffinity", "AllowedCPUs", "MemoryMax", "OOMPolicy", "OOMScoreAdjust", "Restart", "TimeoutStartSec", "LimitNOFILE")
    assert {name: inside.get(name) for name in names} == {name: outside.get(name) for name in names}
    assert None not in {inside.get(name) for name in names}


def test_podman_waits_for_running_answers_and_systemd_for_podman() -> None:
    plan = planned(engine_settings={"shutdown-timeout": 120})
    assert plan.container is not None
    assert 120 < plan.container.stop_timeout_s < plan.service.stop_timeout_s
    assert any(f"--stop-timeout={plan.container.stop_timeout_s}" in words for words in quadlet(plan)["PodmanArgs"])


def test_check_beside_the_running_server_runs_in_the_same_surroundings() -> None:
    plan = planned()
    command = run_command(json.loads(plan.record()), Path(plan.release_dir), "python3", ["-c", "1"])
    assert {f"--volume={volume}" for volume in quadlet(plan)["Volume"]} <= set(command)
    assert "--device=nvidia.com/gpu=0" in command
    assert command[-3:] == [quadlet(plan)["Image"][0], "-c", "1"]


def test_another_image_or_runtime_is_another_release_and_where_the_toolkit_came_from_is_not() -> None:
    without_spec = changed(workstation(), containers=ContainerSoftware(podman_version="5.4.2"))
    venv = make_plan(without_spec, Settings(), CATALOG, REVISION)
    assert len({planned().digest, planned(container_image="r.example/vllm:1").digest, venv.digest}) == 3
    assert planned(without_spec, nvidia_container_repository=REPOSITORY).digest == planned().digest
    assert planned(without_spec, nvidia_container_repository=REPOSITORY).record() == planned().record()


# --- hosts that are refused


@pytest.mark.parametrize(
    ("software", "data", "words"),
    [
        (READY, {}, ()),
        (ContainerSoftware(podman_version="4.3.1", cdi_devices=("0",)), {}, ("Podman 4.4 or newer", "has 4.3.1", "runtime 'venv'")),
        (ContainerSoftware(cgroup_v2=False, cdi_devices=("0",)), {}, ("control groups of version 2",)),
        (ContainerSoftware(), {}, ("nvidia_container_repository", "nvidia-container-toolkit-base", "runtime 'venv'")),
        (ContainerSoftware(), {"nvidia_container_repository": REPOSITORY}, ()),
        (ContainerSoftware(nvidia_ctk="1.16.2"), {}, ("1.16.2", "nvidia-ctk cdi generate")),
        (ContainerSoftware(cdi_devices=("GPU-1", "all")), {}, ("has no nvidia.com/gpu=0 (GPU-1, all)", "nvidia-ctk cdi generate")),
    ],
)
def test_host_that_cannot_run_it_is_told_what_to_do(
    software: ContainerSoftware, data: dict[str, Any], words: tuple[str, ...]
) -> None:
    facts = changed(workstation(), containers=software)
    blockers = plan_blockers(facts, planned(facts, **data))
    assert len(blockers) == bool(words)
    assert all(word in blockers[0] for word in words)


def test_debian_12_is_refused_for_its_podman_before_it_is_installed() -> None:
    facts = demo_host()
    plan = planned(facts, profile="cpu-demo", model="HuggingFaceTB/SmolLM2-135M-Instruct", container_image="localhost/vllm:1")
    (blocker,) = plan_blockers(facts, plan)
    assert "has 4.3" in blocker
    newer = changed(facts, containers=ContainerSoftware(podman_version="5.0.0"))
    assert plan_blockers(newer, plan) == []


def test_room_is_asked_for_where_podman_keeps_images_until_it_is_there() -> None:
    facts = changed(
        workstation(), containers=READY, disks=({"path": "/var/lib/containers", "free_mib": 900, "device": "/dev/sdc1"},)
    )
    plan = planned(facts)
    (blocker,) = plan_blockers(facts, plan)
    assert blocker.startswith("/var/lib/containers has 900 MiB free, the engine's image needs")
    assert plan.container is not None
    there = changed(facts, containers={**dict(READY), "images": (plan.container.local_image,)})
    assert plan_blockers(there, plan) == []


def test_engine_without_an_image_needs_one_named() -> None:
    with pytest.raises(BringupError, match=r"no image of vllm-0\.32\.0-cpu: name one in container_image"):
        planned(demo_host(), profile="cpu-demo", model="HuggingFaceTB/SmolLM2-135M-Instruct")


def test_folder_that_cannot_be_mounted_is_refused() -> None:
    with pytest.raises(BringupError, match="cannot be mounted into a container"):
        planned(model_source={"kind": "host-folder", "path": "/srv/a:b"})


@pytest.mark.parametrize("image", ["two words", "-v=/:/host", "a\nb", ""])
def test_image_that_is_none_is_refused(image: str) -> None:
    assert problems_with({"runtime": "container", "container_image": image}, CATALOG)


def test_image_without_the_runtime_is_a_mistake() -> None:
    (problem,) = problems_with({"container_image": "r.example/vllm:1"}, CATALOG)
    assert "runtime 'container'" in problem


# --- the probe


def test_probe_tells_podman_images_and_cards() -> None:
    text = "cgroup=2\npodman=5.4.2\nimage=localhost/bringup/vllm:0123\nnvidia_ctk=1.18.0\ndevice=0\ndevice=all\ndevice=0\n"
    assert parse_containers(text) == ContainerSoftware(
        podman_version="5.4.2",
        images=("localhost/bringup/vllm:0123",),
        cgroup_v2=True,
        nvidia_ctk="1.18.0",
        cdi_devices=("0", "all"),
    )
    assert parse_containers("") == ContainerSoftware()
