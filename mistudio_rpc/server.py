"""One `serve()` for every control process: health, reflection, limits, TLS, drain on SIGTERM.

Servicers are registered from the contract, method by method, so that nothing generated decides how
a message is serialized. A process that is not on loopback or a unix socket must have certificates;
the health-only listener for probes is the one exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mistudio_core.address import is_loopback, split_address
from mistudio_core.errors import InvalidInput, Unavailable
from mistudio_core.home import Home
from mistudio_rpc.artifact_service import ArtifactServicer
from mistudio_rpc.channel import LIMITS, Tls
from mistudio_rpc.contract import Contract, Method, installed
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.dispatcher import Dispatcher
from mistudio_rpc.interceptors import ContractInterceptor, method_handler
from mistudio_rpc.job_service import JobServicer
from mistudio_rpc.launcher import Launcher
from mistudio_rpc.metrics import PART as METRICS
from mistudio_rpc.metrics import Metrics, MetricsListener
from mistudio_rpc.peer_service import PeerServicer
from mistudio_rpc.peers import PeerConfig
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context, MethodHandler
from mistudio_rpc.worker_service import WorkerServicer

log = logging.getLogger("mistudio.server")
DRAIN_SECONDS = 20.0
_OPTIONS: list[tuple[str, int]] = [
    *LIMITS,
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a shared port
]
MAX_CONCURRENT_RPCS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """How a control process listens."""

    home: Home
    """The installation."""
    address: str = ""
    """`host:port` in addition to the home's unix socket; empty for none."""
    probe_address: str = ""
    """`host:port` of a listener that answers health checks only; empty for none."""
    checkpoint_seconds: float = 0.0
    """Seconds that workers have at a stop to commit a checkpoint, where they end with this process, as in a container.

    0 where they outlive it."""
    metrics_address: str = ""
    """`host:port` that tells Prometheus what the process counts; empty for none."""
    tls: Tls | None = None
    """Certificates for `address`; required unless it is loopback."""
    peers: PeerConfig | None = None
    """Where services are that other processes host; None for a process that hosts every service."""
    devices: DevicePool = field(default_factory=DevicePool)
    """The machine's devices."""
    contract: Contract | None = None
    """The RPCs to serve; None for the installed ones (tests add theirs)."""


class ControlServer:
    """A running control process, inside an event loop."""

    def __init__(self, config: ServerConfig, entries: Sequence[ServiceEntry]) -> None:
        """Nothing runs before `start`. Raises InvalidInput for an open address without TLS."""
        self._open = bool(config.address) and not is_loopback(split_address("address", config.address)[0])
        if self._open and config.tls is None:
            raise InvalidInput.field(
                "address",
                config.address,
                "a loopback address, or any address with a TLS certificate and key",
                "Listen on 127.0.0.1 or give --tls-cert and --tls-key.",
            )
        self._config = config
        self._entries = entries
        self._contract = config.contract or installed()
        self._health = health.aio.HealthServicer()
        self._stack = contextlib.AsyncExitStack()
        self._metrics: MetricsListener | None = None
        if config.metrics_address:
            self._metrics = MetricsListener(
                config.metrics_address, Metrics(), tls=config.tls, token=config.home.token()
            )
        self.runtime: Runtime
        self.dispatcher: Dispatcher
        self.port = 0

    async def start(self) -> None:
        """Opens the database, adopts workers, listens, then makes the warm spare."""
        home = self._config.home
        self._stack.callback(_release, _lock_home(home))
        after_crash = not _stopped_mark(home).exists()
        _stopped_mark(home).unlink(missing_ok=True)
        names = [entry.name for entry in self._entries]
        self.runtime = await Runtime.open(home, devices=self._config.devices, services=names, peers=self._config.peers)
        self._stack.push_async_callback(self.runtime.close)
        if self._metrics is not None:
            self.runtime.parts[METRICS] = self._metrics.metrics
        for entry in self._entries:
            if entry.background is not None:
                await self._stack.enter_async_context(entry.background(self.runtime))
        preload = sorted({module for entry in self._entries for module in entry.preload})
        launcher = Launcher(preload, home.logs / "jobs")
        self.dispatcher = Dispatcher(
            self.runtime, self._entries, launcher, home.control_target, after_crash=after_crash
        )
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._listen()
        await self.dispatcher.start()
        self._stack.push_async_callback(self.dispatcher.stop)
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        launcher.warm()

    async def _listen(self) -> None:
        server = grpc.aio.server(
            interceptors=[ContractInterceptor(self._contract, self._config.home.token())],
            options=_OPTIONS,
            maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        )
        servicers: dict[str, object] = {
            "mistudio.job.v1.JobService": JobServicer(self.runtime),
            "mistudio.artifact.v1.ArtifactService": ArtifactServicer(self.runtime),
            "mistudio.peer.v1.PeerService": PeerServicer(self.runtime.database),
            "mistudio.worker.v1.WorkerService": WorkerServicer(self.runtime, self.dispatcher.prune_checkpoints),
        }
        servicers |= {entry.grpc_service: entry.servicer(self.runtime) for entry in self._entries}
        for name, servicer in servicers.items():
            register(server, self._contract, name, servicer)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if not self._open:
            names = [*servicers, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, server)
        bind(server, self._config.home.control_target, None)
        if self._config.address:
            self.port = bind(server, self._config.address, self._config.tls)
        await server.start()
        self._stack.push_async_callback(server.stop, 2.0)
        if self._config.probe_address:
            await self._listen_for_probes()
        if self._metrics is not None:
            await self._metrics.start()
            self._stack.push_async_callback(self._metrics.stop)

    async def _listen_for_probes(self) -> None:
        """Health checks only, open to the network: they tell nothing but alive or not."""
        probe = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=16)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, probe)
        bind(probe, self._config.probe_address, None)
        await probe.start()
        self._stack.push_async_callback(probe.stop, 0)

    async def _set_health(self, state: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *(entry.grpc_service for entry in self._entries)):
            await self._health.set(name, state)

    async def stop(self) -> None:
        """Drains: not serving at once, watches end, queued writes finish, workers go on."""
        self.runtime.draining = True
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.runtime.hub.close()
        async with asyncio.timeout(DRAIN_SECONDS):
            if self._config.checkpoint_seconds:
                await self.dispatcher.checkpointed(self._config.checkpoint_seconds)
            _stopped_mark(self._config.home).touch()
            await self._stack.aclose()


