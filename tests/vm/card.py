"""An NVIDIA card as far as a kernel looks at it: a PCI display device with an RTX 4090 D's ids and two registers, for QEMU.

QEMU leaves a device to another process (`x-pci-proxy-dev`): it sends each access to the configuration space and to the memory
behind the BARs over a socket, and waits for the answer. This is that process, as a thread. The messages are those of QEMU's
hw/remote (mpqemu-link.h), which have not changed since QEMU 6.0.

It is enough for the real drivers: nouveau and NVIDIA's modules find the device by its ids and ask it which chip it is. NVIDIA's
module binds to a chip that it knows; what it then asks of the chip stays unanswered, so that `nvidia-smi` finds no device.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

_RETURN, _CONFIG_WRITE, _CONFIG_READ, _BAR_WRITE, _BAR_READ, _RESET = 1, 2, 3, 4, 5, 7
_HEADER = struct.Struct("<i4xQ")  # command, size of what follows
_CONFIG_ACCESS = struct.Struct("<IIi")  # address, value, bytes
_BAR_ACCESS = struct.Struct("<QQI?3x")  # physical address, value, bytes, whether it is memory
_ANSWER = struct.Struct("<i4xQQ")

# Fields of the configuration space (PCI Local Bus Specification 3.0, 6.1), and which of their bits can be written
_COMMAND, _BAR0, _BAR1, _SUBSYSTEM, _INTERRUPT_LINE, _INTERRUPT_PIN = 0x04, 0x10, 0x14, 0x2C, 0x3C, 0x3D
_BAR_BYTES = {_BAR0: 16 * 2**20, _BAR1: 32 * 2**20}
_WRITABLE = {_COMMAND: 0x0407, _INTERRUPT_LINE: 0xFF} | {bar: -size & 0xFFFFFFFF for bar, size in _BAR_BYTES.items()}

# NV_PMC_BOOT_0 and NV_PMC_BOOT_42 (NVIDIA, open-gpu-kernel-modules: dev_boot.h): chip 0x192 is AD102, revision A1
_AD102 = {0x0: 0x192000A1, 0xA00: 0x192A1000}


class Card:
    """One card; it stays plugged in when the VM reboots."""

    def __init__(self) -> None:
        self.tells_chip = False
        """Whether its registers say what chip it is, as those of a sound card do; else they are zero, and no driver takes it."""
        self._config = bytearray(256)
        struct.pack_into("<HH", self._config, 0, 0x10DE, 0x2685)
        struct.pack_into("<BBBB", self._config, 8, 0xA1, 0x00, 0x00, 0x03)  # revision; VGA controller
        struct.pack_into("<HH", self._config, _SUBSYSTEM, 0x10DE, 0x16F3)
        self._config[_INTERRUPT_PIN] = 1

    @contextmanager
    def plugged_in(self) -> Iterator[int]:
        """A socket's file descriptor for QEMU; until the end the card answers there."""
        ours, theirs = socket.socketpair()
        thread = Thread(target=self._answer, args=(ours,), daemon=True)
        thread.start()
        try:
            yield theirs.fileno()
        finally:
            theirs.close()
            ours.shutdown(socket.SHUT_RDWR)
            thread.join()
            ours.close()

    def _answer(self, ours: socket.socket) -> None:
        while header := _received(ours, _HEADER.size):
            command, size = _HEADER.unpack(header)
            body = _received(ours, size)
            if command in (_CONFIG_READ, _CONFIG_WRITE):
                address, value, length = _CONFIG_ACCESS.unpack(body)
                value = self._configured(address, value, length, command == _CONFIG_WRITE)
            elif command in (_BAR_READ, _BAR_WRITE):
                address, *_ = _BAR_ACCESS.unpack(body)
                registers = _AD102 if self.tells_chip else {}
                value = registers.get(address - self._read(_BAR0, 4), 0)
            elif command == _RESET:
                value = 0
            else:
                continue  # where memory and interrupts are; nothing waits for an answer
            ours.sendall(_ANSWER.pack(_RETURN, 8, value))

    def _read(self, address: int, length: int) -> int:
        return int.from_bytes(self._config[address : address + length], "little")

    def _configured(self, address: int, value: int, length: int, write: bool) -> int:
        if write:
            field, shift = address & ~3, 8 * (address & 3)
            mask = ((1 << 8 * length) - 1) << shift & _WRITABLE.get(field, 0)
            struct.pack_into("<I", self._config, field, self._read(field, 4) & ~mask | value << shift & mask)
        return self._read(address, length)


def _received(ours: socket.socket, size: int) -> bytes:
    """So many bytes; none once QEMU has ended. Files that come with them are not needed here."""
    received = b""
    while len(received) < size:
        try:
            part, files, _, _ = socket.recv_fds(ours, size - len(received), 8)
        except OSError:
            return b""
        for file in files:
            os.close(file)
        if not part:
            return b""
        received += part
    return received
