"""The deploy as pyinfra runs it, dry and without any host; what it writes; what it sends along."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bringup.catalog import load_catalog
from bringup.drive import read_plan
from bringup.plan import Plan, make_plan
from bringup.settings import Settings
from deploys.bundle import host_bundle
from deploys.render import render
from deploys.steps.service import SUPPORT_UNITS
from tests.unit.machines import WORKSTATION, bare_workstation, demo_host, two_socket_server

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()
HOST = f"@replay/{WORKSTATION}"


def dry_run(inventory: str | Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As a user types it, from the project's folder."""
    pyinfra = Path(sys.executable).parent / "pyinfra"
    command = [str(pyinfra), str(inventory), "deploys/qwen.py", "--dry", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def replay() -> "subprocess.CompletedProcess[str]":
    return dry_run(HOST, "--diff", "--json")


def operations(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["plan"]  # type: ignore[no-any-return]


# --- dry runs


def test_replay_plans_every_step_in_order(replay: "subprocess.CompletedProcess[str]") -> None:
    names = [operation["name"] for operation in operations(replay)]
    steps = [name.partition(" | ")[0] for name in names]
    assert list(dict.fromkeys(steps)) == ["Driver", "Runtime", "Model", "Card", "GPU check", "Tuning", "Service"]
    milestones = [
        "Install nvidia-driver-580-server-open nvidia-utils-580-server nvidia-dkms-580-server-open linux-headers-generic",
        "Write /etc/modprobe.d/bringup-nvidia.conf",
        "Load the driver, or reboot for it",
        "Install Debian packages",
        "Put bringup-host",
        "Build vllm-0.33.0-cuda",
        "Download Qwen/Qwen3-4B-Instruct-2507",
        "Write /etc/systemd/system/bringup-nvidia.service",
        "Apply the card's settings (new)",
        "Look at the card as it runs: driver, link under load, errors, a CUDA kernel",
        "Write /etc/sysctl.d/90-bringup.conf",
        "Make user vllm",
        "Write vllm.yaml",
        "Write the smoke request",
        "Switch to release",
    ]
    found = [next(index for index, name in enumerate(names) if milestone in name) for milestone in milestones]
    assert found == sorted(found)


def test_replay_is_not_refused_for_the_missing_driver(replay: "subprocess.CompletedProcess[str]") -> None:
    result = read_plan(operations(replay), all_hosts_looked_at=True)
    assert result.refused == ()
    assert len(result.drifts) > 20  # a bare host: nearly everything else is still to be done, and shown


def test_replay_tells_the_findings_and_shows_what_would_be_written(replay: "subprocess.CompletedProcess[str]") -> None:
    assert "impossible: e2e_p90_ms" in replay.stderr
    for line in ("+ max-model-len: 32768", "+ vm.swappiness = 10", "+ User=vllm", "+ CUDA_VISIBLE_DEVICES=0"):
        assert line in replay.stderr


def test_inventory_without_hosts_is_an_error(tmp_path: Path) -> None:
    inventory = tmp_path / "nobody.py"
    inventory.write_text("nobody = []\n")
    done = dry_run(inventory)
    assert done.returncode == 1
    assert "the inventory has no hosts: name at least one" in done.stderr


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param("profil=interactive", "unknown setting 'profil': did you mean profile?", id="name"),
        pytest.param("profile=interactiv", "unknown profile 'interactiv': did you mean interactive?", id="profile"),
        pytest.param("port=99999", "port: Input should be less than or equal to 65535", id="range"),
        pytest.param(
            "api_key_file=/nowhere/key", "api_key_file /nowhere/key cannot be read on the control machine", id="key-missing"
        ),
        pytest.param("api_key_file=/dev/null", "api_key_file /dev/null must hold one key", id="key-empty"),
    ],
)
def test_bad_data_is_an_error_for_people(data: str, said: str) -> None:
    done = dry_run(HOST, "--data", data)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_host_that_talks_rubbish_fails_alone(tmp_path: Path) -> None:
    inventory = tmp_path / "two.py"
    inventory.write_text(
        f"two = [{HOST!r}, ('@fake/bad', {{'fake_responses': {{'@@bringup': ['This account is not available.']}}, "
        "'fake_delay': 0, 'fake_delay_jitter': 0})]\n"
    )
    done = dry_run(inventory, "--json")
    assert done.returncode == 1
    assert "is its login shell a POSIX shell?" in done.stderr
    failed = done.stderr.partition("Failed hosts:")[2]
    assert "@fake/bad" in failed
    assert HOST not in failed
    changes = [host for operation in json.loads(done.stdout)["plan"] for host in operation["hosts_with_change"]]
    assert set(changes) == {HOST}


