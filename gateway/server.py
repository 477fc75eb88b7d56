"""A running gateway: both listeners from start to drain, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from gateway.app import create_app
from gateway.config import GatewayConfig
from gateway.grpc_entry import GrpcEntry, address_in_use
from gateway.probe import Probe
from gateway.routing import Router
from mistudio_core.address import split_address
from mistudio_rpc.contract import Contract


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers: the process decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Gateway:
    """HTTP and gRPC in front of the same backends."""

    def __init__(self, contract: Contract, config: GatewayConfig) -> None:
        """Binds nothing yet."""
        self._contract, self._config = contract, config
        self._router = Router(config.backends, config.backend_tls)
        self.http_address = config.http_address
        """Where HTTP listens; the real port once started."""
        self.grpc_address = config.grpc_address
        """Where gRPC listens; the real port once started."""

    async def start(self) -> None:
        """Serves on both listeners. Raises Unavailable (ADDRESS_IN_USE)."""
        http = self._uvicorn_config()
        http.load()  # reads the certificate: what is wrong with it shows before anything listens
        listener = _listen(self._config.http_address)
        self._probe = Probe(self._router)
        try:
            if self._config.probe_address:
                await self._probe.start(self._config.probe_address)
            self._entry = GrpcEntry(self._contract, self._router, self._config)
            self.grpc_address = _with_port(self.grpc_address, await self._entry.start())
        except BaseException:
            listener.close()
            await self._probe.stop()
            await self._router.close()
            raise
        self.http_address = _with_port(self.http_address, listener.getsockname()[1])
        self._http = _Http(http)
        self._serving = asyncio.create_task(self._http.serve(sockets=[listener]))
        await self._http.ready.wait()

    async def stop(self) -> None:
        """Takes no new work, ends watches at once, waits for the rest within the drain limit."""
        self._router.drain()
        self._http.should_exit = True
        await asyncio.gather(self._entry.stop(self._config.limits.drain_seconds), self._serving)
        await self._probe.stop()
        await self._router.close()

    def endpoints(self) -> dict[str, object]:
        """Where clients find this gateway."""
        secured = self._config.tls is not None and self._config.tls.certificate is not None
        scheme = "https" if secured else "http"
        return {
            "http": self.http_address,
            "grpc": self.grpc_address,
            "url": f"{scheme}://{self.http_address}",
            "tls": secured,
            "pid": os.getpid(),
        }

    def write_endpoints(self, file: Path) -> None:
        """Writes `endpoints()` as JSON; a reader sees all of it or nothing."""
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        fresh.write_text(json.dumps(self.endpoints()) + "\n")
        fresh.replace(file)

    def _uvicorn_config(self) -> uvicorn.Config:
        tls, limits = self._config.tls, self._config.limits
        secured = tls is not None and tls.certificate is not None
        return uvicorn.Config(
            create_app(self._contract, self._router, self._config),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections,
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_graceful_shutdown=max(1, int(limits.drain_seconds)),
            ssl_certfile=tls.certificate if tls and secured else None,
            ssl_keyfile=tls.key if tls and secured else None,
            ssl_ca_certs=str(tls.authority) if tls and secured and tls.authority else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.authority else ssl.CERT_NONE,
        )


def _listen(address: str) -> socket.socket:
    host, port = split_address("http_address", address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise address_in_use(address, "--http") from error
    return listener


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
