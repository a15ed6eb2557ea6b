"""Preflight: a fit host has no blocker; each bad fact gives exactly one, which says what to do."""

from typing import Any

import pytest

from bringup.catalog import load_catalog
from bringup.hardware import HostFacts
from bringup.plan import Plan, make_plan
from bringup.plan.preflight import host_blockers, plan_blockers
from bringup.settings import Settings
from tests.unit.machines import NOW_UNIX_S, bare_workstation, changed, demo_host, workstation

CATALOG = load_catalog()
PLAN = make_plan(workstation(), Settings(), CATALOG, "cdbee75f")
ENGINE = (PLAN.engine_dir or "").rsplit("/", 1)[-1]
MODEL = PLAN.model_dir.rsplit("/", 1)[-1]


def system(**fields: Any) -> dict[str, Any]:
    return {"os": {**dict(bare_workstation().os), **fields}}


def disks(opt_mib: int, var_mib: int, var_device: str = "/dev/sdb1") -> dict[str, Any]:
    return {
        "disks": (
            {"path": "/opt/bringup", "free_mib": opt_mib, "device": "/dev/sda1"},
            {"path": "/var/lib/bringup", "free_mib": var_mib, "device": var_device},
        )
    }


def memory(available_mib: int) -> dict[str, Any]:
    return {"memory": {"total_mib": 65536, "available_mib": available_mib}}


FIT = {
    "workstation": {},
    "ubuntu-newer": system(version_id="26.04"),
    "ubuntu-24.10": system(version_id="24.10"),
    "debian-12": system(id="debian", version_id="12"),
    "debian-13": system(id="debian", version_id="13"),
    "sudo": {"root_access": "sudo", "login_user": "ops"},
    "our-own-user": {"service_user_home": "/var/lib/bringup/home"},
    "clock-300-s-ahead": {"clock_unix_s": NOW_UNIX_S + 300},
    "clock-300-s-behind": {"clock_unix_s": NOW_UNIX_S - 300},
}


@pytest.mark.parametrize("facts", FIT.values(), ids=FIT)
def test_fit_host_is_not_blocked(facts: dict[str, Any]) -> None:
    assert host_blockers(changed(workstation(), **facts), NOW_UNIX_S) == []


UNFIT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "ubuntu-older": (system(version_id="22.04", name="Ubuntu 22.04.5 LTS"), ("Ubuntu 22.04.5 LTS", "Ubuntu 24.04 or newer")),
    "debian-older": (system(id="debian", version_id="11", name="Debian 11"), ("Debian 11", "Debian 12 or newer")),
    "debian-unstable": (system(id="debian", version_id="", name="Debian sid"), ("Debian sid", "Debian 12 or newer")),
    "strange-version": (system(version_id="rolling"), ("not supported",)),
    "other-distribution": (system(id="fedora", version_id="43", name="Fedora 43"), ("Fedora 43", "Debian 12 or newer")),
    "arm": (system(architecture="aarch64"), ("aarch64", "x86_64")),
    "no-root": ({"root_access": "none", "login_user": "guest"}, ("'guest'", "NOPASSWD")),
    "no-systemd": ({"init": "tini"}, ("tini", "systemd")),
    "another-run": ({"run_at_work": "another run is at work on this host: building vllm"}, ("another run is at work", "building")),
    "clock-behind": ({"clock_unix_s": NOW_UNIX_S - 301}, ("301 s behind", "timedatectl set-ntp true")),
    "clock-ahead": ({"clock_unix_s": NOW_UNIX_S + 301}, ("301 s ahead", "timedatectl set-ntp true")),
    "clock-unknown": ({"clock_unix_s": 0}, ("clock",)),
    "user-of-somebody-else": ({"service_user_home": "/home/vllm"}, ("user vllm", "/home/vllm", "rename")),
    "unit-of-somebody-else": ({"foreign_unit": "/lib/systemd/system/vllm.service"}, ("vllm.service", "move it away")),
    "devices-unreadable": ({"unknown": {"pci-display": "not a PCI display controller"}}, ("PCI devices cannot be read",)),
}


