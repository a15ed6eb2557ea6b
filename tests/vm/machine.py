"""A virtual machine with hardware as a test wants it: QEMU in software emulation, with a kernel, disk and network of its own.

Nothing of it outlives the test: the disk is an overlay that is thrown away, and the kernel kills QEMU when the process that started
it ends, however that happens.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from card import Card
from image import Image
from smbios import Module, memory_structures

from bringup.errors import BringupError
from bringup.lab.commands import last_lines, run

BOOT_LIMIT_S = 240  # measured on two idle cores: about 20 s; the rest is for tests that work beside it
POWER_OFF_LIMIT_S = 60  # measured: 2 s on idle cores
ANSWER_LIMIT_S = 20  # one SSH log-in takes 1 s
COMMAND_LIMIT_S = 300


@dataclass(frozen=True)
class Node:
    """One NUMA node; it may have no CPUs."""

    cpus: tuple[int, ...]
    memory_mib: int


@dataclass(frozen=True)
class Vm:
    """The hardware of a VM, and how its kernel is started.

    The CPUs are `sockets` × `cores` × `threads`, numbered with the threads of a core side by side, and each belongs to one node.
    Without `distances` (a row for each node) the firmware names none, and the kernel says 10 and 20. Without `modules` QEMU
    describes the memory in its own words.
    """

    numa: Sequence[Node] = (Node(cpus=(0, 1), memory_mib=1024),)
    sockets: int = 1
    cores: int = 2
    threads: int = 1
    distances: Sequence[Sequence[int]] = ()
    modules: Sequence[Module] = ()
    kernel_command_line: str = ""
    card: Card | None = None
    boot_from: Path | None = None
    """A folder with `vmlinuz` and `initrd.img` in place of the image's, as a boot loader would have them from the disk."""
    disk: Path | None = None
    """Disk of another VM, which is off, in place of the image's."""

    @property
    def command_line(self) -> str:
        """The whole command line of the kernel: what a boot here needs, and the test's.

        The kernel's check of its timer goes wrong where the emulation gets too little of the real CPU.
        """
        return f"root=/dev/vda rw console=ttyS0 no_timer_check {self.kernel_command_line}".strip()


