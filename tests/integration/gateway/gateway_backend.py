"""A small scripted control process: real gRPC on a free port, fixed answers, and a memory of what it was sent."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
from grpc_status import rpc_status
from mistudio.artifact.v1 import artifact_pb2, artifact_service_pb2, artifact_service_pb2_grpc
from mistudio.job.v1 import job_event_pb2, job_pb2, job_service_pb2, job_service_pb2_grpc
from mistudio.train.v1 import train_service_pb2 as train
from mistudio.train.v1 import train_service_pb2_grpc, training_pb2

from gateway.config import GatewayConfig, Limits
from gateway.server import Gateway
from mistudio_core import errors, ids
from mistudio_rpc import status
from mistudio_rpc.contract import Contract, installed

JOB = "train_20250725_224918_198212ab"
TOKEN = "Bearer secret"
FILE = bytes(range(256)) * 10_000  # 2.56 MB


async def fail(context: Any, error: errors.MistudioError) -> None:
    await context.abort_with_status(rpc_status.to_status(status.to_status(error)))


class Script:
    """What the servicers were sent and how they answer."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.time_remaining: float | None = None
        self.chunks: list[artifact_pb2.Chunk] = []
        self.header: train.UploadHeader | None = None
        self.cancelled = asyncio.Event()
        self.error: errors.MistudioError | BaseException | None = None
        self.events = 3
        self.endless = False

    async def enter(self, request: Any, context: Any, *, public: bool = False) -> None:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        self.time_remaining = context.time_remaining()
        token = self.metadata.get("authorization")
        if not public and token != TOKEN:
            reason = "TOKEN_INVALID" if token else "TOKEN_MISSING"
            await fail(context, errors.Unauthenticated("Send the token of `mistudio token`.", reason=reason))
        if isinstance(self.error, errors.MistudioError):
            await fail(context, self.error)
        if self.error is not None:
            raise self.error


