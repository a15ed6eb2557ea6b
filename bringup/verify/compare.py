"""From a reading to checks: each setting, unit and process, in order or not, and what to do."""

import re
from collections.abc import Iterator
from typing import Literal

from bringup.cpu_list import format_cpu_list, parse_cpu_list
from bringup.hardware import Frozen
from bringup.onhost.supervisor import CONTROL, LOG, PROGRAM
from bringup.plan.host import owner_command
from bringup.plan.tuning import AppliedSetting
from bringup.verify.reading import PlannedService, ProcessReading, Reading

Status = Literal["ok", "drift", "cannot", "reboot"]
"""``drift``: another value than the plan's, which the next run repairs. ``cannot``: it cannot be set from inside this host.
``reboot``: it is set, and counts from the next boot on."""
KERNEL = "kernel command line"

_ELSEWHERE = 0.05
"""Part of a bound process's own memory that may lie on other nodes: what it shares with the process that started it was made
before it was bound. Judgement."""


class Check(Frozen):
    """One comparison."""

    subject: str
    """What was looked at: a setting's key, a unit, ``process 123 (vllm)``."""
    expected: str
    found: str
    status: Status
    why: str = ""
    """What to do, or why nothing can be done; empty where it is in order."""


def compare(reading: Reading) -> tuple[Check, ...]:
    """Compare all that a reading holds; empty where nothing was deployed to the host."""
    return (*compare_settings(reading), *_records(reading), *_units(reading), *_processes(reading))


def compare_settings(reading: Reading) -> tuple[Check, ...]:
    """Compare the settings alone."""
    if reading.request is None:
        return ()
    settings = (_setting(setting, reading, reading.request.by_owner) for setting in reading.request.settings)
    return (*settings, *_others(reading), *_kernel(reading, reading.request.kernel_parameters))


def _setting(setting: AppliedSetting, reading: Reading, by_owner: bool) -> Check:
    live = reading.settings.get(setting.key)
    values = live.files if live else {}
    if setting.kind == "irq":
        return _interrupts(setting, reading, by_owner)
    wrong = {file: value for file, value in values.items() if value != setting.value}
    found = ", ".join(sorted(set(values.values())))
    if not values:
        why = "the kernel has no such file any more: the next run plans without it"
        return Check(subject=setting.key, expected=setting.value, found="not there", status="drift", why=why)
    if not wrong:
        return Check(subject=setting.key, expected=setting.value, found=found, status="ok")
    if live and (by_owner or not live.writable):
        why = f"its owner can set it on the machine{owner_command(setting.key, setting.kind, setting.value, setting.paths)}"
        return Check(subject=setting.key, expected=setting.value, found=found, status="cannot", why=why)
    where = f" ({next(iter(wrong))}{' and more' if len(wrong) > 1 else ''})" if len(values) > 1 else ""
    return Check(
        subject=setting.key, expected=setting.value, found=f"{found}{where}", status="drift", why="the next run sets it again"
    )


def _interrupts(setting: AppliedSetting, reading: Reading, by_owner: bool) -> Check:
    allowed = set(parse_cpu_list(setting.value))
    live = reading.settings.get(setting.key)
    away = {file: cpus for file, cpus in (live.files if live else {}).items() if not set(parse_cpu_list(cpus)) <= allowed}
    expected = f"CPUs {setting.value}"
    drifted = {file: cpus for file, cpus in away.items() if file not in reading.refused}
    if drifted and live and (by_owner or not live.writable):
        return Check(
            subject=setting.key,
            expected=expected,
            found=f"{len(drifted)} elsewhere",
            status="cannot",
            why="its owner can move them",
        )
    if drifted:
        shown = ", ".join(f"{_number(file)} on {cpus}" for file, cpus in list(drifted.items())[:4])
        more = " …" if len(drifted) > 4 else ""
        return Check(
            subject=setting.key,
            expected=expected,
            found=f"interrupts elsewhere: {shown}{more}",
            status="drift",
            why="the next run moves them again",
        )
    kept = [f"{_number(file)} ({reading.refused[file]})" for file in away]
    return Check(
        subject=setting.key,
        expected=expected,
        found="all that can be moved" if kept else expected,
        status="ok",
        why=f"the kernel keeps {len(kept)} where they are: {', '.join(kept[:6])}{' …' if len(kept) > 6 else ''}" if kept else "",
    )


def _number(file: str) -> str:
    found = re.search(r"/irq/(\d+)/", file)
    return found[1] if found else file


def _kernel(reading: Reading, words: tuple[str, ...]) -> Iterator[Check]:
    if not words:
        return
    expected, running = " ".join(words), " ".join(reading.kernel.running) or "none of it"
    status: Status = "ok"
    why = ""
    if set(reading.kernel.next_boot) != set(words):
        status, why = "drift", "GRUB's menu would start the next kernel without it: the next run writes that anew"
    elif set(reading.kernel.running) != set(words):
        status, why = "reboot", "the running kernel was started before: reboot the host"
    yield Check(subject=KERNEL, expected=expected, found=running, status=status, why=why)


def _others(reading: Reading) -> Iterator[Check]:
    """Programs that would set the same things otherwise."""
    request = reading.request
    if request is None:
        return
    if request.banned_cpus and reading.irqbalance_banned is not None:
        same = set(parse_cpu_list(request.banned_cpus)) <= _cpus(reading.irqbalance_banned)
        yield Check(
            subject="irqbalance",
            expected=f"keeps away from {request.banned_cpus}",
            found=f"keeps away from {reading.irqbalance_banned or 'none'}",
            status="ok" if same else "drift",
            why="" if same else "the next run restarts it with its list",
        )
    if request.tuned_profile is not None:
        same = reading.tuned_profile == "bringup"
        yield Check(
            subject="tuned",
            expected="profile bringup",
            found=f"profile {reading.tuned_profile or 'none'}",
            status="ok" if same else "drift",
            why="" if same else "the next run activates it again",
        )