@contextlib.asynccontextmanager
async def running(config: ServerConfig, entries: Sequence[ServiceEntry]) -> AsyncIterator[ControlServer]:
    """A control server for the time of a `with` block."""
    server = ControlServer(config, entries)
    try:
        await server.start()
    except BaseException:
        await server._stack.aclose()
        raise
    try:
        yield server
    finally:
        await server.stop()


async def serve(config: ServerConfig, entries: Sequence[ServiceEntry], ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT; calls `ready` once requests are answered."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config, entries):
        ready()
        await stop.wait()
        log.info("stopping")


def register(server: grpc.aio.Server, contract: Contract, service: str, servicer: object) -> None:
    """Adds a servicer's methods. Raises ValueError where it lacks one that the contract has."""
    handlers = {method.name: _handler(method, servicer) for method in contract.of_service(service)}
    if not handlers:
        raise ValueError(f"the contract has no service {service}")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _handler(method: Method, servicer: object) -> MethodHandler:
    behaviour = getattr(servicer, method.name, None)
    if behaviour is None and method.reserved is not None:
        behaviour = _unreached
    if behaviour is None:
        raise ValueError(f"{type(servicer).__name__} has no {method.name}")
    return method_handler(method, behaviour, deserialize=method.request_class.FromString, serialize=_serialize)


async def _unreached(_request: object, context: Context) -> None:
    """Stands in for a reserved RPC: the interceptor has refused the call before."""
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "reserved")


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def bind(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    """Opens a port. Raises Unavailable (ADDRESS_IN_USE) with what to do."""
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.server_credentials())
    except RuntimeError as error:
        raise address_in_use(address) from error
    if port == 0 and not address.startswith("unix:"):
        raise address_in_use(address)
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).chmod(0o600)
    return port


def address_in_use(address: str) -> Unavailable:
    """The error for a port or socket that another process has."""
    return Unavailable(
        f"{address} is in use by another process, or cannot be opened. Stop that process or choose another address.",
        reason="ADDRESS_IN_USE",
        facts={"address": address},
    )


def _lock_home(home: Home) -> Any:
    """One control process a home: the lock ends with the process, however it ends."""
    path: Path = home.runtime / "control.lock"
    handle = path.open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise Unavailable(
            f"Another miStudio runs on {home.root}. Use it, stop it with `mistudio down`, or set MISTUDIO_HOME.",
            reason="ADDRESS_IN_USE",
            facts={"home": home.root},
        ) from error
    return handle


def _stopped_mark(home: Home) -> Path:
    """There while the last control process of a home ended as it was asked to."""
    return home.runtime / "control.stopped"


def _release(handle: Any) -> None:
    handle.close()
