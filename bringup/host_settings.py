"""Settings of the host that an inventory may ask for (`host_settings`), and which values they take.

A value is the setting's own; ``set`` takes the plan's; ``keep`` leaves the setting as the machine has it.
"""

import re
from collections.abc import Mapping, Sequence

from bringup.catalog.loader import nearest
from bringup.hardware import Frozen

KEEP = "keep"
PLANNED = "set"


class HostSettingSpec(Frozen):
    """What may be asked for."""

    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    pattern: str | None = None
    words: str = ""
    """What the value must be, where `pattern` says it to programs only."""

    def problem(self, value: str) -> str | None:
        """Say what the value must be; None where it is that."""
        if value in (KEEP, PLANNED):
            return None
        if self.choices:
            return None if value in self.choices else f"allowed: {', '.join((*self.choices, PLANNED, KEEP))}"
        if self.pattern is not None:
            return None if re.fullmatch(self.pattern, value) else f"must be {self.words}, {PLANNED} or {KEEP}"
        number = int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else None
        if number is None or not (self.least or 0) <= number <= (self.most or 0):
            return f"must be a whole number from {self.least} to {self.most}, {PLANNED} or {KEEP}"
        return None


SPECS: Mapping[str, HostSettingSpec] = {
    # the generic governors of the kernel (admin-guide/pm/cpufreq.rst); userspace needs a program beside it
    "cpu_governor": HostSettingSpec(choices=("performance", "powersave", "schedutil", "ondemand", "conservative")),
    # admin-guide/pm/intel_pstate.rst and amd-pstate.rst
    "cpu_energy_performance_preference": HostSettingSpec(
        choices=("performance", "balance_performance", "default", "balance_power", "power")
    ),
    # 0 means no limit to the kernel (ABI/testing/sysfs-devices-power); no idle state takes longer than 10 ms to leave
    "cpu_idle_latency_us": HostSettingSpec(least=1, most=10_000),
    "smt": HostSettingSpec(choices=("off",)),
    "transparent_hugepage": HostSettingSpec(choices=("always", "madvise", "never")),
    "irq_affinity": HostSettingSpec(pattern=r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", words="CPUs such as 0,8-9"),
    "vm.swappiness": HostSettingSpec(least=0, most=200),  # admin-guide/sysctl/vm.rst
    "kernel.numa_balancing": HostSettingSpec(choices=("0", "1")),
    "net.core.somaxconn": HostSettingSpec(least=128, most=65_535),  # the old default, and what listen(2) took before it was an int
}
"""Key to what it takes."""

KERNEL_PARAMETERS = (
    "amd_iommu",
    "amd_pstate",
    "idle",
    "intel_idle.max_cstate",
    "intel_iommu",
    "intel_pstate",
    "iommu",
    "irqaffinity",
    "isolcpus",
    "mitigations",
    "nohz_full",
    "nosmt",
    "numa_balancing",
    "pcie_aspm",
    "processor.max_cstate",
    "rcu_nocbs",
)
"""Parameters of latency tuning (kernel documentation, admin-guide/kernel-parameters.txt); what else a kernel boots with is not
bringup's matter."""

_TOLD_ONLY: Mapping[str, str] = {
    "kernel_command_line": "it counts from a boot on: kernel_parameters, beside host_settings, adds words to it",
    "iommu": 'it belongs to the kernel\'s command line: kernel_parameters=["iommu=pt"], beside host_settings',
    "gpu_power_limit_w": "it is a setting of its own, beside host_settings",
    "memlock": "the unit's own limit, which nothing here needs (bringup plan --explain memlock)",
    "nofile": "the unit sets it always",
}
"""Looked at and told, never set by `host_settings`; each with what to do."""


def host_settings_problems(wishes: Mapping[str, str]) -> list[str]:
    """List what is wrong with an inventory's `host_settings`, a sentence each."""
    problems = []
    for key, value in wishes.items():
        if key in _TOLD_ONLY:
            problems.append(f"host_settings: {key} is not set by it: {_TOLD_ONLY[key]}")
        elif key not in SPECS:
            problems.append(f"host_settings: unknown setting '{key}': {nearest(key, SPECS)}")
        elif problem := SPECS[key].problem(value):
            problems.append(f"host_settings: {key} is '{value}'; {problem}")
    return problems


def kernel_parameters_problem(words: Sequence[str]) -> str | None:
    """Say what is wrong with an inventory's `kernel_parameters`; None where nothing is.

    A wrong word can cost a machine its boot, so that none but those of latency tuning are taken.
    """
    for word in words:
        name, _, value = word.partition("=")
        if name not in KERNEL_PARAMETERS:
            return f"'{word}' is not one that bringup adds to a kernel's command line: {nearest(name, KERNEL_PARAMETERS)}"
        if not re.fullmatch(r"[A-Za-z0-9_,.:-]*", value):
            return f"'{word}' has a value that is none of a kernel parameter's"
    doubled = sorted({word for word in words if words.count(word) > 1})
    return f"'{doubled[0]}' is named twice" if doubled else None