@dataclass(frozen=True)
class Machine:
    """A VM that runs, reached as root at 127.0.0.1."""

    image: Image
    folder: Path
    ssh_port: int
    qemu: "subprocess.Popen[bytes]"

    @property
    def known_hosts(self) -> Path:
        """OpenSSH known_hosts file with this VM's key."""
        return self.folder / "known_hosts"

    def ssh(self, script: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S) -> "subprocess.CompletedProcess[str]":
        """Run a script with root's shell; what it prints is captured."""
        finished = subprocess.run([*self._ssh_command(), script], stdin=subprocess.DEVNULL, **_captured(limit_s))
        if check and finished.returncode:
            raise self.error(f"exit code {finished.returncode} of {script!r}: {finished.stdout}{finished.stderr}")
        return finished

    def run_script(self, script: str, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Feed a script of any length to `sh`, and return what it prints."""
        finished = subprocess.run([*self._ssh_command(), "sh"], input=script, **_captured(limit_s))
        if finished.returncode:
            raise self.error(f"exit code {finished.returncode} of a script: {finished.stderr}")
        return finished.stdout

    def read_file(self, path: str) -> bytes:
        """What a file of the VM holds."""
        return subprocess.run(
            [*self._ssh_command(), f"cat {path}"], check=True, capture_output=True, timeout=COMMAND_LIMIT_S
        ).stdout

    def write_file(self, path: str, source: Path) -> None:
        """Copy a file of this machine into the VM."""
        command = f"mkdir -p {Path(path).parent} && cat > {path}"
        with source.open("rb") as file:
            subprocess.run([*self._ssh_command(), command], check=True, stdin=file, timeout=COMMAND_LIMIT_S)

    def boot_id(self) -> str:
        """The kernel's name for this boot."""
        return self.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def wait_for_boot(self, after: str | None = None, limit_s: float = BOOT_LIMIT_S) -> str:
        """Return the boot's id once commands run over SSH and it differs from `after`.

        Raises BringupError with the end of the console if QEMU ends or the limit passes.
        """
        answer = "no answer"
        limit = time.monotonic() + limit_s
        while time.monotonic() < limit:
            if self.qemu.poll() is not None:
                raise self.error(f"QEMU ended with exit code {self.qemu.returncode} instead of keeping the VM up")
            try:
                # The port is QEMU's own and takes connections before the VM does, so that an early attempt hangs until its limit.
                attempt = self.ssh("cat /proc/sys/kernel/random/boot_id", check=False, limit_s=ANSWER_LIMIT_S)
            except subprocess.TimeoutExpired:
                continue
            boot_id, answer = attempt.stdout.strip(), attempt.stderr.strip()
            if attempt.returncode == 0 and boot_id != after:
                return boot_id
            time.sleep(0.3)
        raise self.error(f"the VM did not answer over SSH within {limit_s:.0f} s ({answer})")

    def reboot(self) -> None:
        """Have the VM's own systemd reboot it and wait until it is back. The kernel and its command line stay QEMU's."""
        before = self.boot_id()
        self._ask_to_go_down("systemctl reboot")
        self.wait_for_boot(after=before)

    def console(self) -> str:
        """All that the kernel and systemd have said, over all boots."""
        return (self.folder / "console.log").read_text(errors="replace")

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Nothing of the VM runs until the end, as if its firmware tested its memory; its SSH port takes connections in silence."""
        self.qemu.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.qemu.send_signal(signal.SIGCONT)

    def power_off(self, limit_s: float = POWER_OFF_LIMIT_S) -> None:
        """Shut the VM down as its administrator would, and wait until QEMU has ended."""
        self._ask_to_go_down("systemctl poweroff")
        try:
            self.qemu.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise self.error(f"the VM did not power off within {limit_s:.0f} s") from None

    def error(self, what: str) -> BringupError:
        """An error that shows what the VM and QEMU said last."""
        qemu = (self.folder / "qemu.log").read_text(errors="replace")
        return BringupError(
            f"{what}; the VM's console said last:{last_lines(self.console())}\n  QEMU said:{last_lines(qemu) or ' nothing'}"
        )

    def _ask_to_go_down(self, command: str) -> None:
        with suppress(subprocess.TimeoutExpired):  # the connection may be cut before the answer, and then says nothing more
            self.ssh(command, check=False, limit_s=ANSWER_LIMIT_S)

    def _ssh_command(self) -> list[str]:
        settings = {
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": f'"{self.known_hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ConnectTimeout": "5",
        }
        command = ["ssh", "-F", "/dev/null", "-i", str(self.image.key), "-p", str(self.ssh_port)]
        return [*command, *(f"-o{name}={value}" for name, value in settings.items()), "root@127.0.0.1"]


Boot = Callable[[Vm], Machine]


@contextmanager
def started(vm: Vm, image: Image, folder: Path) -> Iterator[Machine]:
    """Start the VM, whose files go into the empty `folder`; it is not up yet. In the end QEMU and the disk are gone."""
    overlay = folder / "disk.qcow2"
    below = (vm.disk, "qcow2") if vm.disk else (image.disk, "raw")
    command = ("qemu-img", "create", "-q", "-f", "qcow2", "-b", below[0], "-F", below[1], overlay)
    run(*command, failure="The disk of the VM could not be made:")
    tables = []
    for number, structure in enumerate(memory_structures(vm.modules) if vm.modules else []):
        tables.append(folder / f"smbios-{number}.bin")
        tables[-1].write_bytes(structure)
    (folder / "console.log").touch()
    with (folder / "qemu.log").open("wb") as log, vm.card.plugged_in() if vm.card else nullcontext(None) as card:
        arguments = qemu_command(vm, image, overlay, folder / "console.log", tables, card)
        # setpriv becomes QEMU and has the kernel kill it when we are gone
        command = ("setpriv", "--pdeathsig", "KILL", *arguments)
        files = () if card is None else (card,)
        qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=files)
        try:
            machine = Machine(image, folder, _forwarded_port(qemu, folder / "qemu.log"), qemu)
            machine.known_hosts.write_text(f"[127.0.0.1]:{machine.ssh_port} {image.host_key}\n")
            yield machine
        finally:
            qemu.kill()  # its disk is thrown away, so there is nothing to shut down
            qemu.wait()
            overlay.unlink()


@contextmanager
def booted(vm: Vm, image: Image, folder: Path) -> Iterator[Machine]:
    """The VM, once commands run there over SSH."""
    with started(vm, image, folder) as machine:
        machine.wait_for_boot()
        yield machine


def qemu_command(vm: Vm, image: Image, disk: Path, console: Path, smbios: Sequence[Path], card: int | None = None) -> list[str]:
    """QEMU's command line; `card` is the file descriptor at which the VM's card answers."""
    cpus = vm.sockets * vm.cores * vm.threads
    options = {
        # its SMBIOS 3 entry point; QEMU's default is that of version 2
        "machine": "q35,smbios-entry-point-type=64",
        "accel": "tcg",
        # "max" is AMD's, and SMT there needs TOPOEXT, which the emulation lacks; Intel's costs page-table isolation, 5 s a boot.
        # Leave svm alone: without it Debian 12's systemd cannot start services (Failed to set up mount namespacing: ... busy).
        "cpu": "max" if vm.threads == 1 else "max,vendor=GenuineIntel",
        "smp": f"{cpus},sockets={vm.sockets},cores={vm.cores},threads={vm.threads}",
        "m": str(sum(node.memory_mib for node in vm.numa)),
        "kernel": str(vm.boot_from / "vmlinuz" if vm.boot_from else image.kernel),
        "initrd": str(vm.boot_from / "initrd.img" if vm.boot_from else image.initrd),
        "append": vm.command_line,
        # unsafe: the host's crash may lose the disk, which is thrown away anyhow
        "drive": f"file={_escaped(disk)},if=virtio,cache=unsafe",
        # port 0: the system picks a free one
        "netdev": "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22",
        "device": "virtio-net-pci,netdev=net",
        "display": "none",
        "serial": f"file:{console}",
        "monitor": "none",
    }
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config"]
    for name, value in options.items():
        command += [f"-{name}", value]
    for number, node in enumerate(vm.numa):
        # the card's process is told where the memory is, which has to be a file for that
        backend = "memory-backend-ram" if card is None else "memory-backend-memfd,share=on"
        command += ["-object", f"{backend},id=memory{number},size={node.memory_mib}M"]
        command += ["-numa", f"node,nodeid={number},memdev=memory{number}" + "".join(f",cpus={cpu}" for cpu in node.cpus)]
    for source, row in enumerate(vm.distances):
        for target, distance in enumerate(row):
            command += ["-numa", f"dist,src={source},dst={target},val={distance}"]
    if card is not None:
        command += ["-device", f"x-pci-proxy-dev,id=card,fd={card}"]
    for path in smbios:
        command += ["-smbios", f"file={_escaped(path)}"]
    return command


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _captured(limit_s: float) -> dict[str, object]:
    return {"capture_output": True, "text": True, "errors": "replace", "timeout": limit_s}


def _forwarded_port(qemu: "subprocess.Popen[bytes]", log: Path, limit_s: float = 30) -> int:
    """The port of 127.0.0.1 on which QEMU listens for the VM's sshd."""
    limit = time.monotonic() + limit_s
    while qemu.poll() is None and time.monotonic() < limit:
        for connection in psutil.Process(qemu.pid).net_connections("tcp4"):
            if connection.status == psutil.CONN_LISTEN:
                return int(connection.laddr.port)
        time.sleep(0.05)
    raise BringupError(f"QEMU did not start (exit code {qemu.poll()}); it said:{last_lines(log.read_text(errors='replace'))}")
