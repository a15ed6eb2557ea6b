"""NVIDIA's software on the host, and what an earlier run of bringup left."""

from typing import Any, Literal

from pydantic import Field

from bringup.hardware.base import Frozen


class KernelModule(Frozen):
    """NVIDIA's module for one installed kernel."""

    kernel: str
    running: bool
    nvidia_version: str | None
    """None: the next boot into this kernel has no driver."""
    dkms: str | None
    """State that DKMS gives for it: ``installed``, ``built``, ``added``, ``broken``; None where it does not manage it."""
    headers: bool | None = None
    """Whether what a module is built with is installed; None: not known."""


class CudaToolkit(Frozen):
    """An installed CUDA toolkit."""

    path: str
    version: str | None


class NvidiaSoftware(Frozen):
    """Driver and toolkit, as far as the host has them."""

    running_version: str | None = None
    """Of the loaded kernel module."""
    open_modules: bool | None = None
    """Whether the loaded module is the open one."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Installed packages of the driver: name to version."""
    modules: tuple[KernelModule, ...] = ()
    """One for each installed kernel; empty where kernels are not the host's own (a container)."""
    run_file: str | None = None
    """A file that only NVIDIA's .run installer leaves; None where there is none."""
    managed: bool = False
    """Whether bringup installed the driver, or began to."""
    cuda_managed: bool = False
    """Whether bringup installed a CUDA toolkit."""
    card_unit: str | None = None
    """systemd's state of bringup-nvidia.service (``active``, ``failed``…); None where there is no such unit."""
    stale_initrds: tuple[str, ...] = ()
    """Initial RAM disks that were made before bringup's file in /etc/modprobe.d."""
    toolkits: tuple[CudaToolkit, ...] = ()
    xid_errors: tuple[str, ...] = ()
    """Lines of the kernel log in which the driver reports an error of a card (Xid), newest last."""


class ContainerSoftware(Frozen):
    """What the host has to run containers with."""

    podman_version: str | None = None
    images: tuple[str, ...] = ()
    """Those of bringup's, by the names that it gave them."""
    cgroup_v2: bool | None = None
    """Whether control groups are of version 2; None: not known."""
    nvidia_ctk: str | None = None
    """Version of NVIDIA's container toolkit."""
    cdi_devices: tuple[str, ...] = ()
    """Names of cards (``0``, ``all``) in CDI specifications of nvidia.com/gpu."""


class GpuCheckRecord(Frozen):
    """The newest look at the cards as they run (`bringup-host gpu-check`), reduced to what decides whether to look again."""

    request: dict[str, Any]
    """What was asked."""
    passed: bool
    driver_version: str | None


class ServedRelease(Frozen):
    """What the host serves now."""

    digest: str
    content: str
    """Checksum of what its files said when it came up (onhost/content.py); another one, or ``none``: it must be started again."""
    decisions: dict[str, Any]
    """Setting to value, from the release's plan.json; empty when it could not be read."""


class SmokeRecord(Frozen):
    """The newest smoke record on the host, reduced to what decides whether to run it again."""

    request: dict[str, Any]
    """What was asked for, as the record holds it: release, prompt, lines…"""
    outcome: Literal["PASS", "FAIL", "INCONCLUSIVE"]
