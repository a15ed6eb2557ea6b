"""The cards of the catalog: figures that agree with one another, ids that agree with the PCI id database."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bringup.catalog import load_catalog
from bringup.catalog.entries import ARCHITECTURES, GpuModel
from bringup.errors import BringupError
from bringup.plan.configuration import Card, Case
from bringup.plan.engine import gpu_options
from tests.unit.machines import bare_workstation

CATALOG = load_catalog()
GPUS = CATALOG.gpus
PCI_IDS = Path("/usr/share/misc/pci.ids")

CARD: dict[str, Any] = {
    "pci_ids": ("10de:2685",),
    "name": "card",
    "family": "geforce",
    "architecture": "Ada",
    "compute_capability": "8.9",
    "memory_type": "GDDR6X",
    "vram_mib": 24564,
    "memory_bus_bits": 384,
    "memory_gbit_s_per_pin": 21,
    "bandwidth_gb_s": 1008,
    "source": "made up for a test",
}


def card(pci_id: str) -> GpuModel:
    (found,) = [gpu for gpu in GPUS if pci_id in gpu.pci_ids]
    return found


def nvidia_names(database: str) -> dict[str, str]:
    """NVIDIA's part of pci.ids: ``10de:2685`` → the name in brackets; devices that have only a chip's name are left out."""
    section = re.search(r"^10de  .*\n((?:[\t#].*\n|\n)+)", database, re.MULTILINE)
    assert section, "pci.ids has no section 10de"
    return {f"10de:{device}": name for device, name in re.findall(r"^\t([0-9a-f]{4})  .*\[(.+)\]$", section[1], re.MULTILINE)}


def words(name: str) -> set[str]:
    return set(re.split(r"[^A-Z0-9]+", name.upper()))


def agree(ours: str, theirs: str) -> bool:
    """Whether two names can be one card's: equal in model number (pci.ids calls the H100 NVL "H100L") and in rank."""
    numbers = [word for word in re.findall(r"\b[A-Z]*\d+[A-Z]*\b", ours.upper()) if not re.fullmatch(r"SXM\d", word)]
    ranks = {"TI", "SUPER", "D", "V2", "TITAN", "ADA", "PRO", "SFF", "SERVER", "WORKSTATION"}
    number = not numbers or bool({numbers[0], f"{numbers[0]}L"} & words(theirs))
    return number and words(ours) & ranks == words(theirs) & ranks


# --- the entry's own rules


def test_figures_that_agree_are_taken() -> None:
    assert GpuModel.model_validate(CARD).visible_mib < 24564


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"bandwidth_gb_s": 1030}, "384 bits at 21 Gbit/s a pin are 1008", id="bandwidth"),
        pytest.param({"memory_bus_bits": 256}, "256 bits at 21 Gbit/s a pin are 672", id="bus"),
        pytest.param({"compute_capability": "8.6"}, r"8\.6 is not Ada's \(8\.9\)", id="capability-of-another-architecture"),
        pytest.param({"compute_capability": "8.9.0"}, r"8\.9\.0 is not Ada's", id="capability-that-is-none"),
        pytest.param({"pci_ids": ("10DE:2685",)}, "pci_ids", id="upper-case-id"),
        pytest.param({"pci_ids": ("2685",)}, "pci_ids", id="id-without-vendor"),
        pytest.param({"pci_ids": ()}, "pci_ids", id="no-id"),
        pytest.param({"cuda_visible_mib": 24600}, "more than vram_mib", id="more-visible-than-there-is"),
        pytest.param({"other_vram_mib": (49140,)}, "`note` must say", id="several-sizes-unexplained"),
        pytest.param({"other_vram_mib": (12282,), "note": "two cards"}, "must be the smallest", id="not-the-smallest-size"),
    ],
)
def test_figures_that_cannot_all_be_true_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GpuModel.model_validate(CARD | fields)


# --- memory that CUDA sees


