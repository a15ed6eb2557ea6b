"""What is wrong with NVIDIA's driver, now and after the next reboot."""

from bringup.findings.finding import Finding, note, problem, warning
from bringup.hardware import HostFacts
from bringup.onhost.gpu.xid import meaning_of, parse_xids


def driver_findings(facts: HostFacts) -> list[Finding]:
    """Look at the driver that runs, at the one that the next boot would find, and at what may replace it."""
    return [*_running(facts), *_next_boot(facts), *_upgrades(facts)]


def _running(facts: HostFacts) -> list[Finding]:
    findings = []
    silent = facts.unknown.get("nvidia-smi")
    if silent and "version mismatch" in silent.lower():
        loaded = facts.nvidia.running_version or "of unknown version"
        findings.append(
            problem(
                "driver-mismatch",
                f"the loaded kernel module ({loaded}) and the driver's library differ, as after an upgrade: reboot, or stop what "
                "uses the cards and load the module anew",
                "nothing new can use the cards; what runs goes on until it is restarted",
            )
        )
    elif silent:
        findings.append(problem("driver-silent", f"the driver does not answer: {silent}"))
    xid = facts.nvidia.xid_errors
    if xid:
        findings.append(_xid(xid))
    if facts.system.secure_boot and facts.gpus and facts.nvidia.running_version is None:
        text = "Secure Boot is on: only a driver module that is signed with a key of this machine will load"
        findings.append(note("secure-boot", text))
    return findings


def _xid(lines: tuple[str, ...]) -> Finding:
    text = f"the kernel log has {len(lines)} errors of the cards (Xid), newest: {lines[-1]}"
    events = parse_xids(lines[-1])
    if not events:
        return warning("gpu-xid", text)
    meaning = meaning_of(events[-1].number)
    return warning("gpu-xid", f"{text} ({meaning.what}): {meaning.fix}")


def _next_boot(facts: HostFacts) -> list[Finding]:
    running = facts.nvidia.running_version
    installed = next((module.nvidia_version for module in facts.nvidia.modules if module.running), None)
    if running is None:
        holders = {gpu.kernel_driver for gpu in facts.gpus}
        if installed is None or "nvidia" in holders or not holders & {"nouveau", None}:
            return []
        held = "nouveau holds the card" if "nouveau" in holders else "nothing holds the card"
        return [
            warning("driver-reboot", f"driver {installed} is installed and does not run ({held}): reboot, or run bringup again")
        ]
    findings = []
    without = [module.kernel for module in facts.nvidia.modules if module.nvidia_version is None and not module.running]
    if without:
        findings.append(
            warning(
                "next-boot-no-driver",
                f"kernel {', '.join(without)} is installed without NVIDIA's module: install its headers and run dkms autoinstall "
                "-k KERNEL, or the matching linux-modules-nvidia package",
                "nothing is served after a boot into it",
            )
        )
    if installed not in (None, "unknown", running):
        text = f"module {running} is loaded and {installed} is installed: the next reboot changes the driver"
        findings.append(warning("driver-reboot", text))
    return findings


def _upgrades(facts: HostFacts) -> list[Finding]:
    prefixes = ("nvidia-", "libnvidia-", "linux-modules-nvidia-")
    driver = {name for name in facts.nvidia.packages if name.startswith(prefixes)}
    if not facts.system.unattended_upgrades or not driver - set(facts.system.package_holds or ()):
        return []
    return [
        warning(
            "driver-upgrades-itself",
            "unattended-upgrades may replace the NVIDIA driver, whose packages are not on hold",
            "until the next reboot its library then differs from the loaded module: a server that restarts does not come up",
        )
    ]