# --- what is written


def plan_of(name: str, **data: Any) -> Plan:
    if name == "cpu-demo":
        source = {"kind": "control-folder", "path": "/models/smollm2"}
        settings = Settings.model_validate({"profile": "cpu-demo", "model": "smollm2-135m", "model_source": source} | data)
        return make_plan(demo_host(), settings, CATALOG, "0123456789ab")
    facts = two_socket_server() if name == "two-sockets" else bare_workstation()
    return make_plan(facts, Settings.model_validate(data), CATALOG, "cdbee75f")


PLANS = {
    "4090d-interactive": plan_of("4090d-interactive"),
    "cpu-demo": plan_of("cpu-demo"),
    "two-sockets": plan_of("two-sockets", engine_settings={"enforce-eager": True, "kv-cache-dtype": "fp8", "seed": 0}),
    "strange-path": plan_of(
        "4090d", model_source={"kind": "host-folder", "path": '/srv/Qwen: "4B" #1 — it\'s <new> & 100 % {{ x }}'}
    ),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@every_plan
def test_vllm_yaml_says_exactly_what_the_plan_says(plan: Plan) -> None:
    text = render("vllm.yaml.j2", plan)
    assert yaml.safe_load(text) == plan.vllm
    assert "#   source: " in text


@every_plan
def test_environment_and_sysctls_say_exactly_what_the_plan_says(plan: Plan) -> None:
    lines = render("environment.j2", plan).splitlines()
    assert dict(line.split("=", 1) for line in lines) == plan.environment
    settings = [line.split(" = ") for line in render("90-bringup.conf.j2", plan).splitlines() if not line.startswith("#")]
    assert dict(settings) == plan.sysctls


@every_plan
def test_unit_passes_systemds_own_check(plan: Plan, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = render("vllm.service.j2", plan)
    assert f"CPUAffinity={plan.service.cpus}\n" in text
    units = {"vllm.service": text} | {name: render(f"{name}.j2", plan) for name in SUPPORT_UNITS}
    for name, content in units.items():
        # engine, tool and driver are not on this machine
        on_host = re.compile(rf"(={re.escape(plan.service.command[0])}|=/opt/bringup/bin/bringup-host|=-/usr/bin/nvidia-\w+) ")
        (tmp_path / name).write_text(on_host.sub(f"={shutil.which('true')} ", content))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in units)]
    done = subprocess.run(command, capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "vllm-" in line or "vllm.service" in line]
    assert (done.returncode, complaints) == (0, [])


