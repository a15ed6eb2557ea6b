"""Recorded hosts behind pyinfra's own command: looked at, planned for, and never changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bringup.catalog.config_json import model_from_folder
from bringup.probe.host import parse_host
from bringup.recording import RecordingInfo, recording_named, save_recording, shipped_recordings
from tests.unit.machines import NOW_UNIX_S, WORKSTATION

ROOT = Path(__file__).parents[2]
HOST = f"@replay/{WORKSTATION}"
REFUSED = "a recording can only be looked at: use --dry"


def pyinfra(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """As a user types it; nobody answers its questions."""
    command = [str(Path(sys.executable).parent / "pyinfra"), *arguments]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "300"}
    return subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def hosts_with_change(done: "subprocess.CompletedProcess[str]") -> set[str]:
    assert done.returncode == 0, done.stderr
    return {host for operation in json.loads(done.stdout)["plan"] for host in operation["hosts_with_change"]}


@pytest.fixture
def my_box(tmp_path: Path) -> Path:
    """The workstation under another host's name, as a folder of the user's own."""
    info = RecordingInfo.model_validate(
        {"name": "my-box", "title": "mine", "kind": "recorded", "date": "2026-11-24", "made_from": "a test"}
    )
    save_recording(recording_named(WORKSTATION).probe_text(NOW_UNIX_S), tmp_path / "my-box", info)
    return tmp_path / "my-box"


# --- looking


def test_dry_run_shows_the_plan_and_executes_nothing() -> None:
    done = pyinfra(HOST, "deploys/qwen.py", "--dry", "--diff")
    assert done.returncode == 0, done.stderr
    assert "Service | Write vllm.yaml of release" in done.stderr
    assert "+ max-model-len:" in done.stderr  # what the file would hold
    assert "Beginning operation run" not in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", shipped_recordings())
def test_every_shipped_recording_can_be_planned_for_as_it_ships(name: str) -> None:
    done = pyinfra(f"@replay/{name}", "deploys/qwen.py", "--dry", "--json")
    assert hosts_with_change(done) == {f"@replay/{name}"}
    assert "Traceback" not in done.stderr


def test_several_replays_in_one_run(my_box: Path) -> None:
    inventory = f"{HOST},@replay/{my_box}"
    assert hosts_with_change(pyinfra(inventory, "deploys/qwen.py", "--dry", "--json")) == set(inventory.split(","))


def test_relative_path_in_an_inventory_with_data_of_its_own_and_of_its_group(my_box: Path) -> None:
    path = f"@replay/./{os.path.relpath(my_box, ROOT)}"
    inventory = my_box.parent / "boxes.py"
    inventory.write_text(f"boxes = [({path!r}, {{'port': 8123}}), {HOST!r}]\n")
    (my_box.parent / "group_data").mkdir()
    (my_box.parent / "group_data" / "replay.py").write_text("listen_address = '127.0.0.9'\n")
    done = pyinfra(str(inventory), "deploys/qwen.py", "--dry", "--diff")
    assert done.returncode == 0, done.stderr
    assert path in done.stderr
    assert "+ port: 8123" in done.stderr
    assert "+ port: 8000" in done.stderr
    assert done.stderr.count('+ host: "127.0.0.9"') == 2


def test_json_without_yes_is_a_dry_run_too() -> None:
    assert hosts_with_change(pyinfra(HOST, "deploys/qwen.py", "--json")) == {HOST}


def test_limit_takes_the_group() -> None:
    done = pyinfra(HOST, "deploys/qwen.py", "--dry", "--json", "--limit", "replay")
    assert hosts_with_change(done) == {HOST}


def test_raw_probe_output_is_a_fact_that_parses_to_the_recorded_host() -> None:
    done = pyinfra(HOST, "fact", "facts.host.HostProbeText", "--json")
    assert done.returncode == 0, done.stderr
    facts = parse_host(json.loads(done.stdout)["facts.host.HostProbeText"][HOST])
    recorded = parse_host(recording_named(WORKSTATION).probe_text(facts.clock_unix_s))
    assert facts == recorded


# --- refusing


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("deploys/qwen.py", "-y"), id="deploy"),
        pytest.param(("deploys/qwen.py",), id="deploy-that-would-ask"),
        pytest.param(("deploys/qwen.py", "-y", "--json"), id="json"),
        pytest.param(("exec", "--", "true"), id="command"),
    ],
)
def test_change_is_refused_before_anything_is_planned(arguments: tuple[str, ...]) -> None:
    done = pyinfra(HOST, *arguments)
    assert done.returncode == 1
    assert f"[{HOST}] {REFUSED}" in done.stderr
    assert "Loading: deploys/qwen.py" not in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_other_hosts_of_an_inventory_are_deployed_to(tmp_path: Path) -> None:
    inventory = tmp_path / "two.py"
    fake = {"fake_delay": 0, "fake_delay_jitter": 0}
    inventory.write_text(f"two = [{HOST!r}, ('@fake/good', {fake!r})]\n")
    results = json.loads(pyinfra(str(inventory), "exec", "-y", "--json", "--", "true").stdout)["results"]
    assert results["failed_hosts"] == [HOST]
    assert [operation["success"] for operation in results["operations"]] == [["@fake/good"]]


# pyinfra as a library: there is no command line that could tell whether the run is a dry one


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param("server.shell, commands=['true']", id="command"),
        pytest.param("files.put, src=io.StringIO('x'), dest='/etc/x'", id="upload"),
        pytest.param("files.get, src='/etc/x', dest='got'", id="download"),
        pytest.param("files.rsync, src='.', dest='/srv'", id="rsync"),
    ],
)
def test_operations_of_a_script_fail_with_the_reason(operation: str, tmp_path: Path) -> None:
    script = f"""
