"""Makes the settings of /etc/bringup/tuning.json, keeps what was there before, and puts that back.

What was there is kept on the first run that touches a setting, in `ORIGINAL`, and never overwritten; a setting that is no longer
asked for is put back and forgotten. So an empty request undoes everything.
"""

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bringup.cpu_list import parse_cpu_list
from bringup.errors import BringupError
from bringup.onhost.lock import lock
from bringup.onhost.reading import REFUSED, files_of, irqbalance_banned, read_value
from bringup.onhost.say import say

ORIGINAL = "var/lib/bringup/tuning/original.json"
_DEFAULT_IRQ = "/proc/irq/default_smp_affinity"
_TUNED_PROFILE = "bringup"
BOOT_PAUSE_S, BOOT_LIMIT_S = 2.0, 60.0
"""Drivers are loaded within seconds of a boot, on an emulated machine within half a minute. Judgement."""
_PROGRAM_LIMIT_S = 300
"""tuned-adm waits until the profile is applied and checked; in an emulated machine that took more than two minutes."""


def cpu_mask(cpus: set[int]) -> str:
    """CPUs as the kernel's hexadecimal mask, in groups of 32: {0, 33} → ``2,00000001``."""
    number = sum(1 << cpu for cpu in cpus)
    words = [f"{number >> shift & 0xFFFFFFFF:08x}" for shift in range(0, max(number.bit_length(), 1), 32)]
    return ",".join(reversed(words)).lstrip("0,") or "0"


class Tuning:
    """One pass over the host's settings."""

    def __init__(self, root: Path = Path("/"), at_boot: bool = False) -> None:
        """Read what was kept.

        Args:
            root: stands for /, for tests.
            at_boot: whether the machine is starting: then other programs are left to start by themselves.

        Raises:
            BringupError: what was kept is damaged: without it nothing could be put back, so that nothing is touched.
        """
        self.root = root
        self.at_boot = at_boot
        self.failed: list[str] = []
        self.refused: dict[str, str] = {}
        path = root / ORIGINAL
        self.original: dict[str, Any] = {"settings": {}}
        if path.exists():
            try:
                self.original = json.loads(path.read_text())
                self.original["settings"].items()
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise BringupError(f"/{ORIGINAL}, which holds the settings as they were, is damaged: {error}") from error

    def apply(self, request: dict[str, Any]) -> None:
        """Make the settings of a request, after what is no longer asked for was put back."""
        wanted = {setting["key"]: setting for setting in request["settings"]}
        self._keep(wanted, request.get("tuned_profile"))
        refused = self._follow_tuned(request.get("tuned_profile"))
        # second threads first, since what else was kept of them has no files before they are back
        for key in sorted((key for key in self.original["settings"] if key not in wanted), key=lambda key: key != "smt"):
            self._put_back(key)
        for setting in wanted.values():
            if setting["kind"] == "irq":
                self._move_interrupts(setting, request.get("banned_cpus", ""))
            else:
                for path in files_of(setting, self.root):
                    self._write(setting["key"], path, setting["value"])
        self._save()
        if refused is not None:
            raise refused

    def _keep(self, wanted: dict[str, Any], tuned_profile: str | None) -> None:
        """Write down what is there, before anything is changed."""
        for key, setting in wanted.items():
            first = key not in self.original["settings"]
            kept = self.original["settings"].setdefault(key, {})
            files = files_of(setting, self.root)
            if setting["kind"] == "irq" and first:
                files.append(self.root / _DEFAULT_IRQ.lstrip("/"))
            # an interrupt that came later began with our default, and has nothing of its own to go back to
            for path in files if first or setting["kind"] != "irq" else []:
                value = read_value(path)
                if value is not None:
                    kept.setdefault(f"/{path.relative_to(self.root)}", value)
        if tuned_profile and "tuned" not in self.original:
            mode = read_value(self.root / "etc/tuned/profile_mode")
            self.original["tuned"] = {"profile": tuned_profile, "mode": mode or "manual"}
        self._save()

    def _save(self) -> None:
        path = self.root / ORIGINAL
        if not self.original["settings"] and "tuned" not in self.original:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(".new")
        with staged.open("w") as file:
            file.write(json.dumps(self.original, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)

    def _follow_tuned(self, profile: str | None) -> BringupError | None:
        """Switch tuned to our profile, which includes the host's own, or back; returns why it refused: the rest goes on."""
        if self.at_boot:
            return None
        try:
            if profile:
                _command("tuned-adm", "profile", _TUNED_PROFILE)
            elif "tuned" in self.original:
                before = self.original["tuned"]
                profiles = ["auto_profile"] if before["mode"] == "auto" else ["profile", *before["profile"].split()]
                _command("tuned-adm", *profiles)
                say(f"tuned: profile {before['profile']} again")
                del self.original["tuned"]
        except BringupError as error:
            return error
        return None

    def _put_back(self, key: str) -> None:
        kept: dict[str, str] = self.original["settings"][key]
        default = kept.get(_DEFAULT_IRQ)
        for name, value in kept.items():
            self._write(key, self.root / name.lstrip("/"), value)
        if default is not None:
            for path in self.root.glob("proc/irq/[0-9]*/smp_affinity_list"):
                if f"/{path.relative_to(self.root)}" not in kept:
                    self._write(key, path.with_name("smp_affinity"), default)
        del self.original["settings"][key]

    def _move_interrupts(self, setting: dict[str, Any], banned: str) -> None:
        if banned and not self.at_boot and irqbalance_banned() not in (None, banned):
            _command("systemctl", "daemon-reload")
            _command("systemctl", "restart", "irqbalance.service")
            say(f"irq_affinity: irqbalance keeps away from CPUs {banned}")
        allowed = set(parse_cpu_list(setting["value"]))
        mask = self.root / _DEFAULT_IRQ.lstrip("/")
        if read_value(mask) is not None and int((read_value(mask) or "0").replace(",", ""), 16) != sum(1 << c for c in allowed):
            self._write(setting["key"], mask, cpu_mask(allowed))
        moved = 0
        for path in files_of(setting, self.root):
            now = read_value(path)
            if now is None or allowed.issuperset(parse_cpu_list(now)):
                continue
            try:
                _put(path, setting["value"])
                moved += 1
            except OSError as error:
                name = f"/{path.relative_to(self.root)}"
                if error.errno == errno.EIO:  # the kernel's own: a timer, or a device's queue for each CPU
                    self.refused[name] = _device(path.parent)
                else:
                    self.failed.append(f"irq_affinity is {now} and not {setting['value']} ({name}): {error.strerror}")
                    say(f"irq_affinity did not take: {self.failed[-1]}")
        if moved:
            say(f"irq_affinity: {moved} interrupts moved to CPUs {setting['value']}")
        if self.refused:
            say(f"irq_affinity: {len(self.refused)} interrupts stay where they are, since the kernel manages them itself")
        path = self.root / REFUSED
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.refused))

    def _write(self, key: str, path: Path, value: str) -> None:
        """Write one value where it is another one, and see whether it took."""
        before = read_value(path)
        if before is None or before == value:
            return
        name = f"/{path.relative_to(self.root)}"
        if not os.access(path, os.W_OK):
            # as in a container: its owner was told, and repeating it at each boot changes nothing
            say(f"{key} stays {before}: {name} cannot be written from inside this host")
            return
        try:
            _put(path, value)
            reason = ""
        except OSError as error:
            reason = f": {error.strerror}"
        after = read_value(path)
        if after == value or (path.name.endswith("affinity") and not reason):
            say(f"{key}: {before} → {after} ({name})")
        elif after is not None:
            self.failed.append(f"{key} is {after} and not {value} ({name}){reason}")
            say(f"{key} did not take: it is {after} and not {value} ({name}){reason}")