@pytest.mark.parametrize(
    ("pci_id", "seen_gib"),
    [
        pytest.param("10de:2882", 7.60, id="rtx-4060"),
        pytest.param("10de:1eb8", 14.56, id="t4"),
        pytest.param("10de:2c02", 15.45, id="rtx-5080"),
        pytest.param("10de:27b8", 22.03, id="l4"),
        pytest.param("10de:2204", 23.52, id="rtx-3090"),
        pytest.param("10de:2b85", 31.34, id="rtx-5090"),
        pytest.param("10de:20b0", 39.25, id="a100-40"),
        pytest.param("10de:26b9", 44.34, id="l40s"),
        pytest.param("10de:2230", 47.40, id="rtx-a6000"),
        pytest.param("10de:20b2", 79.10, id="a100-80"),
        pytest.param("10de:2330", 79.18, id="h100"),
        pytest.param("10de:2bb1", 94.97, id="rtx-pro-6000"),
        pytest.param("10de:2342", 94.50, id="gh200"),
        pytest.param("10de:2335", 139.72, id="h200"),
        pytest.param("10de:2901", 178.35, id="b200"),
    ],
)
def test_estimate_is_below_the_least_that_logs_show_and_not_far_below(pci_id: str, seen_gib: float) -> None:
    """The least capacity that PyTorch named in published logs (2026-11-24); most name no card, so the size tells which."""
    gpu = card(pci_id)
    assert gpu.cuda_visible_mib is None
    assert 0.97 * seen_gib * 1024 < gpu.visible_mib <= seen_gib * 1024


def test_known_figure_is_taken_before_the_estimate() -> None:
    assert [card(pci_id).visible_mib for pci_id in ("10de:2684", "10de:2685")] == [24207, 24207]


def test_nominal_size_leaves_room_for_error_correction() -> None:
    """An A10 is sold with 24 GiB, shows 23028 MiB, and CUDA sees less."""
    nominal = GpuModel.model_validate(CARD | {"vram_mib": 24576, "vram_nominal": True})
    assert nominal.visible_mib < 23028 < GpuModel.model_validate(CARD | {"vram_mib": 24576}).visible_mib


def options(gpu: GpuModel) -> tuple[str, int]:
    """What the plan says of the card's memory, and how many tokens it predicts."""
    model, profile = CATALOG.model("qwen3-4b"), CATALOG.profile("interactive")
    engine = CATALOG.engine(None, "cuda")
    calibration = CATALOG.calibration(engine.version, gpu.compute_capability)
    there = Card(gpu=bare_workstation().gpus[0].model_copy(update={"pci_id": gpu.pci_ids[0]}), model=gpu, index=0)
    case = Case(card=there, engine=engine, calibration=calibration, model=model, profile=profile, overrides={})
    planned = gpu_options(case, ())
    (why,) = [decision.why for decision in planned.decisions if decision.key == "gpu-memory-utilization"]
    return why, planned.kv_cache_tokens


@pytest.mark.parametrize(
    ("pci_id", "words"),
    [
        pytest.param("10de:2685", "24207 MiB that CUDA sees;", id="known"),
        pytest.param("10de:2204", "24064 MiB that CUDA sees at least;", id="estimated"),
    ],
)
def test_plan_says_whether_the_memory_is_known(pci_id: str, words: str) -> None:
    assert words in options(card(pci_id))[0]


def test_plan_follows_the_estimate() -> None:
    """A 3090 has 12 MiB more than a 4090, but what CUDA sees of it is estimated: fewer tokens, not more."""
    assert 0.95 * options(card("10de:2684"))[1] < options(card("10de:2204"))[1] < options(card("10de:2684"))[1]


def test_model_that_does_not_fit_is_refused_on_a_small_card() -> None:
    with pytest.raises(BringupError, match="does not fit a GeForce RTX 3070 "):
        options(card("10de:2484"))


# --- the cards


def test_every_architecture_and_family_is_there() -> None:
    assert {gpu.architecture for gpu in GPUS} == set(ARCHITECTURES)
    assert {gpu.family for gpu in GPUS} == {"geforce", "professional", "datacenter"}
    assert {gpu.compute_capability for gpu in GPUS} == {one for each in ARCHITECTURES.values() for one in each}


def test_names_are_unique() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    assert [gpu.name for gpu in GPUS if "NVIDIA" in gpu.name.upper()] == []


def test_memory_without_a_rate_per_pin_is_hbm() -> None:
    assert {gpu.memory_gbit_s_per_pin is None for gpu in GPUS if gpu.memory_type.startswith("HBM")} == {True}
    assert [gpu.name for gpu in GPUS if gpu.memory_type.startswith("GDDR") and gpu.memory_gbit_s_per_pin is None] == []