class Train(train_service_pb2_grpc.TrainServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def StartTraining(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        return train.StartTrainingResponse(
            job_id=JOB,
            status=job_pb2.JOB_STATUS_QUEUED,
            message=f"Training job started for {request.model_name}",
            model_name=request.model_name,
            memory_check="passed",
        )

    async def GetTrainingStatus(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        if request.job_id != JOB:
            await fail(context, ids.job_not_found(request.job_id))
        return train.GetTrainingStatusResponse(job_id=JOB, status=job_pb2.JOB_STATUS_RUNNING, progress=0.65)

    async def GetTrainingResult(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        stats = training_pb2.TrainingStats(final_loss=0.0156, tokens=2**53 + 1)
        return train.GetTrainingResultResponse(
            job_id=JOB, status=job_pb2.JOB_STATUS_COMPLETED, training_stats=stats, feature_count=1024
        )

    async def CheckMemory(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        reply = train.CheckMemoryResponse(model_name=request.model_name)
        reply.memory_check.sufficient = True
        reply.gpu_compatibility["gpu_0"].compatible = True
        return reply

    async def ValidateModel(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        return train.ValidateModelResponse(model_name=request.model_name, valid=True, accessible=True)

    async def UploadCorpus(self, request_iterator: Any, context: Any) -> Any:
        await self.script.enter(None, context)
        digest, size = hashlib.sha256(), 0
        try:
            async for message in request_iterator:
                if message.WhichOneof("part") is None:  # the real interceptor refuses it by the contract's rule
                    self.script.cancelled.set()
                    await fail(context, errors.InvalidInput.field("part", "", "header or chunk"))
                elif message.HasField("header"):
                    self.script.header = message.header
                    if "/" in message.header.filename:
                        await fail(context, errors.InvalidInput("No path, please.", reason="BAD_FILE_NAME"))
                else:
                    self.script.chunks.append(artifact_pb2.Chunk(offset=message.chunk.offset))
                    assert message.chunk.offset == size and len(message.chunk.data) <= 2**20
                    digest.update(message.chunk.data)
                    size += len(message.chunk.data)
        except asyncio.CancelledError:
            self.script.cancelled.set()
            raise
        name = self.script.header.filename if self.script.header else ""
        return train.UploadCorpusResponse(
            message="File uploaded successfully",
            filename=name,
            size_bytes=size,
            lines_count=10,
            path=f"/data/samples/{name}",
            sha256=digest.hexdigest(),
        )

    async def GetHealth(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context, public=True)
        reply = train.GetHealthResponse(
            service="miStudioTrain", status="healthy", version="1.2.0", gpu_available=True, gpu_count=1
        )
        reply.memory_status["gpu_0"].CopyFrom(training_pb2.GpuMemory(free_gb=22.1, total_gb=24.0))
        return reply

    async def GetGpuStatus(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        reply = train.GetGpuStatusResponse(cuda_available=True, device_count=1, current_device=0)
        reply.gpus["0"].CopyFrom(training_pb2.Gpu(name="NVIDIA GeForce RTX 3090", memory_total=25757220864))
        return reply

    async def WatchGpu(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        for _ in range(2):
            yield train.WatchGpuResponse()


class Jobs(job_service_pb2_grpc.JobServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    async def GetJob(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        if request.job_id != JOB:
            await fail(context, ids.job_not_found(request.job_id))
        job = job_pb2.Job(job_id=JOB, service="train", status=job_pb2.JOB_STATUS_COMPLETED)
        job.created_at.FromJsonString("2025-07-25T22:49:18Z")
        return job_service_pb2.GetJobResponse(job=job)

    async def ListJobs(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        return job_service_pb2.ListJobsResponse(total_jobs=0)

    async def CancelJob(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        return job_service_pb2.CancelJobResponse(job=job_pb2.Job(job_id=request.job_id, cancel_requested=True))

    async def WatchJob(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        if request.job_id != JOB:
            await fail(context, ids.job_not_found(request.job_id))
        try:
            yield _event(snapshot=job_pb2.Job(job_id=JOB))
            for sequence in range(request.after_sequence + 1, self.script.events + 1):
                yield _event(sequence=sequence, log=job_event_pb2.LogLine(message=f"line {sequence}\nmore"))
            if self.script.endless:
                await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.script.cancelled.set()
            raise
        if isinstance(self.script.error, errors.MistudioError):
            await fail(context, self.script.error)


def _event(**fields: Any) -> Any:
    return job_service_pb2.WatchJobResponse(event=job_event_pb2.JobEvent(job_id=JOB, **fields))


class Artifacts(artifact_service_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script
        self.break_after: int | None = None

    async def ListArtifacts(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        return artifact_service_pb2.ListArtifactsResponse()

    async def ReadArtifact(self, request: Any, context: Any) -> Any:
        await self.script.enter(request, context)
        if not request.uri.endswith(("report.html", "evil.html")):
            await fail(context, errors.NotFound("No such artifact.", reason="ARTIFACT_NOT_FOUND"))
        name = '../"évil\r\n.html' if "evil" in request.uri else "report.html"
        header = artifact_pb2.DownloadHeader(
            filename=name, media_type="text/html", size_bytes=len(FILE), sha256=hashlib.sha256(FILE).hexdigest()
        )
        yield artifact_service_pb2.ReadArtifactResponse(header=header)
        for start in range(request.offset, self.break_after or len(FILE), 2**20):
            data = FILE[start : start + 2**20]
            yield artifact_service_pb2.ReadArtifactResponse(chunk=artifact_pb2.Chunk(offset=start, data=data))


class Backend:
    """A server with the three servicers."""

    def __init__(self) -> None:
        self.script = Script()
        self.artifacts = Artifacts(self.script)
        self.server = grpc.aio.server()
        train_service_pb2_grpc.add_TrainServiceServicer_to_server(Train(self.script), self.server)
        job_service_pb2_grpc.add_JobServiceServicer_to_server(Jobs(self.script), self.server)
        artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server(self.artifacts, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def running_gateway(target: str, contract: Contract | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    limits = dataclasses.replace(Limits(drain_seconds=1.0), **settings.pop("limits", {}))
    options = {"http_address": "127.0.0.1:0", "grpc_address": "127.0.0.1:0", "backends": {"*": target}, **settings}
    gateway = Gateway(contract or installed(), GatewayConfig(limits=limits, **options))
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


def client_of(gateway: Gateway, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://{gateway.http_address}",
        headers={"authorization": TOKEN, **headers},
        trust_env=False,
        timeout=30.0,
    )
