"""A network link with a chosen delay between this machine and a network namespace of its own.

The link is two TUN devices, one on each side, and a relay in this process that hands each packet on after the delay. The kernel's
own way, netem, is a module that not every kernel has (tc then says "qdisc kind is unknown"); TUN nearly all have. The devices
live only as long as this process holds them open.
"""

import asyncio
import fcntl
import os
import shutil
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from bringup.errors import BringupError
from bringup.lab.commands import run, tool_path

# addresses that RFC 2544 sets aside for measurements between two hosts
NEAR_ADDRESS = "198.18.0.1"
FAR_ADDRESS = "198.18.0.2"

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_PACKET_BYTES = 65536  # the most that IP allows; the devices' own limit is 1500


class DelayedLink:
    """The link while it is up: where its far side is, and how long a packet takes to get there."""

    def __init__(self, namespace: str, near_device: int, far_device: int) -> None:
        """Relay between two TUN devices, given as file descriptors, from now until `close`."""
        self.namespace = namespace
        self.one_way_ms = 0.0
        self._loop = asyncio.new_event_loop()
        self._loop.add_reader(near_device, self._carry, near_device, far_device)
        self._loop.add_reader(far_device, self._carry, far_device, near_device)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    @property
    def enter(self) -> tuple[str, ...]:
        """The words before a command that let it run at the far side; only its network is another."""
        return ("nsenter", f"--net=/run/netns/{self.namespace}")

    def close(self) -> None:
        """End the relay; packets under way are lost."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # of this thread: what else runs here must not lengthen the delay
        self._loop.run_forever()

    def _carry(self, source: int, target: int) -> None:
        with suppress(BlockingIOError):
            while packet := os.read(source, _PACKET_BYTES):
                if self.one_way_ms:
                    self._loop.call_later(self.one_way_ms / 1000, _deliver, target, packet)
                else:
                    _deliver(target, packet)


def _deliver(device: int, packet: bytes) -> None:
    with suppress(OSError):  # a link whose other end is down loses packets
        os.write(device, packet)


@contextmanager
def delayed_link() -> Iterator[DelayedLink]:
    """Have a link, without delay at first; whatever ends the block takes the link and its namespace away.

    Raises:
        BringupError: this machine does not let us have one, and why.
    """
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(tool, path=tool_path()) is None:
            raise BringupError(f"`{tool}` is missing, which makes the link: apt-get install {package}")
    namespace = f"bringup-{os.getpid()}"
    with ExitStack() as undo:
        run("ip", "netns", "add", namespace, failure="A network namespace could not be made:")
        undo.callback(run, "ip", "netns", "del", namespace, failure=f"The network namespace {namespace} could not be removed:")
        near = undo.enter_context(_tun(f"near{os.getpid()}"))
        far = undo.enter_context(_tun(f"far{os.getpid()}"))
        _ip("link", "set", f"far{os.getpid()}", "netns", namespace)
        _ip("address", "add", NEAR_ADDRESS, "peer", FAR_ADDRESS, "dev", f"near{os.getpid()}")
        _ip("-n", namespace, "address", "add", FAR_ADDRESS, "peer", NEAR_ADDRESS, "dev", f"far{os.getpid()}")
        _ip("link", "set", f"near{os.getpid()}", "up")
        _ip("-n", namespace, "link", "set", f"far{os.getpid()}", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        link = DelayedLink(namespace, near, far)
        undo.callback(link.close)
        yield link


def _ip(*words: str) -> None:
    run("ip", *words, failure=f"`ip {' '.join(words)}` failed:")


@contextmanager
def _tun(name: str) -> Iterator[int]:
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise BringupError(
            f"/dev/net/tun, which makes the link, cannot be opened ({error.strerror}); try `modprobe tun`."
        ) from error
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        yield device
    finally:
        os.close(device)
