"""The NVIDIA driver: repository, packages in one transaction, nouveau out of the way, holds; loaded, or rebooted into."""

import base64
import hashlib
import re
from io import StringIO
from pathlib import Path

from pyinfra import host, logger
from pyinfra.api import deploy
from pyinfra.facts.deb import DebPackages
from pyinfra.facts.files import File, Sha256File
from pyinfra.operations import files

from bringup.plan.driver import KEYRING, DriverPlan
from bringup.probe.sections import bounded_function
from deploys.compare import differs
from deploys.context import Context
from deploys.operations import activate_driver, hidden_file, streamed_shell
from deploys.render import render
from deploys.script import shell_command

SCRIPT = Path(__file__).with_name("driver.sh")
SOURCES = "/etc/apt/sources.list.d/bringup-nvidia.sources"
PINS = "/etc/apt/preferences.d/bringup-nvidia"
FENCE = "/etc/apt/apt.conf.d/52bringup-nvidia"
BLACKLIST = "/etc/modprobe.d/bringup-nvidia.conf"
STATE = "/var/lib/bringup/driver"


@deploy("Driver")
def driver(context: Context) -> bool:
    """Make the driver what the plan says; where it says nothing, a working driver is left alone.

    Returns whether another driver is made to run.
    """
    plan = context.plan.driver
    if plan is None:
        return False
    if plan.below_need is not None:
        host.log(plan.below_need, logger.warning)
    if plan.state == "absent":
        _remove(context, plan)
        return False
    return _install(context, plan)


def _install(context: Context, plan: DriverPlan) -> bool:
    source, key = _repository(context, plan)
    blacklist, fence = render("nvidia.modprobe.j2", context.plan), render("nvidia.unattended.j2", context.plan)
    blacklist_differs = differs(BLACKLIST, blacklist)
    reasons = _reasons(context, plan)
    if reasons:
        pins = render("nvidia.preferences.j2", context.plan)
        streamed_shell(
            name=f"Install {' '.join(plan.packages)} ({'; '.join(reasons)})",
            command=_script(context, plan, "install_driver", pins=pins, source=source, key=key),
        )
    _keep_repository(context, source)
    # only now: without NVIDIA's driver a host needs nouveau for its screen
    for path, content in ((FENCE, fence), (BLACKLIST, blacklist)):
        files.put(name=f"Write {path}", src=StringIO(content), dest=path, mode="644", create_remote_dir=False)
    if blacklist_differs or context.facts.nvidia.stale_initrds:
        streamed_shell(
            name="Take nouveau out of the initial RAM disks", command=_script(context, plan, "rebuild_initramfs outdated")
        )
    activates = bool(reasons) or not _runs(context, plan)
    if activates:
        activate_driver(name="Load the driver, or reboot for it", status_script=_script(context, plan, "driver_status"), plan=plan)
    return activates


def _repository(context: Context, plan: DriverPlan) -> tuple[str, str]:
    """Try out the repository, unless it is in place already; returns its source and its key in base64, as the script takes them."""
    if not plan.sources:
        return "", ""
    source, key = render("nvidia.sources.j2", context.plan), context.nvidia_key or b""
    encoded = base64.b64encode(key).decode()
    if differs(SOURCES, source) or (key and _checksum(KEYRING) != hashlib.sha256(key).hexdigest()):
        streamed_shell(
            name=f"Try out the driver's repository {' '.join(dict.fromkeys(source.uri for source in plan.sources))}",
            command=_script(context, plan, "check_repository", source=source, key=encoded),
        )
    return source, encoded


def _keep_repository(context: Context, source: str) -> None:
    """Leave the repository in place once something came from it; an earlier one goes where none is set any more."""
    key = context.nvidia_key or b""
    if key:
        files.directory(name="Make /etc/apt/keyrings", path="/etc/apt/keyrings", mode="755")
        hidden_file(name=f"Put {KEYRING}", content=key, dest=KEYRING, mode="644")
    for path, wanted in ((KEYRING, bool(key)), (SOURCES, bool(source))):
        if not wanted:
            files.file(name=f"Remove {path}", path=path, present=False)
    if source:
        files.put(name=f"Write {SOURCES}", src=StringIO(source), dest=SOURCES, mode="644", create_remote_dir=False)


