"""TrainService: translates messages, asks the domain, starts jobs. No torch in this process."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from mistudio.train.v1 import train_service_pb2

from mistudio_core.jobs.records import DeviceRequest, NewJob
from mistudio_core.secret import Secret
from mistudio_rpc import messages
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context
from mistudio_torch.lm.hookpoints import BLOCK_KINDS
from mistudio_train import convert, convert_memory
from mistudio_train.service_corpora import CorpusMethods
from mistudio_train.service_hooks import HookMethods
from mistudio_train.service_memory import MemoryMethods

SERVICE = "train"
_TOKEN = "huggingface_token"  # noqa: S105  the name of a secret, not one


class TrainServicer(CorpusMethods, MemoryMethods, HookMethods):
    """See the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        CorpusMethods.__init__(self, runtime)
        MemoryMethods.__init__(self, runtime)

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
        inputs = await self._corpus_inputs(request, token)
        catalogue = await self._hooks(request.model_name, token)
        facts = catalogue.facts
        config.sequence_length_of(facts.max_positions)
        variants = config.variants(facts.total_layers)
        layer = max(catalogue.check(hook) for variant in variants for hook in variant.hooks)
        chosen = not (config.layer_number is not None or config.auto_layer or config.sweep.layers)
        chosen = chosen and config.hook in BLOCK_KINDS
        if chosen:  # the job keeps what was decided, and the reply says it
            request.layer_number = layer = config.layer_of(facts.total_layers)
        device, told = await self._fitted(request, facts, config, device)
        return NewJob(
            service=SERVICE,
            request=request.SerializeToString(deterministic=True),
            request_id=request.request_id,
            body_sha256=body_sha256,
            model_name=request.model_name,
            inputs=inputs,
            device=device,
            details={
                "facts": asdict(facts),
                "layer": layer,
                "layer_was_chosen": chosen,
                "layer_is_probed": config.auto_layer,
                **told,
            },
        )

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

    async def GetHealth(
        self, _request: train_service_pb2.GetHealthRequest, _: Context
    ) -> train_service_pb2.GetHealthResponse:
        """See the contract."""
        gpus = await asyncio.to_thread(self._runtime.devices.gpus)
        return train_service_pb2.GetHealthResponse(
            service="miStudioTrain",
            status="draining" if self._runtime.draining else "healthy",
            version=self._runtime.version,
            gpu_available=bool(gpus),
            gpu_count=len(gpus),
            memory_status=convert_memory.gpu_memory(gpus),
            queue_depth=await self._runtime.queries.queue_depth(SERVICE),
            free_slots=await asyncio.to_thread(self._runtime.devices.free_slots),
        )


entry = ServiceEntry(
    name=SERVICE,
    grpc_service="mistudio.train.v1.TrainService",
    servicer=TrainServicer,
    worker="mistudio_train.worker:run",
    preload=("torch", "transformers", "mistudio_torch.compiled"),
    wants_gpu=True,
)
"""Registered in the group `mistudio.services`."""
