"""Host, Origin and start-up: the gateway answers to its own name only, and never in clear on a public address."""

from __future__ import annotations

import dataclasses
import ssl
import subprocess
import sys
import time
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
from gateway_backend import client_of
from mistudio.train.v1 import train_service_pb2, train_service_pb2_grpc

from gateway.config import GatewayConfig
from mistudio_core.errors import InvalidInput, Unavailable
from mistudio_rpc.channel import Tls, open_channel


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8001", "127.0.0.1:9", "[::1]:8001", "LOCALHOST", "studio.lan"]
)
async def test_own_hosts(start, host: str) -> None:
    async with client_of(await start(host_names=("studio.lan",))) as client:
        assert (await client.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8001", "0.0.0.0", "["]
)
async def test_foreign_hosts(http: httpx.AsyncClient, host: str) -> None:
    for path in ("/health", "/openapi.json", "/docs", "/nope"):
        reply = await http.get(path, headers={"host": host})
        assert (reply.status_code, reply.json()["reason"]) == (403, "FORBIDDEN")
        assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("origin", "code"),
    [("http://localhost:8001", 200), ("http://127.0.0.1", 200), ("https://evil.example", 403), ("null", 403)],
)
async def test_origin(http: httpx.AsyncClient, origin: str, code: int) -> None:
    reply = await http.get("/health", headers={"origin": origin})
    assert reply.status_code == code
    assert not any(name.startswith("access-control") for name in reply.headers)
    preflight = await http.options("/api/v1/train", headers={"origin": "http://localhost:3000"})
    assert preflight.status_code == 405


@pytest.mark.parametrize("setting", ["http_address", "grpc_address"])
@pytest.mark.parametrize("address", ["0.0.0.0:8001", "[::]:8001", "192.168.1.5:1", "example.org:1"])
def test_public_listeners_need_a_certificate(setting: str, address: str) -> None:
    with pytest.raises(InvalidInput, match="--tls-cert"):
        GatewayConfig(backends={"*": "x"}, **{setting: address})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", ":1", "127.0.0.1:70000"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(InvalidInput, match="host:port"):
        GatewayConfig(backends={"*": "x"}, http_address=address)


async def test_port_in_use(start, gateway) -> None:
    for setting, address, option in (
        ("http_address", gateway.http_address, "--http"),
        ("grpc_address", gateway.grpc_address, "--grpc"),
    ):
        with pytest.raises(Unavailable, match=option) as caught:
            await start(**{setting: address})
        assert caught.value.reason == "ADDRESS_IN_USE" and address.rpartition(":")[2] in caught.value.message


def test_process(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.json"
    command = [sys.executable, "-m", "gateway", "--home", str(tmp_path), "--http", "127.0.0.1:0"]
    command += ["--grpc", "127.0.0.1:0", "--endpoints-file", str(endpoints)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert "gateway ready" in process.stderr.readline()
        found = httpx.Response(200, content=endpoints.read_bytes()).json()
        assert found["pid"] == process.pid
        assert httpx.get(found["url"] + "/health", trust_env=False).status_code == 503
        taken = subprocess.run([*command[:5], "--http", found["http"]], capture_output=True, text=True, check=False)
        assert taken.returncode == 1 and "ADDRESS_IN_USE" in taken.stderr and found["http"] in taken.stderr
        assert "Traceback" not in taken.stderr
        started = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0 and time.monotonic() - started < 3
    public = subprocess.run([*command, "--http", "0.0.0.0:0"], capture_output=True, text=True, check=False)
    assert public.returncode == 1 and "--tls-cert" in public.stderr


def test_lean_imports() -> None:
    code = "import gateway.__main__, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "fastapi", "httpx", "sqlalchemy", "protovalidate", "transformers"}
    assert not {m for m in loaded if m.startswith(("mistudio_train", "mistudio_find", "mistudio_explain"))}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return Tls(certificate=certificate, key=key)


async def test_tls(start, certificate: Tls) -> None:
    gateway = await start(tls=certificate, http_address="0.0.0.0:0", grpc_address="0.0.0.0:0")
    assert gateway.endpoints()["url"].startswith("https://")
    trusted = ssl.create_default_context(cafile=str(certificate.certificate))
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
        port = gateway.http_address.rpartition(":")[2]
        assert (await client.get(f"https://localhost:{port}/health")).status_code == 200
        with pytest.raises(httpx.TransportError):
            await client.get(f"http://localhost:{port}/health")
    port = gateway.grpc_address.rpartition(":")[2]
    async with open_channel(f"localhost:{port}", Tls(authority=certificate.certificate)) as channel:
        stub = train_service_pb2_grpc.TrainServiceStub(channel)
        assert (await stub.GetHealth(train_service_pb2.GetHealthRequest())).status == "healthy"
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # reflection is for loopback only
            await channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")().read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_mutual_tls(start, certificate: Tls) -> None:
    gateway = await start(tls=dataclasses.replace(certificate, authority=certificate.certificate))
    trusted = ssl.create_default_context(cafile=str(certificate.certificate))
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"https://{gateway.http_address}/health")
    trusted.load_cert_chain(str(certificate.certificate), str(certificate.key))
    async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
        assert (await client.get(f"https://{gateway.http_address}/health")).status_code == 200
    for tls, served in ((certificate, True), (Tls(), False)):
        own = dataclasses.replace(tls, authority=certificate.certificate)
        async with open_channel(gateway.grpc_address, own) as channel:
            stub = train_service_pb2_grpc.TrainServiceStub(channel)
            if served:
                await stub.GetHealth(train_service_pb2.GetHealthRequest(), timeout=5)
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.GetHealth(train_service_pb2.GetHealthRequest(), timeout=5)


async def test_docs_page_loads_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    for path in ("/docs/page.css", "/docs/page.js"):
        assert path in page.text and (await http.get(path)).status_code == 200
    text = page.text + (await http.get("/docs/page.js")).text + (await http.get("/docs/page.css")).text
    assert "http://" not in text and "https://" not in text and "innerHTML" not in text
    assert (await http.get("/openapi.json")).json()["openapi"].startswith("3.1")


async def test_long_heads_are_refused(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health", headers={"x-a": "a" * 12_000})).status_code == 200
    for size in (16 * 1024, 70_000):
        reply = await http.get("/health", headers={"x-a": "a" * size})
        assert (reply.status_code, reply.json()["reason"]) == (431, "TOO_LARGE")


async def test_compressed_calls_are_refused(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/mistudio.train.v1.TrainService/ValidateModel")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(
            train_service_pb2.ValidateModelRequest(model_name="a" * 10_000).SerializeToString(),
            compression=grpc.Compression.Gzip,
        )
    assert caught.value.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL}
