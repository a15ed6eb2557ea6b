"""What the host's settings and the service's processes are now. Reads only; prints JSON.

This one file is also sent to hosts as a script of its own, so that a host whose library is older, or that has none yet, can be
read: it imports the standard library alone. `root` stands for /, for tests.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUEST = "etc/bringup/tuning.json"
"""What was applied (bringup/plan/tuning.py: TuningPlan)."""
REFUSED = "run/bringup/refused.json"
"""Interrupts that the kernel would not move when it was last tried: file to the device's name."""
UNITS = ("vllm.service", "bringup-tuning.service")
_SYSTEMD_RUNS = Path("/run/systemd/system")
_PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload")


def read_value(path: Path) -> str | None:
    """What a file of the kernel says: the chosen word of ``always [madvise] never``, else its text; None where it is not there."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return None
    chosen = re.search(r"\[(\S+)\]", text)
    return chosen[1] if chosen else " ".join(text.split())


def files_of(setting: dict[str, Any], root: Path) -> list[Path]:
    """The files that hold a setting on this host, in the order of their names."""
    return sorted(path for pattern in setting["paths"] for path in root.glob(pattern.lstrip("/")))


def read_settings(settings: list[dict[str, Any]], root: Path) -> dict[str, Any]:
    """Live values of each setting's files, and whether root may write them."""
    read = {}
    for setting in settings:
        files = files_of(setting, root)
        read[setting["key"]] = {
            "files": {f"/{path.relative_to(root)}": value for path in files if (value := read_value(path)) is not None},
            "writable": all(os.access(path, os.W_OK) for path in files),
        }
    return read


def read_kernel(words: list[str], root: Path) -> dict[str, list[str]]:
    """Which words the running kernel was started with, and which ones every entry of GRUB's menu starts the next with."""
    running = _text(root / "proc/cmdline").split()
    entries = [line.split() for line in _text(root / "boot/grub/grub.cfg").splitlines() if re.match(r"\s*linux\s+\S*vmlinuz", line)]
    # those for rescue are left as they are
    normal = [entry for entry in entries if "single" not in entry and "recovery" not in entry]
    return {
        "running": [word for word in words if word in running],
        "next_boot": [word for word in words if normal and all(word in entry for entry in normal)],
    }


def units(*names: str) -> dict[str, dict[str, str]]:
    """What systemd says of units; where it does not run, what bringup's own tool says of the server alone."""
    if not _SYSTEMD_RUNS.is_dir():
        return {UNITS[0]: _properties(["/opt/bringup/bin/bringup-host", "status"]) or {}}
    said = {}
    for name in names:
        words = ["systemctl", "show", name, *(f"--property={word}" for word in _PROPERTIES)]
        properties = _properties(words)
        if properties is None:
            return {}
        said[name] = properties
    return said


