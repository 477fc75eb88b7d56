"""What the gateway can be told: addresses, backends, certificates, limits.

Refuses at once what would be unsafe: a listener that others can reach needs a certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mistudio_core.address import is_loopback, split_address
from mistudio_core.errors import InvalidInput
from mistudio_rpc.channel import Tls

MIB = 1024 * 1024
ANY_OWNER = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Ceilings of one gateway process."""

    json_bytes: int = 4 * MIB
    """Longest JSON body."""
    json_depth: int = 64
    """Deepest nesting of a JSON body, checked before it is parsed."""
    upload_bytes: int = 64 * 1024 * MIB
    """Longest body of an upload."""
    chunk_bytes: int = MIB
    """Longest run of bytes in one message of an upload."""
    header_bytes: int = 16 * 1024
    """Longest head of an HTTP request."""
    connections: int = 2000
    """Most HTTP connections at a time."""
    call_seconds: float = 120.0
    """Deadline of a unary call whose caller sets none."""
    idle_seconds: float = 60.0
    """Longest wait for the next piece of a body."""
    heartbeat_seconds: float = 15.0
    """Silence after which an event stream sends a comment."""
    drain_seconds: float = 10.0
    """Longest wait for running calls at shutdown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayConfig:
    """One gateway process."""

    http_address: str = "127.0.0.1:8001"
    """Where HTTP listens; port 0 takes any free port."""
    grpc_address: str = "127.0.0.1:50051"
    """Where gRPC listens; port 0 takes any free port."""
    probe_address: str = ""
    """`host:port` of a listener that answers health checks only, without certificate; empty for none."""
    backends: Mapping[str, str]
    """gRPC target of each owner (`train`, `find`, ...); `*` for every owner without its own."""
    tls: Tls | None = None
    """Certificate, key and client authority of both listeners."""
    backend_tls: Tls | None = None
    """Certificates towards the backends; None for none, as on a unix socket."""
    host_names: tuple[str, ...] = ()
    """Further names that a Host header may carry."""
    limits: Limits = field(default_factory=Limits)
    """Ceilings."""

    def __post_init__(self) -> None:
        """Checks addresses, backends and that a reachable listener has a certificate."""
        if not self.backends:
            raise InvalidInput.field("backends", "", "at least one owner=target")
        secured = self.tls is not None and self.tls.certificate is not None
        for name, address in (("http_address", self.http_address), ("grpc_address", self.grpc_address)):
            host, _ = split_address(name, address)
            if not is_loopback(host) and not secured:
                raise InvalidInput.field(
                    name,
                    address,
                    "a loopback address without certificate, any address with one",
                    "Give --tls-cert and --tls-key, or listen on 127.0.0.1.",
                )
