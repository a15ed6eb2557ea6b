"""A small apt repository, signed, on loopback, whose packages are named and tied to each other as NVIDIA's for Debian.

Three branches are there, with open and proprietary modules. Instead of a driver the packages hold what the deploy looks at: DKMS
"builds" an ELF file whose .modinfo names the version, for each kernel that has headers, and nvidia-smi compares the loaded module
with its own version, as the real one does.
"""

import datetime
import email.utils
import functools
import gzip
import hashlib
import http.server
import os
import platform
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSIONS = {570: "570.195.03", 580: "580.95.05", 590: "590.44.01"}
NEWER_580 = "580.105.08"
KERNEL = platform.release()
OTHER_KERNEL = "6.1.0-40-amd64"
NEXT_KERNEL = "6.1.0-44-amd64"
"""That an update brings."""

_DKMS = r"""#!/bin/sh
# What of DKMS the deploy and the packages use: status, autoinstall -k, remove.
source=$(ls -d /usr/src/nvidia-* 2>/dev/null | head -n 1)
version=${source##*/nvidia-}
case $1 in
status)
  for dir in /lib/modules/*; do
    file=$dir/updates/dkms/nvidia.ko
    [ -e "$file" ] && echo "nvidia/$(modinfo -F version "$file"), ${dir##*/}, x86_64: installed"
  done
  exit 0 ;;
autoinstall)
  [ -n "$source" ] || exit 0
  dir=/lib/modules/$3
  # what a test asks for: a build that fails, or one that lasts
  [ ! -e /etc/dkms-fails ] || { echo "Error! Bad return status for module build on kernel: $3" >&2; exit 10; }
  while [ -e /etc/dkms-waits ]; do touch /run/dkms-is-building; sleep 0.2; done
  [ -e "$dir/build" ] || { echo "Error! Your kernel headers for kernel $3 cannot be found" >&2; exit 1; }
  mkdir -p "$dir/updates/dkms"; cp "$source/nvidia.ko" "$dir/updates/dkms/nvidia.ko"; echo "built nvidia/$version for $3" ;;
remove) rm -rf /lib/modules/*/updates ;;
esac
"""
_BUILD_ALL = """#!/bin/sh
set -e
for dir in /lib/modules/*; do
  [ -e "$dir/build" ] || { echo "no headers for ${dir##*/}: skipped"; continue; }
  dkms autoinstall -k "${dir##*/}"
done
"""
_REMOVE_ALL = """#!/bin/sh
if [ "$1" = remove ] || [ "$1" = upgrade ]; then dkms remove; fi
"""
_SMI = """#!/bin/sh
loaded=$(cat /sys/module/nvidia/version 2>/dev/null)
if [ -z "$loaded" ]; then
  echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
  exit 9
fi
if [ "$loaded" != @VERSION@ ]; then
  echo "Failed to initialize NVML: Driver/library version mismatch"; echo "NVML library version: @VERSION@"; exit 18
fi
# as a card that is kept: until the next boot
card=/run/card; mkdir -p $card
case "$*" in
*driver_version\\ --format=csv,noheader) echo @VERSION@ ;;
*memory.free*)
  kept=$(cat $card/persistence 2>/dev/null || echo Disabled)
  echo "00000000:01:00.0, NVIDIA GeForce RTX 4090 D, 24564, 24000, @VERSION@, $kept" ;;
*pci.bus_id*) echo "00000000:01:00.0, NVIDIA GeForce RTX 4090 D, 24564, @VERSION@" ;;
*power.default_limit*) echo 425.00 ;;
*--persistence-mode=1) echo Enabled > $card/persistence ;;
*--lock-gpu-clocks=*) echo "${*##*=}" > $card/clocks ;;
*--reset-gpu-clocks) rm -f $card/clocks ;;
*--power-limit=*)
  limit=${*##*=}
  if [ "${limit%%.*}" -lt 150 ] || [ "${limit%%.*}" -gt 450 ]; then
    echo "Provided power limit $limit W is not a valid power limit which should be between 150.00 W and 450.00 W"; exit 1
  fi
  echo "${limit%%.*}" > $card/power ;;
esac
"""
_MODPROBE = """#!/bin/sh
# nvidia-modprobe -u -c 0: plain files, since a container may make no devices
for node in nvidiactl nvidia-uvm nvidia0; do : > /dev/$node; chmod 666 /dev/$node; done
"""
_HOOK = """#!/bin/sh
# as DKMS' own hook in /etc/kernel/header_postinst.d
if command -v dkms >/dev/null; then dkms autoinstall -k @KERNEL@; fi
"""