@pytest.mark.parametrize(("facts", "said"), UNFIT.values(), ids=UNFIT)
def test_unfit_host_is_blocked_with_what_to_do(facts: dict[str, Any], said: tuple[str, ...]) -> None:
    (blocker,) = host_blockers(changed(workstation(), **facts), NOW_UNIX_S)
    for part in said:
        assert part in blocker


def test_driver_alone_comes_to_a_release_that_is_too_old_for_vllm() -> None:
    facts = changed(workstation(), **system(version_id="22.04", name="Ubuntu 22.04.5 LTS"))
    assert host_blockers(facts, NOW_UNIX_S, driver_only=True) == []
    older = changed(workstation(), **system(version_id="20.04", name="Ubuntu 20.04.6 LTS"))
    (blocker,) = host_blockers(older, NOW_UNIX_S, driver_only=True)
    assert "Ubuntu 22.04 or newer" in blocker


def blockers_of(facts: dict[str, Any], plan: Plan = PLAN, host: HostFacts | None = None) -> list[str]:
    return plan_blockers(changed(host or workstation(), **facts), plan)


ENOUGH = {
    "workstation": {},
    "disk-just-enough": disks(PLAN.needs.engine_disk_mib, PLAN.needs.model_disk_mib),
    "disk-unknown": {"disks": ()},
    "engine-there-already": disks(0, PLAN.needs.model_disk_mib) | {"engines": {ENGINE: "abc"}},
    "model-there-already": disks(PLAN.needs.engine_disk_mib, 0) | {"models": {MODEL: "abc"}},
    "memory-just-enough": memory(PLAN.needs.memory_mib),
    "memory-unknown": {"memory": {"total_mib": 0, "available_mib": 0}},
    "memory-that-the-old-server-gives-back": memory(100) | {"service_state": "active"},
}


@pytest.mark.parametrize("facts", ENOUGH.values(), ids=ENOUGH)
def test_host_that_has_what_the_plan_needs_is_not_blocked(facts: dict[str, Any]) -> None:
    assert blockers_of(facts) == []


SHORT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "engine-disk": (disks(PLAN.needs.engine_disk_mib - 1, 100_000), ("/opt/bringup has 13999 MiB", "14000 MiB", "make room")),
    "model-disk": (disks(100_000, 100), ("/var/lib/bringup has 100 MiB", "the model needs 7688 MiB", "make room")),
    "one-file-system-for-both": (
        disks(PLAN.needs.engine_disk_mib + 100, PLAN.needs.engine_disk_mib + 100, "/dev/sda1"),
        ("the engine needs 14000 MiB and the model needs 7688 MiB",),
    ),
    "another-engine-there": (disks(100, 100_000) | {"engines": {"vllm-0.1-cuda-0": "abc"}}, ("/opt/bringup", "make room")),
    "memory": (
        memory(PLAN.needs.memory_mib - 1),
        ("4095 MiB of memory are free, 4096 MiB are needed", "stop what else runs there"),
    ),
    "memory-of-a-failed-server": (memory(100) | {"service_state": "failed"}, ("100 MiB of memory", "4096 MiB")),
}


@pytest.mark.parametrize(("facts", "said"), SHORT.values(), ids=SHORT)
def test_host_that_is_short_of_something_is_blocked(facts: dict[str, Any], said: tuple[str, ...]) -> None:
    (blocker,) = blockers_of(facts)
    for part in said:
        assert part in blocker


def test_host_without_a_card_needs_no_driver() -> None:
    source = {"kind": "host-folder", "path": "/srv/model"}
    settings = Settings.model_validate({"profile": "cpu-demo", "model": "smollm2-135m", "model_source": source})
    plan = make_plan(demo_host(), settings, CATALOG, "in-place")
    assert blockers_of({}, plan, demo_host()) == []
    # a folder on the host takes no more room
    assert blockers_of(disks(plan.needs.engine_disk_mib, 0), plan, demo_host()) == []