def _put(path: Path, value: str) -> None:
    # unbuffered: the kernel's answer belongs to the write, and must not come when the file is closed
    with path.open("wb", buffering=0) as file:
        file.write(value.encode())


def _device(folder: Path) -> str:
    """Name of what an interrupt belongs to; its handlers are folders beside the affinity."""
    with suppress(OSError):
        return ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) or folder.name
    return folder.name


def _command(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_PROGRAM_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BringupError(f"{' '.join(words)} failed: {error}") from error
    if done.returncode:
        raise BringupError(f"{' '.join(words)} failed: {(done.stderr or done.stdout).strip()}")


def apply_file(path: Path, at_boot: bool) -> list[str]:
    """Apply what a file asks for; returns what did not take.

    Raises:
        BringupError: the file cannot be read, or a program that has a say refuses.
    """
    try:
        request = json.loads(path.read_text())
        request["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BringupError(f"{path} cannot be read: {error}") from error
    if at_boot:  # there is nobody else yet, and no reason to refuse
        return apply_at_boot(request)
    with lock("making the host's settings"):
        tuning = Tuning()
        tuning.apply(request)
    return tuning.failed


def apply_at_boot(
    request: dict[str, Any], root: Path = Path("/"), pause: Callable[[float], None] = time.sleep, limit_s: float = BOOT_LIMIT_S
) -> list[str]:
    """Apply a request while drivers are still being loaded, and again what did not take, until it does or the limit is over.

    Meanwhile the kernel may refuse to take CPUs away, and interrupts come and go. Returns what did not take in the end.
    """
    waited_s = 0.0
    while True:
        tuning = Tuning(root, at_boot=True)
        tuning.apply(request)
        if not tuning.failed or waited_s >= limit_s:
            return tuning.failed
        pause(BOOT_PAUSE_S)
        waited_s += BOOT_PAUSE_S