def module(version: str) -> bytes:
    """A kernel module as modinfo reads it: an ELF file of nothing but .modinfo."""
    info = f"license=Dual MIT/GPL\0version={version}\0name=nvidia\0".encode()
    names = b"\0.modinfo\0.shstrtab\0"
    header = 64
    sections = header + len(info) + len(names)
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, sections, 0, header, 0, 0, 64, 3, 2)

    def section(name: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)

    table = section(0, 0, 0, 0) + section(1, 1, header, len(info)) + section(10, 3, header + len(info), len(names))
    return elf + info + names + table


@dataclass(frozen=True)
class Package:
    """One .deb: what stands in its control file, and what it brings."""

    name: str
    version: str
    fields: tuple[str, ...] = ()
    files: tuple[tuple[str, bytes, int], ...] = ()
    scripts: tuple[tuple[str, str], ...] = ()

    def build(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            root.chmod(0o755)
            for path, content, mode in self.files:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
                (root / path).chmod(mode)
            (root / "DEBIAN").mkdir()
            control = [
                f"Package: {self.name}",
                f"Version: {self.version}",
                "Architecture: amd64",
                "Maintainer: bringup's tests <x@y>",
            ]
            (root / "DEBIAN/control").write_text("\n".join([*control, *self.fields, "Description: made by a test", ""]))
            for script, text in self.scripts:
                (root / "DEBIAN" / script).write_text(text)
                (root / "DEBIAN" / script).chmod(0o755)
            target = folder / f"{self.name}_{self.version.replace(':', '%3a')}_amd64.deb"
            subprocess.run(
                ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", str(root), str(target)], check=True, capture_output=True
            )


def nvidia_smi(version: str) -> tuple[tuple[str, bytes, int], ...]:
    """What says what the library is, and what makes the device nodes."""
    return (
        ("usr/bin/nvidia-smi", _SMI.replace("@VERSION@", version).encode(), 0o755),
        ("usr/bin/nvidia-modprobe", _MODPROBE.encode(), 0o755),
    )


def firmware(version: str) -> tuple[tuple[str, bytes, int], ...]:
    """A file that does not fit a small disk."""
    return ((f"usr/lib/firmware/nvidia/{version}/gsp.bin", os.urandom(300 * 1024), 0o644),)


def dkms_package(name: str, package: str, version: str, fields: tuple[str, ...]) -> Package:
    """The modules' source, which is built for every kernel that has headers."""
    scripts = (("postinst", _BUILD_ALL), ("prerm", _REMOVE_ALL))
    return Package(name, package, fields, ((f"usr/src/nvidia-{version}/nvidia.ko", module(version), 0o644),), scripts)


def driver_packages(version: str) -> list[Package]:
    """One version of the driver: compute-only user space and both kinds of modules, tied to each other by exact versions."""
    package = f"{version}-1"
    same = f"(= {package})"
    modules = f"Provides: nvidia-kernel-dkms-any {same}"
    return [
        Package(
            "nvidia-driver-cuda",
            package,
            (f"Depends: libnvidia-compute {same}, nvidia-kernel-dkms-any {same}",),
            nvidia_smi(version),
        ),
        Package("libnvidia-compute", package, (), firmware(version)),
        dkms_package("nvidia-kernel-open-dkms", package, version, ("Depends: dkms", modules, "Conflicts: nvidia-kernel-dkms")),
        dkms_package("nvidia-kernel-dkms", package, version, ("Depends: dkms", modules, "Conflicts: nvidia-kernel-open-dkms")),
    ]


def headers(kernel: str) -> Package:
    """What modules are built with; as with Debian's own, DKMS builds as soon as they are there."""
    hook = _HOOK.replace("@KERNEL@", kernel)
    content = ((f"usr/src/linux-headers-{kernel}/Makefile", b"", 0o644),)
    link = (
        f"#!/bin/sh\nset -e\nmkdir -p /lib/modules/{kernel}\nln -sfn /usr/src/linux-headers-{kernel} /lib/modules/{kernel}/build\n"
    )
    unlink = f"#!/bin/sh\nrm -f /lib/modules/{kernel}/build\n"
    return Package(f"linux-headers-{kernel}", "1", (), content, (("postinst", link + hook.partition("\n")[2]), ("postrm", unlink)))


def kernel_update() -> list[Package]:
    """What the distribution publishes with a new kernel; of the flavour's packages, higher than its true ones."""
    files = ((f"lib/modules/{NEXT_KERNEL}/kernel/x", b"", 0o644), (f"boot/vmlinuz-{NEXT_KERNEL}", b"", 0o644))
    image = f"/boot/initrd.img-{NEXT_KERNEL}"
    scripts = (
        ("postinst", f"#!/bin/sh\n/usr/local/bin/update-initramfs -u -k {NEXT_KERNEL}\n"),
        ("postrm", f"#!/bin/sh\nrm -f {image}\n"),
    )
    return [
        Package(f"linux-image-{NEXT_KERNEL}", "1", (), files, scripts),
        headers(NEXT_KERNEL),
        Package("linux-image-amd64", "99:2", (f"Depends: linux-image-{NEXT_KERNEL}",)),
        Package("linux-headers-amd64", "99:2", (f"Depends: linux-headers-{NEXT_KERNEL}",)),
    ]


def build_tools() -> list[Package]:
    """DKMS, higher than the distribution's, which would bring a compiler, and the running kernel's headers."""
    return [Package("dkms", "99:3", (), (("usr/sbin/dkms", _DKMS.encode(), 0o755),)), headers(KERNEL)]


def _cuda(version: str) -> list[Package]:
    """The parts of a toolkit that compile, and what makes it the machine's default: alternatives, and the linker's search path."""
    major, _, minor = version.partition(".")
    suffix, package = f"{major}-{minor}", f"{version}.88-1"
    config = (f"cuda-toolkit-{suffix}-config-common", f"cuda-toolkit-{major}-config-common")
    links = "".join(
        f"update-alternatives --@VERB@ /usr/local/{name} {name} /usr/local/cuda-{version} {major}{minor}\n"
        for name in ("cuda", f"cuda-{major}")
    )
    install = "#!/bin/sh\nset -e\n" + links.replace("@VERB@", "install")
    remove = "#!/bin/sh\n" + "".join(
        f"update-alternatives --remove {name} /usr/local/cuda-{version}\n" for name in ("cuda", f"cuda-{major}")
    )
    path = f"etc/ld.so.conf.d/988_cuda-{major}.conf"
    search = ((path, f"/usr/local/cuda-{major}/targets/x86_64-linux/lib\n".encode(), 0o644),)
    nvcc = ((f"usr/local/cuda-{version}/bin/nvcc", f"#!/bin/sh\necho release {version}\n".encode(), 0o755),)
    library = ((f"usr/local/cuda-{version}/targets/x86_64-linux/lib/libnvrtc.so.{major}", b"", 0o644),)
    needs = f"Depends: {', '.join((*config, 'cuda-toolkit-config-common'))}"
    parts = ("cuda-cudart", "cuda-nvrtc", "cuda-cuobjdump", "libcurand-dev", "libcublas-dev")
    return [
        Package(config[0], package, (), (), (("postinst", install), ("prerm", remove))),
        Package(config[1], package, (), search, (("conffiles", f"/{path}\n"),)),
        Package(f"cuda-nvcc-{suffix}", package, (needs,), nvcc),
        *(Package(f"{part}-{suffix}", package, (needs,), library if part == "cuda-nvrtc" else ()) for part in parts),
    ]


def standard_packages() -> list[Package]:
    """Three branches, a newer 580, what their modules are built with, and two versions of the CUDA toolkit."""
    path = "etc/ld.so.conf.d/000_cuda.conf"
    search = ((path, b"/usr/local/cuda/targets/x86_64-linux/lib\n", 0o644),)
    common = Package("cuda-toolkit-config-common", "13.0.88-1", (), search, (("conffiles", f"/{path}\n"),))
    flavour = Package("linux-headers-amd64", "99:1", (f"Depends: linux-headers-{KERNEL}",))
    drivers = [package for version in (*VERSIONS.values(), NEWER_580) for package in driver_packages(version)]
    return [*build_tools(), flavour, *drivers, common, *_cuda("12.8"), *_cuda("13.0")]


@dataclass(frozen=True)
class NvidiaRepository:
    """Where it is served, and the key that signs it."""

    folder: Path
    uri: str
    key_file: Path
    fingerprint: str
    suite: str = "/"
    """A slash: all lies flat in one folder, as in NVIDIA's own; or the name of its only suite."""
    origin: str = "test"

    def setting(self, **changes: object) -> dict[str, object]:
        """The value of nvidia_repository."""
        components = {} if self.suite == "/" else {"components": ["restricted"]}
        where = {"uri": self.uri, "suite": self.suite, "key_file": str(self.key_file), "fingerprint": self.fingerprint}
        return where | components | changes

    def publish(self, *packages: Package) -> None:
        """Add packages."""
        for package in packages:
            package.build(self.folder)
        self.sign()

    def withdraw(self, pattern: str) -> None:
        """Take packages away."""
        for path in self.folder.glob(pattern):
            path.unlink()
        self.sign()

    @contextmanager
    def lacking(self, pattern: str) -> Iterator[None]:
        """Take packages away until the block ends."""
        contents = {path: path.read_bytes() for path in self.folder.glob(pattern)}
        assert contents
        self.withdraw(pattern)
        try:
            yield
        finally:
            for path, content in contents.items():
                path.write_bytes(content)
            self.sign()

    def sign(self) -> None:
        """Index what lies in the folder, and sign the index."""
        root = self.folder if self.suite == "/" else self.folder / "dists" / self.suite
        index = root if self.suite == "/" else root / "restricted/binary-amd64"
        index.mkdir(parents=True, exist_ok=True)
        packages = subprocess.run(
            ["dpkg-scanpackages", "--multiversion", "."], cwd=self.folder, check=True, capture_output=True
        ).stdout
        (index / "Packages").write_bytes(packages)
        (index / "Packages.gz").write_bytes(gzip.compress(packages, mtime=0))
        now = email.utils.format_datetime(datetime.datetime.now(datetime.UTC))
        lines = [f"Origin: {self.origin}", "Label: test", f"Suite: {self.suite}", f"Codename: {self.suite}", f"Date: {now}"]
        lines += ["Components: restricted", "Architectures: amd64", "SHA256:"]
        for path in (index / "Packages", index / "Packages.gz"):
            content = path.read_bytes()
            lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {path.relative_to(root)}")
        (root / "Release").write_text("\n".join([*lines, ""]))
        command = [*_gpg(self.key_file.parent / "gpg"), "--yes", "--clearsign", "-o", str(root / "InRelease")]
        subprocess.run([*command, str(root / "Release")], check=True, capture_output=True)


def _gpg(home: Path) -> list[str]:
    return ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]


def make_key(folder: Path) -> tuple[Path, str]:
    """Make a key that signs; returns its public half's file and its fingerprint."""
    home = folder / "gpg"
    home.mkdir(mode=0o700, parents=True)
    subprocess.run(
        [*_gpg(home), "--quick-generate-key", "driver@example.org", "rsa2048", "sign", "never"], check=True, capture_output=True
    )
    armoured = subprocess.run([*_gpg(home), "--armor", "--export"], check=True, capture_output=True).stdout
    listed = subprocess.run([*_gpg(home), "--with-colons", "--list-keys"], check=True, capture_output=True, text=True).stdout
    (folder / "key.asc").write_bytes(armoured)
    return folder / "key.asc", next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(
    folder: Path, packages: Iterable[Package] | None = None, suite: str = "/", origin: str = "test"
) -> Iterator[NvidiaRepository]:
    """Build, sign and serve the repository in `folder` until the block ends."""
    pool = folder / "repository"
    pool.mkdir(parents=True)
    key_file, fingerprint = make_key(folder / "key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(pool)))
    repository = NvidiaRepository(pool, f"http://127.0.0.1:{server.server_port}", key_file, fingerprint, suite, origin)
    repository.publish(*(standard_packages() if packages is None else packages))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