@every_plan
def test_unit_is_as_closed_as_it_is_said_to_be(plan: Plan, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "vllm.service"
    unit.write_text(render("vllm.service.j2", plan))
    # exits with 1 above the threshold, which is in tenths
    command = ["systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=25", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert ("DeviceAllow=char-nvidia* rw" in unit.read_text()) == (plan.gpu is not None)
    assert ("PrivateDevices=yes" in unit.read_text()) == (plan.gpu is None)


def test_systemds_check_would_see_a_mistake(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "vllm.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nCPUAffinity=a-b\n")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "vllm.service:3" in done.stderr


# --- what is sent along


def test_bundle_is_the_same_in_every_process() -> None:
    code = "import hashlib; from deploys.bundle import host_bundle; print(hashlib.sha256(host_bundle()).hexdigest())"
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Shanghai"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(host_bundle()).hexdigest()


def test_bundle_runs_on_a_bare_python(tmp_path: Path) -> None:
    bundle = tmp_path / "bringup.zip"
    bundle.write_bytes(host_bundle())
    python = next((path for path in ("/usr/bin/python3", sys.executable) if Path(path).exists()), sys.executable)
    code = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module('bringup.onhost', run_name='__main__')"
    # -I -S: neither the user's nor the site's packages
    command = [python, "-I", "-S", "-c", code, str(bundle)]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bringup-host" in done.stdout
    assert "switch" in done.stdout
    done = subprocess.run([*command, "switch", "000000000000"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "release 000000000000 is not on this host" in done.stdout
    assert "Traceback" not in done.stderr


def test_start_script_runs_the_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "bringup.zip"
    bundle.write_bytes(host_bundle())
    script = tmp_path / "bringup-host"
    text = render("bringup-host.j2", PLANS["cpu-demo"])
    assert text.count("/opt/bringup/lib/bringup.zip") == 1
    script.write_text(text.replace("/opt/bringup/lib/bringup.zip", str(bundle)))
    script.chmod(0o755)
    done = subprocess.run([str(script), "switch", "no such release"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "release no such release is not on this host" in done.stdout


# --- the driver


def key_of(tmp_path: Path) -> tuple[Path, str]:
    """A key made for the test, and its fingerprint."""
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-generate-key", "test@example.org", "ed25519", "sign", "never"], check=True, timeout=60)
    armoured = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True, timeout=60).stdout
    listed = subprocess.run([*gpg, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True, timeout=60).stdout
    (tmp_path / "key.asc").write_bytes(armoured)
    return tmp_path / "key.asc", next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))


needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg, which makes the repository's key, is not installed")


def driver_dry_run(**data: Any) -> "subprocess.CompletedProcess[str]":
    pyinfra = Path(sys.executable).parent / "pyinfra"
    settings = [word for name, value in data.items() for word in ("--data", f"{name}={value}")]
    command = [str(pyinfra), HOST, "deploys/driver.py", "--dry", "--diff", "--json", *settings]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=60)


@needs_gpg
def test_driver_alone_from_a_repository_of_ones_own(tmp_path: Path) -> None:
    key, fingerprint = key_of(tmp_path)
    repository = {"uri": "http://mirror.example/u", "suite": "noble", "components": ["main"], "key_file": str(key)}
    done = driver_dry_run(nvidia_repository=json.dumps(repository | {"fingerprint": fingerprint}))
    names = [operation["name"] for operation in operations(done) if operation["hosts_with_change"]]
    assert {name.partition(" | ")[0] for name in names} == {"Driver", "Card", "GPU check"}
    assert "Try out the driver's repository http://mirror.example/u" in names[0]
    for line in ("+ URIs: http://mirror.example/u", "+ Suites: noble", "+ Components: main"):
        assert line in done.stderr
    assert "+ Signed-By: /etc/apt/keyrings/bringup-nvidia.gpg" in done.stderr


@needs_gpg
def test_key_that_is_not_the_one_that_was_meant_is_refused_before_any_host_is_touched(tmp_path: Path) -> None:
    key, fingerprint = key_of(tmp_path)
    repository = {"uri": "http://mirror.example/u", "key_file": str(key), "fingerprint": "0" * 40}
    done = driver_dry_run(nvidia_repository=json.dumps(repository))
    assert done.returncode == 1
    assert f"holds {fingerprint}, but nvidia_repository.fingerprint is {'0' * 40}" in done.stderr
    assert "Traceback" not in done.stderr


def test_absent_is_for_the_drivers_own_deploy(tmp_path: Path) -> None:
    assert operations(driver_dry_run(nvidia_state="absent")) == []
