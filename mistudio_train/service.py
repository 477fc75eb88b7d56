"""TrainService: translates messages, asks the domain, starts jobs. No torch in this process."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from mistudio.train.v1 import train_service_pb2, training_pb2

from mistudio_core.corpus.intake import CorpusIntake, check_name
from mistudio_core.errors import InvalidInput, MistudioError, NotFound, Unavailable
from mistudio_core.jobs.records import DeviceRequest, InputReference, NewJob
from mistudio_core.secret import Secret
from mistudio_rpc import messages
from mistudio_rpc.devices import read_gpus
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context
from mistudio_torch.lm.facts import ModelFacts
from mistudio_torch.lm.source import check_layer, inspect_model
from mistudio_train import convert

SERVICE = "train"
_TOKEN = "huggingface_token"  # noqa: S105  the name of a secret, not one


class TrainServicer:
    """See the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime
        self._hub = ThreadPoolExecutor(max_workers=4, thread_name_prefix="hub")

    async def StartTraining(
        self, request: train_service_pb2.StartTrainingRequest, _: Context
    ) -> train_service_pb2.StartTrainingResponse:
        """Checks everything that can be known before the job exists, then records it."""
        token = Secret(request.huggingface_token)
        request.huggingface_token = ""
        job = await self._runtime.started(SERVICE, request)
        if job is None:
            new = await self._new_job(request, token)
            job, _fresh = await self._runtime.start_job(new, secrets={_TOKEN: token})
        return convert.start_message(job)

    async def _new_job(self, request: train_service_pb2.StartTrainingRequest, token: Secret) -> NewJob:
        body_sha256 = messages.body_sha256(request)
        config = convert.config_of(request, self._runtime.home)
        device = DeviceRequest(
            gpu_id=request.gpu_id if request.HasField("gpu_id") else None, min_gpu_memory_gb=request.min_gpu_memory_gb
        )
        self._runtime.devices.check(device)
        corpus = await self._corpus(request.corpus_file)
        facts = await self._facts(request.model_name, token)
        layer = config.layer_of(facts.total_layers)
        check_layer(facts, layer)
        config.sequence_length_of(facts.max_positions)
        chosen = not request.HasField("layer_number") and not request.hook_name
        request.layer_number = layer  # the job keeps what was decided, and the reply says it
        request.hook_name = ""
        return NewJob(
            service=SERVICE,
            request=request.SerializeToString(deterministic=True),
            request_id=request.request_id,
            body_sha256=body_sha256,
            model_name=request.model_name,
            inputs={"corpus": corpus},
            device=device,
            details={"facts": asdict(facts), "layer": layer, "layer_was_chosen": chosen},
        )

    async def _corpus(self, name: str) -> InputReference:
        uri = corpus_uri(name)
        try:
            record = await self._runtime.queries.artifact(uri)
        except NotFound as error:
            raise InvalidInput(
                f"Corpus file '{name}' not found. Please upload it first: `mistudio upload FILE`.",
                reason="CORPUS_NOT_FOUND",
                facts={"corpus_file": name},
            ) from error
        return InputReference(uri=uri, sha256=record.sha256)

    async def _facts(self, name: str, token: Secret) -> ModelFacts:
        """Asks the hub in threads of its own: a slow one must not hold up the work of other jobs."""
        ask = functools.partial(inspect_model, name, token=token or None, model_root=self._runtime.home.models)
        return await asyncio.get_running_loop().run_in_executor(self._hub, ask)

    async def GetTrainingStatus(
        self, request: train_service_pb2.GetTrainingStatusRequest, _: Context
    ) -> train_service_pb2.GetTrainingStatusResponse:
        """See the contract."""
        return convert.status_message(await self._runtime.queries.get(request.job_id, SERVICE))

    async def GetTrainingResult(
        self, request: train_service_pb2.GetTrainingResultRequest, _: Context
    ) -> train_service_pb2.GetTrainingResultResponse:
        """See the contract."""
        make = train_service_pb2.GetTrainingResultResponse.FromString
        job, response = await self._runtime.result_of(request.job_id, SERVICE, make)
        return convert.add_artifacts(response, job, await self._runtime.queries.artifacts_of(job.job_id))

    async def CheckMemory(
        self, request: train_service_pb2.CheckMemoryRequest, _: Context
    ) -> train_service_pb2.CheckMemoryResponse:
        """See the contract."""
        facts = await self._facts(request.model_name, Secret(""))
        return convert.memory_answer(facts, await asyncio.to_thread(read_gpus))

    async def ValidateModel(
        self, request: train_service_pb2.ValidateModelRequest, _: Context
    ) -> train_service_pb2.ValidateModelResponse:
        """A model that cannot be used is an answer, not an error; an unreachable hub is an error."""
        try:
            return convert.model_answer(await self._facts(request.model_name, Secret(request.huggingface_token)))
        except Unavailable:
            raise
        except MistudioError as error:
            gated = error.reason == "MODEL_GATED"
            return train_service_pb2.ValidateModelResponse(
                model_name=request.model_name, requires_token=gated, message=error.message, reason=error.reason
            )

    async def UploadCorpus(
        self, requests: AsyncIterator[train_service_pb2.UploadCorpusRequest], _: Context
    ) -> train_service_pb2.UploadCorpusResponse:
        """Nothing is kept of an upload that breaks off or is refused."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInput.field("part", "nothing", "a header as the first message of the stream")
        name = check_name(first.header.filename)
        writer = await asyncio.to_thread(self._runtime.artifacts.stage, corpus_uri(name), "corpus")
        intake = CorpusIntake(writer, name)
        try:
            async for request in requests:
                await asyncio.to_thread(intake.feed, request.chunk.data, request.chunk.offset)
            intake.check_size(first.header.size_bytes)
            await asyncio.to_thread(intake.finish)
            record = await asyncio.to_thread(writer.seal)
        except BaseException:
            intake.close()
            writer.discard()
            raise
        await self._runtime.jobs.add_upload(record)
        return train_service_pb2.UploadCorpusResponse(
            message="File uploaded successfully",
            filename=name,
            size_bytes=record.size_bytes,
            lines_count=intake.documents,
            path=record.uri,
            sha256=record.files[0].sha256,
        )

    async def GetHealth(
        self, _request: train_service_pb2.GetHealthRequest, _: Context
    ) -> train_service_pb2.GetHealthResponse:
        """See the contract."""
        gpus = await asyncio.to_thread(read_gpus)
        memory = {
            f"gpu_{g.index}": training_pb2.GpuMemory(
                free_gb=round(g.free_bytes / convert.GB, 1), total_gb=round(g.total_bytes / convert.GB, 1)
            )
            for g in gpus
        }
        return train_service_pb2.GetHealthResponse(
            service="miStudioTrain",
            status="draining" if self._runtime.draining else "healthy",
            version=self._runtime.version,
            gpu_available=bool(gpus),
            gpu_count=len(gpus),
            memory_status=memory,
            queue_depth=await self._runtime.queries.queue_depth(SERVICE),
            free_slots=await asyncio.to_thread(self._runtime.devices.free_slots),
        )

    async def GetGpuStatus(
        self, _request: train_service_pb2.GetGpuStatusRequest, _: Context
    ) -> train_service_pb2.GetGpuStatusResponse:
        """See the contract."""
        return convert.gpu_status(await asyncio.to_thread(read_gpus))

    async def WatchGpu(
        self, request: train_service_pb2.WatchGpuRequest, _: Context
    ) -> AsyncIterator[train_service_pb2.WatchGpuResponse]:
        """See the contract."""
        interval = request.interval_seconds if request.HasField("interval_seconds") else 1.0
        while not self._runtime.draining:
            status = convert.gpu_status(await asyncio.to_thread(read_gpus))
            yield train_service_pb2.WatchGpuResponse(status=status)
            await asyncio.sleep(interval)


def corpus_uri(name: str) -> str:
    """The logical path of an uploaded corpus."""
    return f"/data/samples/{name}"


entry = ServiceEntry(
    name=SERVICE,
    grpc_service="mistudio.train.v1.TrainService",
    servicer=TrainServicer,
    worker="mistudio_train.worker:run",
    preload=("torch", "transformers"),
    wants_gpu=True,
)
"""Registered in the group `mistudio.services`."""
