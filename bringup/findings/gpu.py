"""What is wrong with a machine's cards: each by itself, and all of them together."""

from bringup.catalog import Catalog
from bringup.catalog.entries import GpuModel
from bringup.findings.finding import Finding, note, problem, warning
from bringup.findings.pcie import link_findings
from bringup.hardware import Gpu, GpuState, HostFacts

_KIB_PER_TOKEN = 144
"""KV cache of Qwen3-4B in bf16: 2 × 36 layers × 8 heads × 128 × 2 bytes (the model's config.json)."""
_SLOWED = {
    "hw_slowdown": "the hardware halves its clocks or worse",
    "hw_thermal_slowdown": "it is too hot",
    "hw_power_brake_slowdown": "the power supply asks it to",
    "sw_thermal_slowdown": "it is warmer than its target",
}
"""Throttle reasons that point at cooling or power supply; the driver's others belong to normal work."""


def gpu_findings(facts: HostFacts, catalog: Catalog) -> list[Finding]:
    """Look at each card, then at all of them together."""
    findings: list[Finding] = []
    for gpu in facts.gpus:
        known = catalog.gpu(gpu.pci_id)
        findings += _card(facts, gpu, known, f"{gpu.driver_name or (known.name if known else gpu.pci_id)} at {gpu.pci_address}")
    ids = {gpu.pci_id for gpu in facts.gpus if gpu.driver_version} or {gpu.pci_id for gpu in facts.gpus}
    if len(ids) > 1:
        findings.append(note("gpus-mixed", f"the cards are of {len(ids)} models ({', '.join(sorted(ids))})"))
    return findings


def _card(facts: HostFacts, gpu: Gpu, known: GpuModel | None, name: str) -> list[Finding]:
    if gpu.responds is False:
        return [
            problem(
                "gpu-lost",
                f"{name} fell off the bus and no longer answers: power the machine off and on; if it comes again, look at its "
                "power cables, riser and temperature",
            )
        ]
    findings = [*_holder(facts, gpu, name), *link_findings(gpu, known, name)]
    if known is None:
        findings.append(warning("gpu-unknown", f"the catalog does not know {name}: add it to bringup/catalog/gpus.yaml"))
    if gpu.state is not None:
        findings += [*_health(gpu.state, name), *_settings(gpu.state, name), *_users(gpu.state, name)]
    return findings


def _holder(facts: HostFacts, gpu: Gpu, name: str) -> list[Finding]:
    if gpu.driver_version is not None or "nvidia-smi" in facts.unknown:
        return []
    if gpu.kernel_driver == "vfio-pci":
        text = f"{name} is held for a virtual machine (vfio-pci): give it back to the host before it can serve"
        return [warning("gpu-held", text)]
    if gpu.kernel_driver == "nvidia" and facts.system.container is not None:
        return [note("gpu-not-ours", f"{name} is not given to this container")]
    if gpu.kernel_driver == "nvidia":
        text = f"the driver holds {name} and does not list it: look into the kernel log (dmesg | grep NVRM)"
        return [problem("gpu-not-listed", text)]
    holder = "nouveau, which has no CUDA," if gpu.kernel_driver == "nouveau" else gpu.kernel_driver or "no driver"
    return [note("gpu-no-driver", f"{holder} holds {name}: NVIDIA's driver is not there yet")]


def _health(state: GpuState, name: str) -> list[Finding]:
    findings = []
    if state.recovery_action:
        findings.append(problem("gpu-recovery", f"the driver asks for recovery of {name}: {state.recovery_action}"))
    if state.uncorrectable_ecc_errors:
        count = state.uncorrectable_ecc_errors
        text = (
            f"{name} has {count} uncorrectable memory errors since its driver was loaded: reset it, and replace it if they return"
        )
        findings.append(problem("gpu-ecc-errors", text))
    reasons = [f"{_SLOWED[reason]} ({reason})" for reason in state.throttle_reasons if reason in _SLOWED]
    if reasons:
        findings.append(warning("gpu-throttled", f"{name} is slowed down now: {'; '.join(reasons)}", "clocks, as long as it lasts"))
    return findings


def _settings(state: GpuState, name: str) -> list[Finding]:
    findings = []
    if state.compute_mode and state.compute_mode.lower() == "prohibited":
        findings.append(problem("gpu-compute-mode", f"{name} is in compute mode Prohibited: nvidia-smi -c 0 lets programs use it"))
    if state.mig:
        findings.append(warning("gpu-mig", f"{name} is split into instances (MIG): each has a part of its memory and speed"))
    now, later = state.ecc_now, state.ecc_after_reboot
    if now is not None and later is not None and now != later:
        text = f"ECC of {name} is {_on(now)} and will be {_on(later)} after a reboot"
        findings.append(note("gpu-ecc-pending", text))
    limit, usual = state.power.limit_w, state.power.default_limit_w
    if limit and usual and limit < usual:
        text = f"{name} is limited to {limit:.0f} W, {usual:.0f} W is usual"
        findings.append(note("gpu-power-limit", text, "lower clocks with long prompts and many streams; not measured by us"))
    if state.persistence_mode is False:
        text = f"persistence mode of {name} is off: the driver lets go of it whenever nothing uses it"
        cost = "a wait for the first program that uses it; settings such as the power limit are lost each time"
        findings.append(note("gpu-persistence", text, cost))
    return findings


def _users(state: GpuState, name: str) -> list[Finding]:
    others = [process for process in state.processes if "vllm" not in process.name.lower()]
    if not others and not state.display_active:
        return []
    who = ", ".join(process.name.rsplit("/", 1)[-1] for process in others[:4]) or "a display"
    taken_mib = sum(process.memory_mib or 0 for process in others)
    desktop = "; draw the desktop on the processor's own graphics or on another card" if state.display_active else ""
    tokens = taken_mib * 1024 // _KIB_PER_TOKEN
    return [
        warning(
            "gpu-in-use",
            f"others use {name}: {who}{desktop}",
            f"{taken_mib} MiB, as much as {tokens:,} tokens of Qwen3-4B's KV cache in bf16; and its time",
        )
    ]


def _on(value: bool) -> str:
    return "on" if value else "off"
