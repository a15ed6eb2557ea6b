"""What is written down on the host of the settings that are made there: the one record that apply, boot and verification read."""

import json
from collections.abc import Iterable

from bringup.cpu_list import format_cpu_list, parse_cpu_list
from bringup.hardware import Frozen, HostFacts
from bringup.plan.host_setting import HostSetting

SYSCTL_FILE = "/etc/sysctl.d/90-bringup.conf"
TUNING_FILE = "/etc/bringup/tuning.json"
UNIT = "bringup-tuning.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
TUNED_FILE = "/etc/tuned/bringup/tuned.conf"
GRUB_FILE = "/etc/default/grub.d/90-bringup.cfg"
"""Read after the files of images (50-cloudimg-settings.cfg on Ubuntu), which set the same variable."""
_APPLIED = ("sysctl", "sysfs", "irq")
_TUNED_NAMES = {
    "cpu_governor": ("cpu", "governor"),
    "cpu_energy_performance_preference": ("cpu", "energy_performance_preference"),
    "transparent_hugepage": ("vm", "transparent_hugepages"),
}
"""Plug-in and option of tuned 2.20 (plugins/plugin_cpu.py, plugin_vm.py)."""
_FIRST = ("smt", "cpu_governor")
"""SMT takes CPUs with their files away; the governor decides which preferences are taken."""


class AppliedSetting(Frozen):
    """One setting that bringup makes on the host."""

    key: str
    kind: str
    value: str
    paths: tuple[str, ...]
    """Files of the kernel that hold it, as shell patterns."""


class TuningPlan(Frozen):
    """All of them, and who else has a say on this host."""

    settings: tuple[AppliedSetting, ...] = ()
    banned_cpus: str = ""
    """What irqbalance is kept from: all CPUs but those for interrupts; empty where it does not run or interrupts stay."""
    by_owner: bool = False
    """Whether the owner of the machine makes them: a container without systemd writes down what they should be, and sets none."""
    tuned_profile: str | None = None
    """Profile of tuned that ours includes; None where tuned does not run or there is nothing that it has a say in."""

    kernel_parameters: tuple[str, ...] = ()
    """Words added to the kernel's command line, from the next boot on."""

    @property
    def tuned_sections(self) -> dict[str, dict[str, str]]:
        """The settings that tuned has plug-ins for, by plug-in; what it would otherwise set against ours."""
        sections: dict[str, dict[str, str]] = {}
        for setting in self.settings:
            if setting.kind == "sysctl":
                sections.setdefault("sysctl", {})[setting.key] = setting.value
            elif setting.key in _TUNED_NAMES:
                section, name = _TUNED_NAMES[setting.key]
                sections.setdefault(section, {})[name] = setting.value
        return sections

    @property
    def at_boot(self) -> bool:
        """Whether a unit must set values at boot: sysctls have systemd's own way."""
        return not self.by_owner and any(setting.kind != "sysctl" for setting in self.settings)

    def record(self) -> str:
        """Return /etc/bringup/tuning.json."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def plan_tuning(host: Iterable[HostSetting], facts: HostFacts, kernel_parameters: tuple[str, ...] = ()) -> TuningPlan:
    """Gather what is set.

    Args:
        host: the host's settings, those that are merely offered among them.
        facts: the host.
        kernel_parameters: of the inventory; a container has no command line of its own.
    """
    chosen = [setting for setting in host if setting.state == "set" and setting.kind in _APPLIED]
    chosen.sort(key=lambda setting: _FIRST.index(setting.key) if setting.key in _FIRST else len(_FIRST))
    interrupts = next((parse_cpu_list(setting.value) for setting in chosen if setting.kind == "irq"), None)
    banned: tuple[int, ...] = ()
    if interrupts is not None and facts.tuning.irqbalance:
        every = facts.cpu.online or facts.cpu.usable
        banned = tuple(cpu for cpu in every if cpu not in interrupts or cpu in facts.tuning.irqbalance_banned)
    return TuningPlan(
        settings=tuple(
            AppliedSetting(key=setting.key, kind=setting.kind, value=setting.value, paths=setting.paths) for setting in chosen
        ),
        banned_cpus=format_cpu_list(banned),
        by_owner=facts.init != "systemd",
        kernel_parameters=() if facts.system.container is not None else kernel_parameters,
        tuned_profile=facts.tuning.tuned_profile if any(setting.kind != "irq" for setting in chosen) else None,
    )
