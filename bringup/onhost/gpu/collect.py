"""Reads the running machine; nothing here judges."""

import grp
import os
import pwd
import re
import stat
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from bringup.onhost.gpu.bounded import Outcome, run_bounded
from bringup.onhost.gpu.model import DrivenCard, Exercise, Node, PciCard, Readings
from bringup.onhost.gpu.parse import SMI_FIELDS, parse_exercise, parse_link, parse_smi, upstream
from bringup.onhost.manager import service_manager

SMI_LIMIT_S = 30.0
LOG_LIMIT_S = 30.0
EXERCISE_LIMIT_S = 240.0
"""Loading PyTorch from a slow disk takes a minute, initialising eight cards another."""
COPY_S = 1.5
"""Of copying, in each direction."""
CONTEXT_MIB = 1024
"""Free memory below which the cards are left alone: a CUDA context takes some 530 MiB (0.52 GiB on an H100, 2026-11-24)."""
SYSFS = Path("/sys")
PROC = Path("/proc")
DEV = Path("/dev")

# what must be of one version with the kernel module: the libraries, the tools and the module's own package
_DRIVER_PACKAGE = re.compile(
    r"(libnvidia-(compute|ml1|cfg1)(-[0-9].*)?|libcuda1|nvidia-(utils|driver|dkms|kernel|smi|compute-utils)(-.*)?)"
)


def collect(python: str | None, user: str | None, environment: Mapping[str, str]) -> Readings:
    """Look at the machine.

    Args:
        python: the engine's Python; None leaves the cards alone.
        user: whom to run it as, as the service does; needs root. A user that is not there yet is stood for by ``nobody``.
        environment: variables of the service that the exercise needs, over one's own.
    """
    smi_outcome, smi, smi_error = _smi()
    serving = service_manager().state() == "active"
    before, log_error = _kernel_log()
    exercise, skipped, ran_as = None, None, None
    if python is None:
        skipped = "no Python of an engine was named"
    elif smi_error is not None:
        skipped = "nvidia-smi gave no list of cards"
    elif serving and min((card.free_mib or 0 for card in smi), default=0) < CONTEXT_MIB:
        skipped = "vllm.service has the card's memory"
    else:
        ran_as = _existing(user)
        exercise = _exercise(python, ran_as, environment, 0 if serving else COPY_S)
    nodes, missing = _nodes(len(smi), ran_as or _existing(user))
    # once more, since the exercise loads what is loaded on demand
    after, _ = _kernel_log()
    return Readings(
        smi=smi,
        smi_error=smi_error,
        smi_hangs=smi_outcome.timed_out,
        cards=_pci_cards(),
        module_version=_module_version(),
        library_version=_library_version(),
        packages=_packages(),
        nodes=nodes,
        missing_nodes=missing,
        log_before=before,
        log_after=after,
        log_error=log_error,
        serving=serving,
        user=ran_as,
        exercise=exercise,
        exercise_skipped=skipped,
    )


def _smi() -> tuple[Outcome, tuple[DrivenCard, ...], str | None]:
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    outcome = run_bounded(command, SMI_LIMIT_S)
    if outcome.missing:
        return outcome, (), "nvidia-smi is not installed"
    if outcome.timed_out:
        return outcome, (), f"nvidia-smi did not answer within {SMI_LIMIT_S:.0f} s"
    if not outcome.ok:
        return outcome, (), " ".join(outcome.text.split())[:300] or f"nvidia-smi ended with status {outcome.code}"
    try:
        return outcome, parse_smi(outcome.text), None
    except ValueError as error:
        return outcome, (), str(error)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _pci_cards() -> tuple[PciCard, ...]:
    cards = []
    for device in sorted((SYSFS / "bus/pci/devices").glob("*")):
        if _read(device / "vendor") != "0x10de" or not _read(device / "class").startswith("0x03"):
            continue
        holder = device / "driver"
        port = device.resolve().parent
        slot = parse_link(_read(port / "max_link_speed"), _read(port / "max_link_width"))
        cards.append(
            PciCard(
                address=device.name.lower(),
                pci_id=f"10de:{_read(device / 'device').removeprefix('0x').lower()}",
                holder=holder.resolve().name if holder.is_symlink() else None,
                now=parse_link(_read(device / "current_link_speed"), _read(device / "current_link_width")),
                best=parse_link(_read(device / "max_link_speed"), _read(device / "max_link_width")),
                slot=slot if slot.generation or slot.lanes else None,
            )
        )
    return tuple(cards)