def _properties(words: list[str]) -> dict[str, str] | None:
    """Lines of ``name=value`` that a program prints; None where it cannot be run."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def irqbalance_banned() -> str | None:
    """CPUs that the running irqbalance keeps away from; None where it does not run."""
    try:
        words = ["systemctl", "show", "irqbalance.service", "--property=MainPID", "--value"]
        pid = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
        environment = Path(f"/proc/{pid}/environ").read_bytes() if pid not in ("", "0") else None
    except (OSError, subprocess.TimeoutExpired):
        return None
    if environment is None:
        return None
    pairs = dict(item.split("=", 1) for item in environment.decode(errors="replace").split("\0") if "=" in item)
    return pairs.get("IRQBALANCE_BANNED_CPULIST", "")


def read_process(folder: Path) -> dict[str, Any] | None:
    """Where a process may run and where its memory is; None when it has ended meanwhile."""
    threads: dict[str, int] = {}
    try:
        name = (folder / "comm").read_text().strip()
        limits = (folder / "limits").read_text()
        for task in (folder / "task").iterdir():
            status = (task / "status").read_text()
            allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.M)
            if allowed:
                threads[allowed[1]] = threads.get(allowed[1], 0) + 1
    except OSError:
        return None
    try:
        memory = read_numa_maps((folder / "numa_maps").read_text())
    except OSError:
        memory = None
    return {"name": name, "threads": threads, "memory": memory, "nofile": _most_files(limits)}


def _most_files(limits: str) -> str | None:
    """Hard limit of open files, of /proc/PID/limits."""
    found = re.search(r"^Max open files\s+\S+\s+(\S+)", limits, re.M)
    return found[1] if found else None


def read_numa_maps(text: str) -> dict[str, Any]:
    """Memory policies, and KiB on each node of memory that is the process's own: a file's pages lie where its first reader ran."""
    policies: dict[str, int] = {}
    kib: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        policies[words[1]] = policies.get(words[1], 0) + 1
        page = re.search(r"kernelpagesize_kB=(\d+)", line)
        if page and "file=" not in line:
            for node, pages in re.findall(r" N(\d+)=(\d+)", line):
                kib[node] = kib.get(node, 0) + int(pages) * int(page[1])
    return {"policies": policies, "own_kib": kib}


def session_of(folder: Path) -> int | None:
    """A process's session, of its folder in /proc; None when it has ended."""
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, ValueError, IndexError):
        return None


def read_processes(unit: str, root: Path, session: int | None = None) -> dict[str, Any]:
    """All processes of a unit, those of control groups below its own too; of a session where one is given.

    Asked of each process: where control groups are mounted differs (cgroup v1, containers), what /proc says of them does not.
    """
    found: dict[str, Any] = {}
    for folder in (root / "proc").glob("[0-9]*"):
        if session is not None:
            own = session_of(folder) == session
        else:
            own = re.search(rf"/{re.escape(unit)}(/|$)", _text(folder / "cgroup"), re.M) is not None
        process = read_process(folder) if own else None
        if process is not None:
            found[folder.name] = process
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _planned(root: Path) -> dict[str, Any] | None:
    """What verification needs of the served release's plan."""
    plan = _json(root / "opt/bringup/current/plan.json")
    if not isinstance(plan, dict):
        return None
    service = plan.get("service", {})
    limits = {s["key"]: s["value"] for s in plan.get("host", []) if s.get("kind") == "limit" and s.get("state") == "set"}
    return {
        "cpus": service.get("cpus", ""),
        "memory_nodes": service.get("memory_nodes", ""),
        "limits": limits,
        # what a generator makes of a file cannot be enabled, and starts at boot by the file itself
        "enabled": "generated" if plan.get("container") else "enabled",
        "manager": plan.get("manager", "systemd"),
        "tuning": plan.get("tuning"),
    }


def read_all(request: dict[str, Any] | None, root: Path = Path("/"), with_processes: bool = True) -> dict[str, Any]:
    """Everything that verification compares.

    Args:
        request: what should be applied; None takes what the host has written down.
        root: where the host's files are.
        with_processes: whether the service's processes are looked at, too; that takes a moment where they are large.
    """
    applied = _json(root / REQUEST)
    request = request if request is not None else applied
    said = units(*UNITS)
    session = said.get(UNITS[0], {}).get("Session", "")
    return {
        "request": request,
        "applied": applied is not None,
        "settings": read_settings(request["settings"], root) if request else {},
        "kernel": read_kernel(request.get("kernel_parameters", []), root) if request else {"running": [], "next_boot": []},
        "refused": _json(root / REFUSED) or {},
        "irqbalance_banned": irqbalance_banned(),
        "tuned_profile": read_value(root / "etc/tuned/active_profile"),
        "units": said,
        "plan": _planned(root),
        "most_files": _most_files(_text(root / "proc/1/limits")),
        "processes": read_processes(UNITS[0], root, int(session) if session else None) if with_processes else {},
    }


def main(arguments: list[str]) -> int:
    """Print what is there; the argument, if any, is what should be applied, as JSON."""
    request = json.loads(arguments[0]) if arguments else None
    print(json.dumps(read_all(request, with_processes=request is None)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
