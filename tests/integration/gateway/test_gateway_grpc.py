"""The gRPC entry: the same bytes, status, details, deadline and cancellation on both sides."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from gateway_backend import JOB, TOKEN, Backend
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from mistudio.job.v1 import job_service_pb2, job_service_pb2_grpc
from mistudio.train.v1 import train_service_pb2 as train
from mistudio.train.v1 import train_service_pb2_grpc

from gateway.config import GatewayConfig
from gateway.routing import Router
from mistudio_core import errors
from mistudio_rpc import status
from mistudio_rpc.contract import Method, installed

AUTH = (("authorization", TOKEN),)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    found = rpc_status.from_call(error)
    assert found is not None and found.details[0].Unpack(info)
    return info.reason


async def test_unary(channel: grpc.aio.Channel, backend: Backend) -> None:
    stub = train_service_pb2_grpc.TrainServiceStub(channel)
    spoofed = (("x-user", "root"), ("x-blob-bin", b"1"), ("x-request-id", "r"), *AUTH)
    reply = await stub.StartTraining(train.StartTrainingRequest(model_name="m"), metadata=spoofed, timeout=7)
    assert reply.job_id == JOB
    assert {k: v for k, v in backend.script.metadata.items() if k != "user-agent"} == {
        "authorization": TOKEN,
        "x-request-id": "r",
    }
    assert 5 < (backend.script.time_remaining or 0) < 7.5


async def test_status_and_details(channel: grpc.aio.Channel, backend: Backend) -> None:
    stub = job_service_pb2_grpc.JobServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetJob(job_service_pb2.GetJobRequest(job_id="train_x"), metadata=AUTH)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    error = status.from_rpc_error(caught.value)
    assert isinstance(error, errors.NotFound) and error.facts == {"job_id": "train_x"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.WatchJob(job_service_pb2.WatchJobRequest(job_id="train_x"), metadata=AUTH):
            pass
    assert reason_of(caught.value) == "JOB_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListJobs(job_service_pb2.ListJobsRequest())
    assert reason_of(caught.value) == "TOKEN_MISSING"


async def test_watch_and_cancellation(channel: grpc.aio.Channel, backend: Backend) -> None:
    stub = job_service_pb2_grpc.JobServiceStub(channel)
    request = job_service_pb2.WatchJobRequest(job_id=JOB, after_sequence=1)
    seen = [e.event.sequence async for e in stub.WatchJob(request, metadata=AUTH)]
    assert seen == [0, 2, 3]
    backend.script.endless = True
    call = stub.WatchJob(request, metadata=AUTH)
    assert [(await call.read()).event.sequence for _ in range(3)] == [0, 2, 3]
    call.cancel()
    await asyncio.wait_for(backend.script.cancelled.wait(), 5)


async def test_deadline_ends_a_watch(channel: grpc.aio.Channel, backend: Backend) -> None:
    backend.script.endless = True
    stub = job_service_pb2_grpc.JobServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.WatchJob(job_service_pb2.WatchJobRequest(job_id=JOB), metadata=AUTH, timeout=0.5):
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(backend.script.cancelled.wait(), 5)


async def test_upload(channel: grpc.aio.Channel, backend: Backend) -> None:
    def messages() -> Any:
        yield train.UploadCorpusRequest(header=train.UploadHeader(filename="c.txt"))
        for offset in (0, 5):
            yield train.UploadCorpusRequest(chunk={"offset": offset, "data": b"12345"})

    reply = await train_service_pb2_grpc.TrainServiceStub(channel).UploadCorpus(messages(), metadata=AUTH)
    assert (reply.filename, reply.size_bytes) == ("c.txt", 10)


async def test_refusal_of_an_upload_is_the_services_own(channel: grpc.aio.Channel, backend: Backend) -> None:
    def messages() -> Any:
        yield train.UploadCorpusRequest(header=train.UploadHeader(filename="../c.txt"))
        for offset in range(0, 50):
            yield train.UploadCorpusRequest(chunk={"offset": offset * 2**16, "data": b"x" * 2**16})

    reasons = set()
    for _ in range(30):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await train_service_pb2_grpc.TrainServiceStub(channel).UploadCorpus(messages(), metadata=AUTH)
        if caught.value.details() != "Internal error from Core":  # of this test's own client
            reasons.add(reason_of(caught.value))
    assert reasons == {"BAD_FILE_NAME"}


@pytest.mark.parametrize(
    "path", ["/mistudio.worker.v1.WorkerService/Finish", "/mistudio.train.v1.TrainService/Nope", "/x.Y/Z"]
)
async def test_internal_and_unknown(channel: grpc.aio.Channel, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path)(b"", metadata=AUTH)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reason_of(caught.value) == "ROUTE_NOT_FOUND"


async def test_message_limit(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/mistudio.train.v1.TrainService/ValidateModel")
    overhead = len(train.ValidateModelRequest(model_name="a" * 2**22).SerializeToString()) - 2**22
    fits = train.ValidateModelRequest(model_name="a" * (2**22 - overhead))
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # the reply is longer than the request; the request passes
        await call(fits.SerializeToString())
    assert reason_of(caught.value) == "TOKEN_MISSING"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(train.ValidateModelRequest(model_name="a" * 2**22).SerializeToString())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metadata_limit(channel: grpc.aio.Channel) -> None:
    stub = train_service_pb2_grpc.TrainServiceStub(channel)
    await stub.GetHealth(train.GetHealthRequest(), metadata=(("x-a", "a" * 12_000),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetHealth(train.GetHealthRequest(), metadata=(("x-a", "a" * 17_000),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_and_reflection(channel: grpc.aio.Channel) -> None:
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    replies = [r async for r in stub.ServerReflectionInfo(iter([ask]))]
    names = {s.name for s in replies[0].list_services_response.service}
    assert "mistudio.train.v1.TrainService" in names and "mistudio.worker.v1.WorkerService" not in names


async def test_stop_ends_watches_at_once(start, backend: Backend) -> None:
    gateway = await start(limits={"drain_seconds": 8.0})
    backend.script.endless = True
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        call = stub.WatchJob(job_service_pb2.WatchJobRequest(job_id=JOB), metadata=AUTH)
        for _ in range(4):
            await call.read()
        async with asyncio.timeout(4):
            stopping = asyncio.create_task(gateway.stop())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            await stopping
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and reason_of(caught.value) == "UNAVAILABLE"


def method(path: str) -> Method:
    return installed().methods[path]


@pytest.mark.parametrize(
    ("path", "fields", "target"),
    [
        ("/mistudio.train.v1.TrainService/StartTraining", {}, "t"),
        ("/mistudio.find.v1.FindService/StartFind", {}, "f"),
        ("/mistudio.explain.v1.ExplainService/ListEngines", {}, "rest"),
        ("/mistudio.job.v1.JobService/GetJob", {"job_id": JOB}, "t"),
        ("/mistudio.job.v1.JobService/WatchJob", {"job_id": JOB.replace("train", "find")}, "f"),
        ("/mistudio.job.v1.JobService/ListJobs", {}, "t"),
        ("/mistudio.job.v1.JobService/ListJobs", {"service": "find"}, "f"),
        ("/mistudio.artifact.v1.ArtifactService/ListArtifacts", {"job_id": JOB.replace("train", "score")}, "rest"),
        ("/mistudio.artifact.v1.ArtifactService/ReadArtifact", {"uri": "/data/samples/find_x.txt"}, "t"),
        (
            "/mistudio.artifact.v1.ArtifactService/ReadArtifact",
            {"uri": "data/features/find_20250725_224918_198212ab/a"},
            "f",
        ),
        (
            "/mistudio.artifact.v1.ArtifactService/ReadArtifact",
            {"uri": "/data/models/find_20250725_224918_198212ab_sae.pt"},
            "f",
        ),
    ],
)
def test_owner(path: str, fields: dict[str, str], target: str) -> None:
    router = Router({"train": "t", "find": "f", "*": "rest"})
    message = method(path).request_class(**fields)
    assert not router.single
    assert router.target(method(path), message) == target
    assert router.target(method(path), message.SerializeToString()) == target


def test_no_owner() -> None:
    router = Router({"train": "t", "find": "f"})
    get, read = (
        method(f"/mistudio.{p}") for p in ("job.v1.JobService/GetJob", "artifact.v1.ArtifactService/ReadArtifact")
    )
    with pytest.raises(errors.NotFound, match="Job nonsense"):
        router.target(get, get.request_class(job_id="nonsense"))
    with pytest.raises(errors.NotFound) as caught:
        router.target(read, read.request_class(uri="/etc/passwd"))
    assert caught.value.reason == "ARTIFACT_NOT_FOUND"
    with pytest.raises(errors.InvalidInput, match="find, train"):
        listing = method("/mistudio.job.v1.JobService/ListJobs")
        router.target(listing, listing.request_class(service="score"))


async def test_routes_by_owner(start, backend: Backend) -> None:
    other = Backend()
    await other.server.start()
    gateway = await start(backends={"train": backend.target, "find": other.target})
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        await stub.ListJobs(job_service_pb2.ListJobsRequest(service="find"), metadata=AUTH)
        await stub.ListJobs(job_service_pb2.ListJobsRequest(), metadata=AUTH)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetJob(job_service_pb2.GetJobRequest(job_id="nonsense"), metadata=AUTH)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND and reason_of(caught.value) == "JOB_NOT_FOUND"
    assert (len(other.script.requests), len(backend.script.requests)) == (1, 1)
    await other.server.stop(0)


def test_backends_are_needed() -> None:
    with pytest.raises(errors.InvalidInput, match="owner=target"):
        GatewayConfig(backends={})
