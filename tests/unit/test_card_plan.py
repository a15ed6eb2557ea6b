"""What the inventory expects and asks of the cards: refused, planned, written, and looked at again only when something changed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.errors import BringupError
from bringup.hardware import HostFacts
from bringup.plan import make_plan
from bringup.plan.card import CardPlan
from bringup.plan.gpu_check import expectation_blockers, gpu_check_request
from bringup.plan.preflight import driver_blockers
from bringup.probe.host import parse_host
from bringup.recording import RecordingInfo, recording_named, save_recording
from bringup.settings import Settings, problems_with
from deploys.render import render
from tests.unit.machines import NOW_UNIX_S, bare_workstation, changed, demo_host, recording, workstation

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()
REVISION = "cdbee75f"


def planned(facts: HostFacts, **data: Any) -> CardPlan | None:
    return make_plan(facts, Settings.model_validate(data), CATALOG, REVISION).card


def unit(facts: HostFacts, **data: Any) -> str:
    return render("bringup-nvidia.service.j2", make_plan(facts, Settings.model_validate(data), CATALOG, REVISION))


# --- the expectation


@pytest.mark.parametrize("name", ["RTX 4090 D", "GeForce RTX 4090 D", "nvidia geforce rtx 4090 d"])
def test_card_is_found_by_the_names_that_people_use(name: str) -> None:
    assert [gpu.pci_ids for gpu in CATALOG.gpus_named(name)] == [("10de:2685",)]


def test_entry_of_two_cards_is_found_by_each() -> None:
    assert CATALOG.gpus_named("A16") == CATALOG.gpus_named("A2 or A16")


def test_unknown_card_names_the_nearest() -> None:
    with pytest.raises(BringupError, match=r"unknown card 'RTX 4090D': did you mean .*GeForce RTX 4090 D"):
        CATALOG.gpus_named("RTX 4090D")
    (problem,) = problems_with({"expect": {"gpu": "RTX 4090D"}}, CATALOG)
    assert "did you mean" in problem


@pytest.mark.parametrize(
    ("expect", "refused"),
    [
        ({"gpu": "RTX 4090 D", "count": 1}, False),
        ({"gpu": "RTX 4090 D"}, False),
        ({"count": 1}, False),
        ({"gpu": "RTX 4090 D", "count": 2}, True),
        ({"gpu": "RTX 4090", "count": 1}, True),
        ({"count": 0}, True),
    ],
)
def test_expectation_is_held_against_the_bare_machine(expect: dict[str, Any], refused: bool) -> None:
    found = expectation_blockers(bare_workstation(), Settings.model_validate({"expect": expect}), CATALOG)
    assert bool(found) is refused
    assert all("this host has: GeForce RTX 4090 D at 0000:01:00.0" in text for text in found)


@pytest.mark.parametrize("fields", [{"kernel_driver": "vfio-pci"}, {"responds": False}], ids=["given-away", "fell-off-the-bus"])
def test_card_that_cannot_serve_does_not_count(fields: dict[str, Any]) -> None:
    facts = bare_workstation()
    facts = changed(facts, gpus=(facts.gpus[0].model_copy(update=fields),))
    (text,) = expectation_blockers(facts, Settings.model_validate({"expect": {"count": 1}}), CATALOG)
    assert "has: none" in text


def test_nothing_expected_refuses_nothing() -> None:
    assert expectation_blockers(demo_host(), Settings(), CATALOG) == []


# --- settings of the card


def test_persistence_alone_where_nothing_is_asked_for() -> None:
    text = unit(bare_workstation())
    assert "--persistence-mode=1" in text
    assert "Wants=nvidia-persistenced.service" in text
    assert "power-limit" not in text
    assert "clocks" not in text


def test_unit_sets_what_is_asked_for_and_puts_the_defaults_back() -> None:
    lines = unit(bare_workstation(), gpu_power_limit_w=350, gpu_clocks_mhz=[210, 2520]).splitlines()
    assert "ExecStart=nvidia-smi --id=0000:01:00.0 --power-limit=350" in lines
    assert "ExecStart=nvidia-smi --id=0000:01:00.0 --lock-gpu-clocks=210,2520" in lines
    stops = [line for line in lines if line.startswith("ExecStopPost=")]
    assert "--reset-gpu-clocks" in stops[0]
    assert "power.default_limit" in stops[1]


def test_unit_passes_systemds_own_check(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "bringup-nvidia.service"
    # the driver's tools are not on this machine
    text = unit(bare_workstation(), gpu_power_limit_w=350, gpu_clocks_mhz=[210, 2520])
    path.write_text(re.sub("^(Exec[A-Za-z]+=-?)nvidia-smi ", rf"\1{shutil.which('true')} ", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "bringup-nvidia.service" in line]
    assert (done.returncode, complaints) == (0, [])


def test_what_is_asked_for_is_a_decision_and_no_other_release() -> None:
    plain, limited = (
        make_plan(bare_workstation(), Settings.model_validate(data), CATALOG, REVISION) for data in ({}, {"gpu_power_limit_w": 350})
    )
    assert [(d.key, d.value) for d in limited.decisions if d.key.startswith("gpu-power")] == [("gpu-power-limit-w", 350)]
    assert limited.digest == plain.digest


def h100() -> HostFacts:
    return parse_host(recording_named("h100-datacenter").probe_text(NOW_UNIX_S))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"gpu_power_limit_w": 100}, "gpu_power_limit_w is 100, but the card takes 200 to 700 W"),
        ({"gpu_power_limit_w": 701}, "the card takes 200 to 700 W"),
        ({"gpu_clocks_mhz": [0, 2500]}, "gpu_clocks_mhz goes up to 2500, but the card's highest clock is 1980 MHz"),
    ],
)
def test_what_the_card_does_not_take_is_refused(data: dict[str, Any], said: str) -> None:
    facts = changed(h100(), system=h100().system.model_copy(update={"container": None}))
    plan = make_plan(facts, Settings.model_validate(data), CATALOG, REVISION)
    assert any(said in text for text in driver_blockers(facts, plan))


def test_container_is_refused_what_is_its_machines() -> None:
    facts = changed(workstation(), system=workstation().system.model_copy(update={"container": "docker"}))
    assert planned(facts) is None
    plan = planned(facts, gpu_power_limit_w=350)
    assert plan is not None
    assert "this is a container (docker)" in plan.blockers[0]


def test_nothing_is_set_where_the_driver_goes() -> None:
    assert planned(workstation(), nvidia_state="absent", gpu_power_limit_w=350) is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"gpu_power_limit_w": 0}, "greater than or equal to 1"),
        ({"gpu_clocks_mhz": [2520, 210]}, "the first must not be above the second"),
        ({"expect": {"cound": 1}}, "Extra inputs are not permitted"),
    ],
)
def test_bad_settings_are_named(data: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems_with(data, CATALOG))


# --- when to look


def test_request_is_the_same_before_and_after_there_is_a_driver() -> None:
    settings = Settings.model_validate({"expect": {"gpu": "RTX 4090 D", "count": 1}})
    requests = [
        gpu_check_request(make_plan(facts, settings, CATALOG, REVISION), facts, settings, CATALOG)
        for facts in (bare_workstation(), workstation())
    ]
    assert requests[0] == requests[1]
    assert requests[0]["expect"]["pci_ids"] == ["10de:2685"]
    assert requests[0]["environment"]["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("changes", "looks"),
    [
        pytest.param({}, False, id="seen-and-passed"),
        pytest.param({"passed": False}, True, id="failed"),
        pytest.param({"driver_version": "570.195.03"}, True, id="another-driver"),
        pytest.param({"request": {}}, True, id="other-cards"),
    ],
)
def test_cards_are_looked_at_again_only_when_something_changed(tmp_path: Path, changes: dict[str, Any], looks: bool) -> None:
    facts = parse_host(recording())
    settings = Settings()
    plan = make_plan(facts, settings, CATALOG)
    request = gpu_check_request(plan, facts, settings, CATALOG) | {"python": f"{plan.engine_dir}/bin/python", "user": "vllm"}
    record = {"request": request, "passed": True, "driver_version": None} | changes
    info = RecordingInfo.model_validate(
        {"name": "seen", "title": "x", "kind": "recorded", "date": "2026-11-24", "made_from": "a test"}
    )
    text = recording().replace("@@bringup end\n", f"@@bringup gpu-check\n{json.dumps(record)}\n@@bringup end\n")
    save_recording(text, tmp_path / "seen", info)
    command = [str(Path(sys.executable).parent / "pyinfra"), f"@replay/{tmp_path / 'seen'}", "deploys/qwen.py", "--dry", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=60, check=True
    )
    names = [operation["name"] for operation in json.loads(done.stdout)["plan"]]
    assert any("Look at the card as it runs" in name for name in names) is looks
