"""Reads OpenPGP public keys as far as needed to know whose they are: their fingerprints (RFC 4880 and 9580)."""

import base64
import binascii
import hashlib
from collections.abc import Iterator

_PUBLIC_KEY = 6
"""Tag of a primary key's packet; subkeys and signatures have others."""


def dearmored(data: bytes) -> bytes:
    """Return a key file's packets: what is not armoured, as it is.

    Raises:
        ValueError: the armour is damaged.
    """
    if not data.lstrip().startswith(b"-----BEGIN PGP"):
        return data
    packets = b""
    for block in data.split(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")[1:]:
        text = block.partition(b"-----END")[0].replace(b"\r", b"").strip(b"\n")
        # headers end with an empty line; none may stand there at all
        headers, empty, body = text.partition(b"\n\n")
        lines = (body if empty and b":" in headers else text).split(b"\n")
        # the checksum's line begins with =
        encoded = b"".join(line.strip() for line in lines if not line.startswith(b"="))
        try:
            packets += base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise ValueError(f"its armour is damaged: {error}") from error
    if not packets:
        raise ValueError("it holds no public key")
    return packets


def fingerprints(packets: bytes) -> tuple[str, ...]:
    """Return the fingerprint of each primary key, in capital hexadecimal digits.

    Raises:
        ValueError: these are no OpenPGP packets, or a key is of a version that apt does not use.
    """
    found = []
    for tag, body in _packets(packets):
        if tag != _PUBLIC_KEY:
            continue
        if body[:1] != b"\x04":
            raise ValueError("a key of another version than 4")
        # version 4 defines it as SHA-1; what a key signs does not rest on it
        digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
        found.append(digest.hexdigest().upper())
    return tuple(found)


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        first = data[at]
        at += 1
        if not first & 0x80:
            raise ValueError("it is no OpenPGP key")
        try:
            if first & 0x40:
                tag, (length, at) = first & 0x3F, _new_length(data, at)
            else:
                tag, octets = first >> 2 & 0x0F, 1 << (first & 3)
                if octets == 8:
                    raise ValueError("it is no OpenPGP key file: a packet of no length")
                length, at = int.from_bytes(data[at : at + octets], "big"), at + octets
        except IndexError:
            raise ValueError("it ends in the middle of a packet") from None
        if at + length > len(data):
            raise ValueError("it ends in the middle of a packet")
        yield tag, data[at : at + length]
        at += length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise ValueError("it is no OpenPGP key file: a packet in parts")
