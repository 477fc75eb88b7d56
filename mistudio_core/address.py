"""Network addresses: `host:port`, and whether only this machine can reach one."""

from __future__ import annotations

import ipaddress

from mistudio_core.errors import InvalidInput


def split_address(name: str, address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises InvalidInput, naming the setting `name`."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInput.field(name, address, "host:port with a port from 0 to 65535")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
