"""The host's settings from the plan: made now, at each boot, read back; put back as they were where the plan has none.

What this host's kernel refuses was told by preflight and stops nothing.
"""

from io import StringIO

from pyinfra import host, logger
from pyinfra.api import deploy
from pyinfra.operations import files, server

from bringup.plan import Plan
from bringup.plan.tuning import GRUB_FILE, SYSCTL_FILE, TUNED_FILE, TUNING_FILE, UNIT, UNIT_FILE
from bringup.verify.compare import KERNEL, compare_settings
from deploys.compare import differs
from deploys.context import Context
from deploys.operations import streamed_shell, verify_tuning
from deploys.render import render
from facts.tuning import HostReading

_IRQBALANCE_ENVIRONMENT = "/etc/bringup/irqbalance.env"
_IRQBALANCE_FILE = "/etc/systemd/system/irqbalance.service.d/bringup.conf"
_FOLDERS = tuple(path.rpartition("/")[0] for path in (TUNING_FILE, TUNED_FILE, _IRQBALANCE_FILE, GRUB_FILE))
"""Those that may not be there."""
_TUNE = f"/opt/bringup/bin/bringup-host tune {TUNING_FILE}"


@deploy("Tuning")
def tuning(context: Context) -> None:
    """Make the settings that differ, and leave no trace of those that the plan no longer has."""
    plan, before = context.plan, context.facts.tuning
    wanted = _wanted_files(plan)
    stale = [path for path in before.files if path not in wanted]
    forgotten = sorted(before.found.keys() - {setting.key for setting in plan.tuning.settings})
    if not wanted and not forgotten:
        _remove(stale, before.unit_enabled)
        return

    # an empty list is what puts everything back
    for path, content in ({TUNING_FILE: plan.tuning.record()} | wanted).items():
        folder = path.rpartition("/")[0]
        if folder in _FOLDERS:
            files.directory(name=f"Make {folder}", path=folder, user="root", group="root", mode="755")
        files.put(name=f"Write {path}", src=StringIO(content), dest=path, mode="644", create_remote_dir=False)
    if plan.tuning.by_owner:
        host.log("the host's settings are its owner's to make; what is asked for is listed above", logger.info)
        return
    differing = _differing(context)
    if GRUB_FILE in wanted and (KERNEL in differing or differs(GRUB_FILE, wanted[GRUB_FILE])):
        server.shell(
            name=f"Add {' '.join(plan.tuning.kernel_parameters)} to the kernel's command line, from the next boot on",
            # without its file it is done again by a repeated run; GRUB's menu is left as it was
            commands=[f"update-grub || {{ rm -f {GRUB_FILE}; exit 1; }}"],
        )
    changes = [*(text for key, text in differing.items() if key != KERNEL), *(f"{key} back as it was" for key in forgotten)]
    if changes:
        streamed_shell(name=f"Set {', '.join(changes)}", command=_TUNE)
    if UNIT_FILE in wanted and (not before.unit_enabled or differs(UNIT_FILE, wanted[UNIT_FILE])):
        server.shell(
            name=f"Set them at each boot ({UNIT})", commands=["systemctl daemon-reload", f"systemctl enable --quiet {UNIT}"]
        )
    _remove(stale if wanted else [*stale, TUNING_FILE], before.unit_enabled)
    if changes and plan.tuning.settings:
        verify_tuning(name="Read the settings back", request=plan.tuning)


def _wanted_files(plan: Plan) -> dict[str, str]:
    tuning = plan.tuning
    wanted = {}
    if tuning.settings or tuning.kernel_parameters:
        wanted[TUNING_FILE] = tuning.record()
    if tuning.kernel_parameters:
        wanted[GRUB_FILE] = render("grub.cfg.j2", plan)
    if plan.sysctls:
        wanted[SYSCTL_FILE] = render("90-bringup.conf.j2", plan)
    if tuning.at_boot:
        wanted[UNIT_FILE] = render("bringup-tuning.service.j2", plan)
    if tuning.banned_cpus:
        wanted[_IRQBALANCE_ENVIRONMENT] = render("irqbalance.env.j2", plan)
        wanted[_IRQBALANCE_FILE] = render("irqbalance.conf.j2", plan)
    if tuning.tuned_profile:
        wanted[TUNED_FILE] = render("tuned.conf.j2", plan)
    return wanted


def _differing(context: Context) -> dict[str, str]:
    """What is another value than the plan's and can be set: read now, or from the probe where nothing can read it yet."""
    plan = context.plan
    if not plan.tuning.settings and not plan.tuning.kernel_parameters:
        return {}
    reading = host.get_fact(HostReading, request=plan.tuning)
    if reading is None:
        settings = {setting.key: setting for setting in plan.host}
        every = [settings[applied.key] for applied in plan.tuning.settings]
        return {s.key: f"{s.key} {s.now or 'unknown'} → {s.value}" for s in every if s.now != s.value and s.writable is not False}
    checks = compare_settings(reading)
    drift = {check.subject: f"{check.subject} {check.found} → {check.expected}" for check in checks if check.status == "drift"}
    if not drift:
        host.log(f"{len(checks)} settings were read back: in order as far as they can be set from here", logger.info)
    return drift


def _remove(paths: list[str], unit_enabled: bool) -> None:
    """Take away what an earlier plan wrote, for this boot and the next."""
    if UNIT_FILE in paths and unit_enabled:
        server.shell(name=f"Set nothing at boot ({UNIT})", commands=[f"systemctl disable --quiet {UNIT}"])
    if GRUB_FILE in paths:
        kept = f"{GRUB_FILE}.kept"  # GRUB reads *.cfg alone
        server.shell(
            name=f"Take {GRUB_FILE} off the kernel's command line, from the next boot on",
            commands=[f"mv {GRUB_FILE} {kept}; update-grub || {{ mv {kept} {GRUB_FILE}; exit 1; }}; rm {kept}"],
        )
        paths = [path for path in paths if path != GRUB_FILE]
    for path in paths:
        files.file(name=f"Remove {path}", path=path, present=False)
    commands = [
        f"rmdir --ignore-fail-on-non-empty {path.rpartition('/')[0]}" for path in (TUNED_FILE, _IRQBALANCE_FILE) if path in paths
    ]
    if any("/systemd/" in path for path in paths):
        commands.append("systemctl daemon-reload")
    if any("irqbalance" in path for path in paths):
        commands.append("systemctl try-restart irqbalance.service")
    if commands:
        server.shell(name="Have the removed files forgotten", commands=commands)
