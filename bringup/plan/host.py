"""Settings of the host that this machine's facts justify: what, why, with which evidence, and how each is read back.

What has no effect here is not in the list: NUMA balancing with one node, swappiness without swap, a governor that is right
already. What has an effect that nobody has shown to help is in the list and off (`HostSetting.default_on`): it is offered, and set
where the inventory asks for it (`host_settings`).

Left alone, for want of any evidence that a server of this kind gains from them: vm.dirty_* (the server writes nothing but
logs), vm.min_free_kbytes and vm.zone_reclaim_mode (the kernel's defaults), fs.file-max (systemd raises it at boot; the service's
own limit is the one that counts).
"""

from collections.abc import Iterable, Iterator, Mapping

from bringup.cpu_list import parse_cpu_list
from bringup.findings import Finding
from bringup.findings.finding import note, warning
from bringup.hardware import Gpu, HostFacts
from bringup.host_settings import KEEP, PLANNED
from bringup.plan.host_cpu import cpu_settings
from bringup.plan.host_kernel import kernel_settings
from bringup.plan.host_setting import NO_EFFECT_SHOWN, Candidate, Evidence, HostSetting, Unneeded
from bringup.plan.placement import Placement

__all__ = ["Evidence", "HostSetting", "not_applicable", "owner_command", "owner_findings", "plan_host"]


def plan_host(
    facts: HostFacts, placement: Placement, gpu: Gpu | None, wishes: Mapping[str, str] | None = None
) -> tuple[HostSetting, ...]:
    """List what may be set on this host.

    Args:
        facts: the host.
        placement: where the server runs.
        gpu: the card that serves; None for the CPU backend.
        wishes: the inventory's `host_settings`, validated.
    """
    wishes = wishes or {}
    listed = []
    for candidate in _candidates(facts, placement, gpu, wishes):
        wish = wishes.get(candidate.key)
        if isinstance(candidate, HostSetting):
            listed.append(_with_wish(candidate, wish))
        elif candidate.setting is not None and wish not in (None, KEEP):
            listed.append(_with_wish(candidate.setting, wish))
    if facts.init != "systemd":
        # a container's kernel is its machine's, also where it could be written to; the limits are the service's own
        listed = [setting if setting.kind == "limit" else setting.model_copy(update={"writable": False}) for setting in listed]
    return tuple(listed)


def not_applicable(facts: HostFacts, placement: Placement, gpu: Gpu | None, wishes: Mapping[str, str]) -> tuple[Finding, ...]:
    """Say which wishes can do nothing on this host, and why."""
    findings = []
    for candidate in _candidates(facts, placement, gpu, wishes):
        wish = wishes.get(candidate.key)
        if isinstance(candidate, Unneeded) and candidate.setting is None and wish not in (None, KEEP):
            findings.append(note("setting-not-applicable", f"{candidate.key} is not set here: {candidate.why}"))
        elif candidate.key == "irq_affinity" and wish not in (None, KEEP, PLANNED):
            shared = set(parse_cpu_list(wish)) & set(placement.serving_cpus)
            absent = set(parse_cpu_list(wish)) - set(facts.cpu.online or facts.cpu.usable)
            if shared or absent:
                what = f"has CPUs that serve ({min(shared)})" if shared else f"has CPUs that this host does not run ({min(absent)})"
                findings.append(warning("irq-affinity", f"irq_affinity {wish} {what}"))
    return tuple(findings)


def _candidates(facts: HostFacts, placement: Placement, gpu: Gpu | None, wishes: Mapping[str, str]) -> Iterator[Candidate]:
    yield from kernel_settings(facts, placement)
    yield from cpu_settings(facts, placement, wishes)
    yield from _power_limit(facts, gpu)


def _with_wish(setting: HostSetting, wish: str | None) -> HostSetting:
    if wish is None:
        return setting.model_copy(update={"state": "set" if setting.default_on else "offered"})
    if wish == KEEP:
        return setting.model_copy(update={"state": "kept" if setting.default_on else "offered"})
    if wish in (PLANNED, setting.value):
        return setting.model_copy(update={"state": "set"})
    why = f"as set in the inventory; the plan's would be {setting.value}: {setting.why}"
    return setting.model_copy(update={"state": "set", "value": wish, "why": why})


def owner_findings(settings: Iterable[HostSetting], facts: HostFacts) -> tuple[Finding, ...]:
    """Name what the plan would set and cannot from inside this host, for the owner of the machine that runs it."""
    findings = []
    for setting in settings:
        if setting.state == "set" and setting.writable is False and setting.now != setting.value:
            # without the live value: this text is kept with the release, and must not change by itself
            text = (
                f"{setting.key} cannot be set from inside this host ({facts.virtualization}); its owner can set it on the machine "
                f"that runs it{owner_command(setting.key, setting.kind, setting.value, setting.paths)}"
            )
            findings.append(warning("owner-must-set", text, f"{setting.evidence}: {setting.why}"))
    return tuple(findings)


def owner_command(key: str, kind: str, value: str, paths: Iterable[str]) -> str:
    """What an owner types on the machine, after a colon; in words where it is no file of the kernel."""
    if kind == "sysctl":
        return f": sysctl -w {key}={value}"
    files = " ".join(paths)
    return f": for file in {files}; do echo {value} > $file; done" if files else f", to {value}"


def _power_limit(facts: HostFacts, gpu: Gpu | None) -> Iterator[HostSetting]:
    """Offer the card's default where another limit is set; nothing above the default is ever planned."""
    power = gpu.state.power if gpu is not None and gpu.state is not None else None
    if gpu is None or power is None or power.limit_w is None or power.default_limit_w is None:
        return
    if power.limit_w == power.default_limit_w:
        return
    if power.limit_w < power.default_limit_w:
        why = (
            "somebody set less than the card's default, perhaps for its power supply or its cooling: ask first; the clocks of long "
        )
        why += "prompts and many streams suffer, decoding for one user is bound by memory"
    else:
        why = "somebody set more than the card's default; the plan never does"
    yield HostSetting(
        key="gpu_power_limit_w",
        kind="gpu",
        value=f"{power.default_limit_w:.2f}",
        now=f"{power.limit_w:.2f}",
        why=why,
        evidence="vendor",
        source=f"the card's default, as its driver says; {NO_EFFECT_SHOWN}",
        read_back=f"nvidia-smi --id={gpu.pci_address} --query-gpu=power.limit --format=csv,noheader,nounits",
        writable=None if facts.system.container is not None else facts.root_access != "none",
        default_on=False,
    )