def _checksum(path: str) -> str | None:
    checksum: str | None = host.get_fact(Sha256File, path=path)
    return checksum


def _reasons(context: Context, plan: DriverPlan) -> list[str]:
    """Why the packages are not as the plan has them; empty when they are."""
    facts = context.facts
    versions = {name: next(iter(found)) for name, found in (host.get_fact(DebPackages) or {}).items()}
    reasons = []
    if facts.system.broken_packages:
        reasons.append(f"half installed: {' '.join(facts.system.broken_packages)}")
    if missing := [name for name in plan.packages if name not in versions]:
        reasons.append("nothing of it is installed" if len(missing) == len(plan.packages) else f"missing: {' '.join(missing)}")
    of_driver = [name for name in plan.packages if name in versions and not name.startswith("linux-")]
    if other := [f"{name} {versions[name]}" for name in of_driver if not plan.is_met_by(_upstream(versions[name]))]:
        reasons.append(f"another version: {', '.join(other)}")
    if of_driver and not missing:
        if plan.hold and (free := [name for name in of_driver if name not in (facts.system.package_holds or ())]):
            reasons.append(f"not on hold: {' '.join(free)}")
        if differs(PINS, render("nvidia.preferences.j2", context.plan)):
            reasons.append(f"{PINS} differs")
        without = [m.kernel for m in facts.nvidia.modules if m.nvidia_version is None and (m.running or m.headers)]
        if without:
            reasons.append(f"kernel {' '.join(without)} has no module")
    return reasons


def _upstream(version: str) -> str:
    """A package's version without epoch and the distribution's part: ``580.95.05``."""
    match = re.match(r"(?:[0-9]+:)?([0-9.]*[0-9])", version)
    return match[1] if match else version


def _runs(context: Context, plan: DriverPlan) -> bool:
    """Whether what is loaded and what answers is what the plan asks for, as far as the probe saw."""
    facts = context.facts
    answering = next((gpu.driver_version for gpu in facts.gpus if gpu.pci_address == context.plan.gpu), None)
    loaded = facts.nvidia.running_version
    if loaded is None or answering is None or "nvidia-smi" in facts.unknown:
        return False
    built = [module.nvidia_version for module in facts.nvidia.modules if module.running]
    return loaded == answering and plan.is_met_by(loaded) and all(version in (None, "unknown", loaded) for version in built)


def _remove(context: Context, plan: DriverPlan) -> None:
    had_repository = host.get_fact(File, path=SOURCES) is not None
    streamed_shell(name="Remove the driver's packages", command=_script(context, plan, "remove_driver"))
    for path in (SOURCES, KEYRING, PINS, FENCE, BLACKLIST):
        files.file(name=f"Remove {path}", path=path, present=False)
    if had_repository:
        streamed_shell(name="Forget what the repository had", command=_script(context, plan, "refresh_lists"))
    # also where an earlier run was cut after the blacklist had gone
    streamed_shell(name="Make the initial RAM disks anew", command=_script(context, plan, "rebuild_initramfs all"))
    if context.facts.nvidia.running_version is not None:
        activate_driver(name="Reboot without bringup's driver", status_script=_script(context, plan, "driver_status"), plan=plan)
    streamed_shell(name=f"Remove {STATE}", command=f"rm -rf {STATE} && {{ rmdir /var/lib/bringup 2>/dev/null || true; }}")


def _script(context: Context, plan: DriverPlan, call: str, pins: str = "", source: str = "", key: str = "") -> str:
    """The shell command that does one part of the work on the host."""
    variables = {
        "wait_s": str(context.settings.apt_wait_s),
        "wanted": plan.wanted_version,
        "packages": " ".join(plan.packages),
        "prefix": plan.kernel_package_prefix,
        "hold": "yes" if plan.hold else "no",
        "pins": base64.b64encode(pins.encode()).decode(),
        "source": base64.b64encode(source.encode()).decode(),
        "key": key,
    }
    return shell_command(variables, bounded_function(), SCRIPT.read_text(encoding="utf-8"), call)