def test_the_two_4090s_are_told_apart() -> None:
    """Same memory, fewer cores: the D is as fast between tokens and slower with prompts."""
    full, d = card("10de:2684"), card("10de:2685")
    assert (full.name, d.name) == ("GeForce RTX 4090", "GeForce RTX 4090 D")
    assert full.vram_mib == d.vram_mib == 24564
    assert full.bandwidth_gb_s == d.bandwidth_gb_s == 1008
    assert full.bf16_tflops
    assert d.bf16_tflops
    assert d.bf16_tflops / full.bf16_tflops == pytest.approx(14592 / 16384, rel=0.01)
    assert (full.board_power_w, d.board_power_w) == (450, 425)


@pytest.mark.parametrize("gpu", [gpu for gpu in GPUS if gpu.cuda_cores], ids=lambda gpu: gpu.name)
def test_tensor_throughput_is_what_cores_and_clock_make(gpu: GpuModel) -> None:
    """NVIDIA's whitepapers: with FP32 accumulation 2 (GeForce) or 4 times FP32 on Ampere and later, twice that on Turing."""
    assert gpu.cuda_cores
    assert gpu.boost_mhz
    fp32_tflops = 2 * gpu.cuda_cores * gpu.boost_mhz / 1e6
    rate = 2 if gpu.family == "geforce" and gpu.name != "TITAN RTX" else 4
    tensor = gpu.fp16_tflops if gpu.architecture == "Turing" else gpu.bf16_tflops
    assert tensor == pytest.approx(fp32_tflops * rate * (2 if gpu.architecture == "Turing" else 1), rel=0.01)


@pytest.mark.parametrize(
    ("pci_id", "tflops"),
    [
        pytest.param("10de:1e04", 53.8, id="turing-geforce"),
        pytest.param("10de:1e02", 130.5, id="turing-titan"),
        pytest.param("10de:2204", 71, id="ampere-geforce"),
        pytest.param("10de:2235", 149.7, id="ampere-datacenter"),
        pytest.param("10de:2684", 165.2, id="ada-geforce"),
        pytest.param("10de:2bb1", 503.8, id="blackwell-professional"),
    ],
)
def test_computed_throughput_is_what_the_whitepapers_print(pci_id: str, tflops: float) -> None:
    assert (card(pci_id).bf16_tflops or card(pci_id).fp16_tflops) == pytest.approx(tflops, rel=0.005)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_number_formats_are_those_that_the_architecture_has(gpu: GpuModel) -> None:
    """bf16 came with Ampere, fp8 with Ada and Hopper; fp8 runs at twice the rate of bf16."""
    turing = gpu.architecture == "Turing"
    assert (gpu.fp16_tflops is not None) == turing
    assert not (turing and gpu.bf16_tflops)
    if gpu.architecture in ("Turing", "Ampere"):
        assert gpu.fp8_tflops is None
    else:
        assert (gpu.fp8_tflops is None) == (gpu.bf16_tflops is None)
        if gpu.fp8_tflops and gpu.bf16_tflops:
            assert gpu.fp8_tflops == pytest.approx(2 * gpu.bf16_tflops, rel=0.015)


# --- the PCI id database


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        pytest.param("GeForce RTX 4090 D", "GeForce RTX 4090 D", True, id="same"),
        pytest.param("GeForce RTX 4090 D", "GeForce RTX 4090", False, id="4090-d"),
        pytest.param("GeForce RTX 4070 Ti SUPER", "GeForce RTX 4070 SUPER", False, id="ti-super"),
        pytest.param("GeForce RTX 3060", "GeForce RTX 3060 Lite Hash Rate", True, id="more-words"),
        pytest.param("L4", "L40", False, id="longer-number"),
        pytest.param("A10", "A100 PCIe 40GB", False, id="longer-number-with-words"),
        pytest.param("H100 NVL", "H100L 94GB", True, id="h100l"),
        pytest.param("Quadro RTX 6000 or 8000", "Quadro RTX 6000/8000", True, id="shared-id"),
    ],
)
def test_names_are_compared_by_model_number_and_rank(ours: str, theirs: str, same: bool) -> None:
    assert agree(ours, theirs) is same


def test_pci_ids_are_those_of_the_database() -> None:
    if not PCI_IDS.exists():
        pytest.skip(f"{PCI_IDS} is missing: install the package pci.ids")
    names = nvidia_names(PCI_IDS.read_text(encoding="utf-8"))
    known = [(pci_id, gpu.name, names[pci_id]) for gpu in GPUS for pci_id in gpu.pci_ids if pci_id in names]
    # any release of the last years knows the cards up to Ampere
    assert len(known) > len(GPUS) // 2
    assert [entry for entry in known if not agree(entry[1], entry[2])] == []
