"""Which network addresses an engine may be at, and names resolved once to those that it may.

Owns the rule against reaching inside a private network by an engine's address: public addresses
for everyone, private ones where the administrator says so, those of machines' own services never.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from mistudio_core.address import is_loopback

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LOCAL_KINDS = ("vllm", "ollama")
"""Kinds whose servers stand in the installation's own network."""
_SHARED = ipaddress.ip_network("100.64.0.0/10")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddress(OSError):
    """A name stands for an address that the engine may not be at."""


def refusal(address: Address, kind: str, host: str, *, allow_private: bool) -> str:
    """Why an engine of a kind may not be at an address, a noun phrase; empty where it may."""
    address = _inner(address)
    if address.is_loopback:
        allowed = is_loopback(host) or kind in LOCAL_KINDS or allow_private
        return "" if allowed else "private address, this machine's own"
    odd = address.is_link_local or address.is_multicast or address.is_unspecified
    if odd or (address.version == 4 and address.is_reserved):
        return "link-local, multicast, reserved or unspecified address"
    private = address.is_private or address in _SHARED if address.version == 4 else address.is_private
    if private:
        return "" if kind in LOCAL_KINDS or allow_private else "private address"
    return "" if address.is_global else "reserved address"


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries, where it does: connecting goes there."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


async def resolve(host: str, port: int, kind: str, *, allow_private: bool) -> list[str]:
    """The addresses of a host, best first, every one checked.

    Raises ForbiddenAddress where one of them is not allowed, OSError for an unknown name.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for text in addresses:
        why = refusal(ipaddress.ip_address(text), kind, host, allow_private=allow_private)
        if why:
            raise ForbiddenAddress(f"is a {why}")
    return addresses
