"""Addresses that a server listens on, and how a client on the same host writes them in a URL."""

import ipaddress


def url_host(listen_address: str) -> str:
    """Return the host part of a URL that reaches a server from its own host: ``0.0.0.0`` → ``127.0.0.1``, ``::`` → ``[::1]``."""
    address = ipaddress.ip_address(listen_address)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
