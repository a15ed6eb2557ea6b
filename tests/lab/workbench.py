"""Makes a throw-away host look like a machine with an RTX 4090 D, so that the driver's step can be tried on it.

Nothing of bringup knows of this. The test puts a unit on the host that, at each boot and before sshd, mounts folders of its own
over /sys/bus/pci/devices and /sys/module, where the kernel would show the card and its loaded modules. What such a kernel does is
done by scripts in /usr/local/bin: nouveau takes the card at boot unless the initial RAM disk has the blacklist, modprobe "loads"
the module that DKMS left, uname names the kernel that a test boots into, and systemd-detect-virt calls the host a virtual machine.
apt, dpkg, systemd, the reboot and all files are real.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from nvidia_repository import KERNEL, OTHER_KERNEL

from bringup.lab import container, hosts
from bringup.lab.state import read_state

_CARD = "/run/pci/0000:01:00.0"
_BOOT = f"""#!/bin/sh
if [ -e /root/secure-boot ]; then
  mount -t tmpfs tmpfs /sys/firmware && mkdir -p /sys/firmware/efi/efivars
  printf '\\6\\0\\0\\0\\1' > /sys/firmware/efi/efivars/SecureBoot-8be4df61
fi
rm -f /run/systemd/container
mkdir -p {_CARD} /run/module
echo 0x10de > {_CARD}/vendor; echo 0x030000 > {_CARD}/class; echo 0x2685 > {_CARD}/device
mkdir -p /sys/bus/pci/devices 2>/dev/null
mount --bind /run/pci /sys/bus/pci/devices
mount --bind /run/module /sys/module
if grep -qs 'blacklist nouveau' /boot/initrd.img-$(uname -r); then
  modprobe nvidia
else
  ln -sfn /bus/pci/drivers/nouveau {_CARD}/driver
fi
exit 0
"""
_MODPROBE = f"""#!/bin/sh
[ "$1" = nvidia ] || exit 0
[ ! -L {_CARD}/driver ] || {{ echo "modprobe: ERROR: could not insert 'nvidia': No such device" >&2; exit 1; }}
file=$(find "/lib/modules/$(uname -r)" -name nvidia.ko | head -n 1)
[ -n "$file" ] || {{ echo "modprobe: FATAL: Module nvidia not found in directory /lib/modules/$(uname -r)" >&2; exit 1; }}
mkdir -p /run/module/nvidia
modinfo -F version $file > /run/module/nvidia/version
ln -sfn /bus/pci/drivers/nvidia {_CARD}/driver
"""
_DETECT = """#!/bin/sh
case "$*" in *container*) echo none; exit 1 ;; *) echo kvm ;; esac
"""
_UNAME = """#!/bin/sh
# the kernel that a test boots into
if [ "$1" = -r ] && [ -e /root/booted-kernel ]; then cat /root/booted-kernel; else exec /usr/bin/uname "$@"; fi
"""
_INITRAMFS = """#!/bin/sh
# update-initramfs -u -k KERNEL
cat /etc/modprobe.d/*.conf > /boot/initrd.img-$3 2>/dev/null; echo "$3" >> /root/initramfs.log; exit 0
"""
_UNIT = """[Unit]
Before=ssh.service bringup-nvidia.service
[Service]
Type=oneshot
ExecStart=/usr/local/bin/card-at-boot
[Install]
WantedBy=multi-user.target
"""


def put_card_in(root: Path) -> None:
    """Change a host's root file system, before it boots the next time."""
    scripts = {"card-at-boot": _BOOT, "modprobe": _MODPROBE, "systemd-detect-virt": _DETECT, "update-initramfs": _INITRAMFS}
    scripts["uname"] = _UNAME
    for name, text in scripts.items():
        path = root / "usr/local/bin" / name
        path.write_text(text)
        path.chmod(0o755)
    (root / "etc/systemd/system/card.service").write_text(_UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "card.service").symlink_to("/etc/systemd/system/card.service")
    for kernel in (KERNEL, OTHER_KERNEL):
        (root / "lib/modules" / kernel / "kernel/fs").mkdir(parents=True)
        (root / f"boot/vmlinuz-{kernel}").touch()
        (root / f"boot/initrd.img-{kernel}").touch()


@contextmanager
def switched_on_again(directory: Path) -> Iterator[None]:
    """Start hosts of the lab that went off, as firmware does when a machine reboots: nspawn ends where a host restarts itself.

    While there is a file `power-cut`, they stay off.
    """
    over = Event()

    def watch() -> None:
        while not over.wait(0.5):
            state = read_state(directory)
            if (directory / "power-cut").exists():
                continue
            if any(not container.is_up(host) for host in state.hosts):
                hosts.up(len(state.hosts), directory)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