def _module_version() -> str | None:
    found = re.search(r"(?:^|\s)([0-9]{3,4}\.[0-9.]+)", _read(PROC / "driver/nvidia/version"))
    return _read(SYSFS / "module/nvidia/version") or (found[1] if found else None)


def _library_version() -> str | None:
    listed = run_bounded(["ldconfig", "-p"], 10).text or run_bounded(["/sbin/ldconfig", "-p"], 10).text
    match = re.search(r"libcuda\.so\.1 \(.*x86-64.*\) => (\S+)", listed)
    found = re.fullmatch(r"libcuda\.so\.([0-9.]+)", Path(match[1]).resolve().name) if match else None
    return found[1] if found and "." in found[1] else None


def _packages() -> dict[str, str]:
    listed = run_bounded(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Package}|${Version}\\n"], 20).text
    rows = (line.split("|") for line in listed.splitlines() if line[1:2] == "i" and line.count("|") == 2)
    found = {name: upstream(version) for _, name, version in rows if _DRIVER_PACKAGE.fullmatch(name)}
    # helpers have versions of their own: nvidia-kernel-common 20220217, nvidia-driver-assistant 0.22
    return {name: version for name, version in found.items() if re.match(r"[0-9]{3}\.[0-9]", version)}


def _existing(user: str | None) -> str | None:
    """The user, or one with as few rights while it is not there yet; None where only root could change to it."""

    if user is None or os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(user).pw_name
    except KeyError:
        return "nobody"


def _nodes(cards: int, user: str | None) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """The device nodes that CUDA opens, and those of them that are not there."""
    wanted = ["nvidiactl", "nvidia-uvm", *(f"nvidia{index}" for index in range(cards))]
    account = pwd.getpwnam(user) if user else None
    nodes, missing = [], []
    for name in wanted:
        path = DEV / name
        try:
            status = path.stat()
        except OSError:
            missing.append(str(path))
            continue
        bits = stat.S_IMODE(status.st_mode)
        if account is None:
            usable = os.access(path, os.R_OK | os.W_OK)
        else:
            shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid in _groups_of(account.pw_name) else 0
            usable = (bits >> shift) & 0o6 == 0o6
        try:
            owner = f"{pwd.getpwuid(status.st_uid).pw_name}:{grp.getgrgid(status.st_gid).gr_name}"
        except KeyError:
            owner = f"{status.st_uid}:{status.st_gid}"
        nodes.append(Node(path=str(path), usable=usable, mode=f"{bits:03o} {owner}"))
    return tuple(nodes), tuple(missing)


def _kernel_log() -> tuple[str, str | None]:
    """Lines of this boot's kernel log that are NVIDIA's, and why there are none to be had."""
    for command in (["journalctl", "-k", "-b", "--no-pager", "-q", "-o", "short-monotonic"], ["dmesg"]):
        outcome = run_bounded(command, LOG_LIMIT_S)
        if outcome.ok and outcome.text:
            # two lines after each: the driver breaks some of its messages
            lines = outcome.text.splitlines()
            near = {index + after for index, line in enumerate(lines) if "NVRM" in line for after in range(3)}
            return "\n".join(line for index, line in enumerate(lines) if index in near), None
        reason = "it takes too long" if outcome.timed_out else " ".join(outcome.text.split())[:200] or "it is empty"
    return "", f"{command[0]}: {reason}"


def _exercise(python: str, user: str | None, environment: Mapping[str, str], copy_s: float) -> Exercise:
    source = files("bringup.onhost.gpu").joinpath("exercise.py").read_text(encoding="utf-8")
    command = [python, "-c", source, str(copy_s)]
    own = dict(os.environ) | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | dict(environment)
    if user is not None:
        # as the unit has it: no setuid program (nvidia-modprobe) may help with device nodes
        groups = ",".join(map(str, _groups_of(user)))
        command = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={pwd.getpwnam(user).pw_gid}",
            f"--groups={groups}",
            "--no-new-privs",
            "--",
            *command,
        ]
        own["HOME"] = environment.get("HOME", "/nonexistent")
    return parse_exercise(run_bounded(command, EXERCISE_LIMIT_S, own))


def _groups_of(user: str) -> list[int]:
    """The groups that the service has: the user's own, and video, which vllm.service adds (templates/vllm.service.j2)."""
    own = pwd.getpwnam(user).pw_gid
    return sorted({own, *(group.gr_gid for group in grp.getgrall() if group.gr_name == "video" or user in group.gr_mem)})
