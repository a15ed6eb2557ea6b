"""SMBIOS structures of memory modules, as firmware would write them, for QEMU's `-smbios file=`.

QEMU's own `-smbios type=17` knows no memory type but "RAM" and makes one module of each 16 GiB, so a machine with DDR5 in slots of
its own is written here. Fields and codes: DMTF DSP0134 (SMBIOS reference specification) 3.x, 7.17 and 7.18.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

# QEMU's own handles for these structures: its type 19, which it goes on to write, refers to the array by this one
_ARRAY_HANDLE = 0x1000
_FIRST_MODULE_HANDLE = 0x1100

_TYPE_CODES = {"Unknown": 0x02, "DDR4": 0x1A, "LPDDR4": 0x1E, "DDR5": 0x22, "LPDDR5": 0x23}
_SYSTEM_BOARD = 0x03
_SYSTEM_MEMORY = 0x03
_ECC_NONE, _ECC_MULTI_BIT = 0x03, 0x06
_FORM_FACTOR_DIMM = 0x09
_SYNCHRONOUS_UNBUFFERED = 1 << 7 | 1 << 14
_NO_ERROR_INFORMATION = 0xFFFE
_IN_EXTENDED_SIZE = 0x7FFF  # 16 bits of MiB are too few from 32 GiB - 1 MiB on
_IN_EXTENDED_CAPACITY = 0x80000000


@dataclass(frozen=True)
class Module:
    """One slot for memory; of size 0 it is empty, and then only its names count.

    The size is what the firmware says and need not be what QEMU gives the VM.
    """

    locator: str
    bank: str
    size_mib: int = 0
    speed_mt_s: int = 0
    configured_mt_s: int = 0
    type: str = "DDR5"
    data_width_bits: int = 64
    total_width_bits: int = 64


def memory_structures(modules: Sequence[Module]) -> list[bytes]:
    """The memory array (type 16) and a memory device (type 17) for each slot."""
    return [_array(modules), *(_device(_FIRST_MODULE_HANDLE + number, module) for number, module in enumerate(modules))]


def _array(modules: Sequence[Module]) -> bytes:
    ecc = any(module.total_width_bits > module.data_width_bits for module in modules)
    capacity_bytes = sum(module.size_mib for module in modules) * 2**20
    return _structure(
        16,
        _ARRAY_HANDLE,
        struct.pack(
            "<BBBLHHQ",
            _SYSTEM_BOARD,
            _SYSTEM_MEMORY,
            _ECC_MULTI_BIT if ecc else _ECC_NONE,
            _IN_EXTENDED_CAPACITY,
            _NO_ERROR_INFORMATION,
            len(modules),
            capacity_bytes,
        ),
    )


def _device(handle: int, module: Module) -> bytes:
    populated = module.size_mib > 0
    return _structure(
        17,
        handle,
        struct.pack(
            "<HHHHHBBBBBHHBBBBBLHHHH",
            _ARRAY_HANDLE,
            _NO_ERROR_INFORMATION,
            module.total_width_bits if populated else 0,
            module.data_width_bits if populated else 0,
            min(module.size_mib, _IN_EXTENDED_SIZE),
            _FORM_FACTOR_DIMM,
            0,  # in no set
            1,  # the first of the strings below
            2,  # the second
            _TYPE_CODES[module.type if populated else "Unknown"],
            _SYNCHRONOUS_UNBUFFERED if populated else 0,
            module.speed_mt_s if populated else 0,
            *(0, 0, 0, 0),  # manufacturer, serial number, asset tag, part number: no string
            0,  # unknown rank
            module.size_mib if module.size_mib >= _IN_EXTENDED_SIZE else 0,
            module.configured_mt_s if populated else 0,
            *(0, 0, 0),  # unknown voltages
        ),
        module.locator,
        module.bank,
    )


def _structure(kind: int, handle: int, fields: bytes, *strings: str) -> bytes:
    """Header, fields, strings; the whole ends with an empty string, and where there are no strings with two."""
    header = struct.pack("<BBH", kind, 4 + len(fields), handle)
    return header + fields + (b"".join(text.encode("ascii") + b"\0" for text in strings) or b"\0") + b"\0"
