"""Channels to services: limits, keepalive and certificates, the same for every client.

A target is `unix:/path`, `host:port`, or a resolver's URI. `Tls` holds file names; the files are
read when the channel or port is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024

LIMITS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
]
CLIENT_OPTIONS: list[tuple[str, int]] = [
    *LIMITS,
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),  # one helper retries (client.py); two would multiply
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tls:
    """Certificate files (PEM). With `authority` on a server, clients must show a certificate too."""

    certificate: Path | None = None
    """Own certificate chain."""
    key: Path | None = None
    """Own private key."""
    authority: Path | None = None
    """Certificate authority that the other side must be signed by."""

    def __post_init__(self) -> None:
        """A certificate and its key come together."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a TLS certificate and its key must be given together")

    def client_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for a channel; shows the own certificate where there is one (mutual TLS)."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.authority),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials for a port; asks clients for a certificate where `authority` is set (mutual TLS)."""
        key, chain = _read(self.key), _read(self.certificate)
        if key is None or chain is None:
            raise ValueError("a TLS server needs certificate and key")
        return grpc.ssl_server_credentials(
            [(key, chain)],
            root_certificates=_read(self.authority),
            require_client_auth=self.authority is not None,
        )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def open_channel(target: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """An asyncio channel."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options=CLIENT_OPTIONS)
    return grpc.aio.secure_channel(target, tls.client_credentials(), options=CLIENT_OPTIONS)


def open_sync_channel(target: str, tls: Tls | None = None) -> grpc.Channel:
    """A blocking channel, for the CLI and for workers."""
    if tls is None:
        return grpc.insecure_channel(target, options=CLIENT_OPTIONS)
    return grpc.secure_channel(target, tls.client_credentials(), options=CLIENT_OPTIONS)
