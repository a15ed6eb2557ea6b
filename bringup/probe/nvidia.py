"""NVIDIA's software: the loaded module, packages, the module of each installed kernel, toolkits, errors in the kernel log."""

import re

from bringup.hardware import CudaToolkit, KernelModule, NvidiaSoftware
from bringup.probe.sections import fields, key_values


def parse_nvidia(
    module: str,
    packages: dict[str, str],
    kernels: str,
    dkms: str,
    cuda: str,
    kernel_log: str,
    running_kernel: str,
    origin: str = "",
) -> NvidiaSoftware:
    """Put together what the host has of NVIDIA's.

    Args:
        module: ``version=`` of the loaded module, and ``description=`` as in /proc/driver/nvidia/version.
        packages: installed packages: name to version.
        kernels: a line of ``kernel= module= version=`` for each installed kernel.
        dkms: the output of `dkms status`.
        cuda: a line of ``path= version=`` for each toolkit.
        kernel_log: lines of the kernel log that are NVIDIA's.
        running_kernel: as uname says.
        origin: what tells who installed the driver: ``run_file=``, ``managed=yes``, ``cuda_managed=yes``, ``card_unit=``,
            ``stale_initrd=``.
    """
    loaded = key_values(module)
    description = loaded.get("description", "")
    said = re.search(r"(?:^|\s)([0-9]{3,4}\.[0-9.]+)", description)
    version = loaded.get("version") or (said[1] if said else None)
    toolkits = {row["path"]: row.get("version") or None for row in map(fields, cuda.splitlines()) if row.get("path")}
    states = _dkms(dkms)
    marks = [line.partition("=") for line in origin.splitlines()]
    return NvidiaSoftware(
        running_version=version,
        open_modules="Open Kernel Module" in description if description else None,
        packages={name: version for name, version in packages.items() if re.search(r"nvidia|cuda", name)},
        modules=tuple(
            KernelModule(
                kernel=row["kernel"],
                running=row["kernel"] == running_kernel,
                nvidia_version=(row.get("version") or "unknown") if row.get("module") else None,
                dkms=states.get(row["kernel"]),
                headers={"yes": True, "no": False}.get(row.get("headers", "")),
            )
            for row in map(fields, kernels.splitlines())
            if row.get("kernel")
        ),
        run_file=next((value for key, _, value in marks if key == "run_file"), None),
        managed=("managed", "=", "yes") in marks,
        cuda_managed=("cuda_managed", "=", "yes") in marks,
        card_unit=next((value for key, _, value in marks if key == "card_unit"), None),
        stale_initrds=tuple(value for key, _, value in marks if key == "stale_initrd"),
        toolkits=tuple(CudaToolkit(path=path, version=version) for path, version in toolkits.items()),
        xid_errors=tuple(line.strip() for line in kernel_log.splitlines() if "Xid" in line)[-20:],
    )


def parse_packages(text: str) -> tuple[dict[str, str], tuple[str, ...] | None]:
    """Parse lines of ``status|name|version`` of dpkg-query: the installed packages and those on hold.

    The holds are None where there is no dpkg-query to ask.
    """
    if text.startswith("dpkg-query "):
        return {}, None
    rows = [words for line in text.splitlines() if len(words := line.split("|")) == 3]
    installed = {name: version for status, name, version in rows if status[1:2] == "i"}
    return installed, tuple(name for status, name, _ in rows if status.startswith("h"))


def parse_kernel_packages(packages: dict[str, str]) -> tuple[str, ...]:
    """The packages that always follow the newest kernel of a flavour; those of a single kernel have a digit after ``image-``."""
    return tuple(name for name in packages if re.match(r"linux-image-(?!unsigned-|[0-9])", name))


def parse_broken_packages(text: str) -> tuple[str, ...]:
    """The packages that dpkg began to install or configure and did not finish, from the lines of `parse_packages`."""
    rows = (line.split("|") for line in text.splitlines())
    # the second letter of dpkg's status: unpacked, half-configured, half-installed, triggers awaited or pending
    return tuple(row[1] for row in rows if len(row) == 3 and row[0][1:2] in tuple("UFHWt"))


def _dkms(text: str) -> dict[str, str]:
    """Kernel to the state of the nvidia module: ``nvidia/580.95.05, 6.8.0-88-generic, x86_64: installed``.

    DKMS before 3.0 writes ``nvidia, 580.95.05, …``; a module that was only added names no kernel.
    """
    states: dict[str, str] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"nvidia[\w-]*(?:/|, )[\w.+~-]+, ([^,:\s]+), [^,:\s]+: ?(\w+).*", line.strip())
        if match:
            states[match[1]] = match[2]
    return states
