"""What the host has to run containers with: Podman, bringup's images, CDI specifications of NVIDIA's cards."""

from bringup.hardware import ContainerSoftware


def parse_containers(text: str) -> ContainerSoftware:
    """Parse lines of ``name=value``: ``podman``, ``image`` and ``device`` (one line each), ``nvidia_ctk``, ``cgroup``."""
    pairs = [line.split("=", 1) for line in text.splitlines() if "=" in line]
    values = {name: value.strip() for name, value in pairs}
    every = {kind: tuple(value.strip() for name, value in pairs if name == kind and value.strip()) for kind in ("image", "device")}
    return ContainerSoftware(
        podman_version=values.get("podman") or None,
        images=every["image"],
        cgroup_v2={"2": True, "1": False}.get(values.get("cgroup", "")),
        nvidia_ctk=values.get("nvidia_ctk") or None,
        cdi_devices=tuple(dict.fromkeys(every["device"])),
    )