def _cpus(text: str) -> set[int]:
    try:
        return set(parse_cpu_list(text))
    except ValueError:
        return set()


def _records(reading: Reading) -> Iterator[Check]:
    """What the plan sets must be what was applied."""
    planned = reading.plan.tuning if reading.plan else None
    if planned is None:
        return
    applied = {setting.key: setting.value for setting in reading.request.settings} if reading.request else {}
    missing = [f"{s.key}={s.value}" for s in planned.settings if applied.get(s.key) != s.value]
    if missing:
        yield Check(
            subject="/etc/bringup/tuning.json",
            expected=", ".join(missing),
            found="another value or none" if reading.applied else "the file is not there",
            status="drift",
            why="the next run writes it again",
        )


def _units(reading: Reading) -> Iterator[Check]:
    wanted = {"vllm.service": (reading.plan.enabled, "active")} if reading.plan else {}
    if reading.request is not None and reading.request.at_boot:
        # it need not have run in this boot: the deploy applies the settings itself
        wanted["bringup-tuning.service"] = ("enabled", "")
    for name, (enabled, active) in wanted.items():
        unit = reading.units.get(name, {})
        look = f"systemctl status {name}" if reading.plan is None or reading.plan.manager == "systemd" else str(LOG)
        found = [unit.get("UnitFileState") or unit.get("LoadState") or "not there", unit.get("ActiveState", "")]
        problems = []
        if found[0] != enabled:
            problems.append("it would not start at the next boot")
        if (active and found[1] != active) or found[1] == "failed":
            problems.append(f"{look} says why it is {found[1] or 'not there'}")
        if unit.get("NeedDaemonReload") == "yes":
            problems.append("its file was changed after systemd read it (systemctl daemon-reload)")
        expected = ", ".join(filter(None, (enabled, active)))
        shown = ", ".join(filter(None, found if active else found[:1]))
        yield Check(subject=name, expected=expected, found=shown, status="drift" if problems else "ok", why="; ".join(problems))


def _processes(reading: Reading) -> Iterator[Check]:
    plan = reading.plan
    if plan is None:
        return
    if not reading.processes and reading.units.get("vllm.service", {}).get("ActiveState") == "active":
        why = "nothing can be said of where they run; were they looked at with root's rights?"
        yield Check(subject="processes of vllm.service", expected="one at least", found="none seen", status="drift", why=why)
    for pid, process in sorted(reading.processes.items()):
        yield from _placement(f"process {pid} ({process.name})", process, plan, reading.most_files)


def _placement(subject: str, process: ProcessReading, plan: PlannedService, most_files: str | None) -> Iterator[Check]:
    restart = f"{_restart(plan)} places it anew"
    if plan.cpus:
        allowed = set(parse_cpu_list(plan.cpus))
        every = {cpu for cpus in process.threads for cpu in parse_cpu_list(cpus)}
        count = sum(process.threads.values())
        out = sum(n for cpus, n in process.threads.items() if not set(parse_cpu_list(cpus)) <= allowed)
        found = f"{count} threads on {format_cpu_list(tuple(sorted(every)))}"
        yield Check(
            subject=f"CPUs of {subject}",
            expected=plan.cpus,
            found=f"{found}, {out} of them elsewhere" if out else found,
            status="drift" if out else "ok",
            why=restart if out else "",
        )
    if plan.memory_nodes and process.memory is not None:
        nodes = set(parse_cpu_list(plan.memory_nodes))
        total = sum(process.memory.own_kib.values())
        away = sum(kib for node, kib in process.memory.own_kib.items() if node not in nodes)
        bound = sum(n for policy, n in process.memory.policies.items() if policy.startswith("bind"))
        places = ", ".join(f"node {node}: {kib // 1024} MiB" for node, kib in sorted(process.memory.own_kib.items()))
        wrong = away > total * _ELSEWHERE or not bound
        yield Check(
            subject=f"memory of {subject}",
            expected=f"bound to node {plan.memory_nodes}",
            found=f"{'bound' if bound else 'not bound'}; {places or 'no memory of its own'}",
            status="drift" if wrong else "ok",
            why=restart if wrong else "",
        )
    if (least := plan.limits.get("nofile")) and process.nofile is not None:
        yield _open_files(subject, least, process.nofile, most_files, _restart(plan))


def _restart(plan: PlannedService) -> str:
    return "a restart of vllm.service" if plan.manager == "systemd" else f"{' '.join(CONTROL)} restart {PROGRAM}"


def _open_files(subject: str, least: str, nofile: str, most: str | None, restart: str) -> Check:
    def number(limit: str) -> float:
        return float("inf") if limit == "unlimited" else int(limit)

    status: Status = "ok"
    why = ""
    if number(nofile) < number(least):
        capped = most is not None and number(most) <= number(nofile)
        status = "cannot" if capped else "drift"
        why = (
            f"process 1 of this host has no more itself: its owner starts it with a higher one (ulimit -Hn {least})"
            if capped
            else f"{restart} gives it the planned one"
        )
    return Check(subject=f"open files of {subject}", expected=f"{least} or more", found=nofile, status=status, why=why)