import io, logging
from gevent import monkey
monkey.patch_all()
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.operations import files, server
logging.basicConfig(level="INFO")
state = State(Inventory((["{HOST}"], {{}})), Config())
connect_all(state)
state.set_stage(StateStage.Prepare)
add_op(state, {operation})
state.set_stage(StateStage.Execute)
try:
    run_ops(state)
except PyinfraError as error:
    print("ended:", error)
results = state.get_results_for_host(state.inventory.get_host("{HOST}"))
print("succeeded:", results.success_ops)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert REFUSED in done.stderr, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["ended: No hosts remaining!", "succeeded: 0"]
    assert not (tmp_path / "got").exists()


# --- errors of the inventory


@pytest.mark.parametrize(
    ("inventory", "said"),
    [
        pytest.param("@replay/4090d-worksttion", f"unknown recording '4090d-worksttion': did you mean {WORKSTATION}?", id="name"),
        pytest.param("@replay", f"needs a recording's name or path; known: {WORKSTATION}", id="no-name"),
        pytest.param("@replay//nowhere/box", "unknown recording '/nowhere/box'", id="path"),
        pytest.param("@replay/./docs", "the folder ./docs is no recording of a host: it has no recording.yaml", id="folder"),
        pytest.param(f"{HOST},@replay/nobody", "unknown recording 'nobody'", id="one-of-two"),
    ],
)
def test_unknown_recording_is_an_error_for_people(inventory: str, said: str) -> None:
    done = pyinfra(inventory, "deploys/qwen.py", "--dry")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Connecting to hosts" not in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_damaged_recording_is_an_error_for_people(my_box: Path) -> None:
    (my_box / "recording.yaml").write_text("kind: guessed")
    done = pyinfra(f"@replay/{my_box}", "deploys/qwen.py", "--dry")
    assert done.returncode == 1
    assert "recording.yaml is wrong" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# --- living in everybody's pyinfra


def test_connector_needs_nothing_of_bringup_until_it_is_used() -> None:
    """pyinfra loads every connector in every run, so a damaged bringup must not damage other projects' runs."""
    code = (
        "import sys; sys.modules['bringup'] = None\n"  # every import of it fails
        "from pyinfra.api.connectors import get_all_connectors; print(get_all_connectors()['replay'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ReplayConnector" in done.stdout, done.stderr


def test_connector_works_outside_of_the_project(tmp_path: Path) -> None:
    done = pyinfra(HOST, "fact", "server.Os", "-y", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"server.Os": {HOST: "Linux"}}, done.stderr


def test_package_holds_the_recordings_and_the_connector(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("bringup", "bringup_pyinfra"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "build_py", "--build-lib", str(tmp_path / "built")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "built") for path in (tmp_path / "built").rglob("*")}
    shipped = {path.relative_to(source) for path in (source / "bringup/recordings").rglob("*") if path.is_file()}
    assert shipped | {Path("bringup_pyinfra/replay.py")} <= built


def test_model_that_the_catalog_does_not_know_is_planned_from_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 1024,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    size = 2 * model_from_folder(folder).parameters
    header = json.dumps({"all": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    inventory = tmp_path / "inventory.py"
    source = {"kind": "control-folder", "path": str(folder)}
    inventory.write_text(f"hosts = [('@replay/dual-socket-four-cards', {{'model': 'my-own', 'model_source': {source!r}}})]\n")
    done = pyinfra(str(inventory), "deploys/qwen.py", "--dry", "--diff")
    assert done.returncode == 0, done.stderr
    assert "Copy my-own" in done.stderr
    assert "refused:" not in done.stderr
