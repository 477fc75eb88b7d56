"""TLS and mutual TLS with certificate files, on a server's port and through the client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trustme
from mistudio.job.v1 import job_service_pb2

from mistudio_core.errors import InvalidInput, MistudioError
from mistudio_core.home import Home
from mistudio_rpc.channel import Tls
from mistudio_rpc.client import Client
from mistudio_rpc.server import ControlServer, ServerConfig, running


class Certificates:
    """An authority, a server's and a client's certificate, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.authority = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        for name in ("server", "client"):
            made = authority.issue_cert("localhost", "127.0.0.1")
            made.private_key_pem.write_to_path(str(folder / f"{name}.key"))
            made.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        self.folder = folder

    def tls(self, name: str, *, authority: bool = True) -> Tls:
        return Tls(
            certificate=self.folder / f"{name}.pem",
            key=self.folder / f"{name}.key",
            authority=self.authority if authority else None,
        )


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def list_jobs(server: ControlServer, home: Home, tls: Tls | None) -> int:
    def call() -> int:
        with Client(f"localhost:{server.port}", home.token(), tls=tls, timeout=3) as client:
            return client.jobs.ListJobs(job_service_pb2.ListJobsRequest()).total_jobs

    return await asyncio.to_thread(call)


async def test_tls_answers_a_client_that_knows_the_authority(home: Home, certificates: Certificates):
    config = ServerConfig(home=home, address="localhost:0", tls=certificates.tls("server", authority=False))
    async with running(config, []) as server:
        assert await list_jobs(server, home, Tls(authority=certificates.authority)) == 0
        for stranger in (None, Tls()):
            with pytest.raises(MistudioError) as caught:
                await list_jobs(server, home, stranger)
            assert caught.value.reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


async def test_mutual_tls_asks_the_client_for_its_certificate(home: Home, certificates: Certificates):
    config = ServerConfig(home=home, address="localhost:0", tls=certificates.tls("server"))
    async with running(config, []) as server:
        assert await list_jobs(server, home, certificates.tls("client")) == 0
        with pytest.raises(MistudioError):
            await list_jobs(server, home, Tls(authority=certificates.authority))


def test_an_open_address_without_certificates_does_not_start(home: Home):
    with pytest.raises(InvalidInput) as caught:
        ControlServer(ServerConfig(home=home, address="0.0.0.0:50051"), [])
    assert "TLS" in caught.value.message
    assert "127.0.0.1" in caught.value.message


async def test_the_probe_listener_tells_health_and_nothing_else(home: Home):
    import socket

    import grpc
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from mistudio.job.v1 import job_service_pb2_grpc

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with (
        running(ServerConfig(home=home, probe_address=address), []),
        grpc.aio.insecure_channel(address) as channel,
    ):
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await job_service_pb2_grpc.JobServiceStub(channel).ListJobs(job_service_pb2.ListJobsRequest(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
