"""The RPCs of TrainService about models, memory and GPUs: translates messages, asks `assess`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mistudio.train.v1 import train_service_pb2

from mistudio_core import hostmemory
from mistudio_core.errors import Forbidden, MistudioError, Unavailable
from mistudio_core.gpus import GB, GpuReading
from mistudio_core.jobs.records import DeviceRequest
from mistudio_core.secret import Secret
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context
from mistudio_torch.lm.facts import ModelFacts
from mistudio_torch.lm.hookable import HookCatalogue, inspect_hooks
from mistudio_torch.lm.source import check_layer, inspect_model
from mistudio_train import convert_memory
from mistudio_train.assess import Assessment, assess
from mistudio_train.config import TrainConfig
from mistudio_train.planner import refusal

WATCH_SECONDS = 1.0
"""Between samples of WatchGpu, where the request says nothing."""


class MemoryMethods:
    """Part of the servicer; see the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime
        self._hub = ThreadPoolExecutor(max_workers=4, thread_name_prefix="hub")

    async def CheckMemory(
        self, request: train_service_pb2.CheckMemoryRequest, _: Context
    ) -> train_service_pb2.CheckMemoryResponse:
        """See the contract."""
        config = convert_memory.checked_config(request, self._runtime.home)
        facts, origin = await self._facts_or_shape(request)
        check_layer(facts, config.layer_of(facts.total_layers))
        gpu_id = request.gpu_id if request.HasField("gpu_id") else None
        found = await self._assess(facts, config, gpu_id)
        return convert_memory.memory_answer(facts, found, shape_from=origin)

    async def ValidateModel(
        self, request: train_service_pb2.ValidateModelRequest, _: Context
    ) -> train_service_pb2.ValidateModelResponse:
        """A model that cannot be used is an answer, not an error; an unreachable hub is an error."""
        try:
            facts = await self._facts(request.model_name, Secret(request.huggingface_token))
        except Unavailable:
            raise
        except MistudioError as error:
            gated = error.reason == "MODEL_GATED"
            return train_service_pb2.ValidateModelResponse(
                model_name=request.model_name, requires_token=gated, message=error.message, reason=error.reason
            )
        found = await self._assess(facts, TrainConfig(model_name=request.model_name), None)
        return convert_memory.model_answer(facts, found)

    async def GetGpuStatus(
        self, _request: train_service_pb2.GetGpuStatusRequest, _: Context
    ) -> train_service_pb2.GetGpuStatusResponse:
        """See the contract."""
        return await asyncio.to_thread(_gpu_status, self._runtime.devices)

    async def WatchGpu(
        self, request: train_service_pb2.WatchGpuRequest, _: Context
    ) -> AsyncIterator[train_service_pb2.WatchGpuResponse]:
        """See the contract."""
        interval = request.interval_seconds if request.HasField("interval_seconds") else WATCH_SECONDS
        while not self._runtime.draining:
            status = await asyncio.to_thread(_gpu_status, self._runtime.devices)
            yield train_service_pb2.WatchGpuResponse(status=status)
            await asyncio.sleep(interval)

    async def _facts(self, name: str, token: Secret) -> ModelFacts:
        """Asks the hub in threads of its own: a slow one must not hold up the work of other jobs."""
        ask = functools.partial(inspect_model, name, token=token or None, model_root=self._runtime.home.models)
        return await asyncio.get_running_loop().run_in_executor(self._hub, ask)

    async def _hooks(self, name: str, token: Secret) -> HookCatalogue:
        """Facts and hooks, asked in the same threads."""
        ask = functools.partial(inspect_hooks, name, token=token or None, model_root=self._runtime.home.models)
        return await asyncio.get_running_loop().run_in_executor(self._hub, ask)

    async def _facts_or_shape(self, request: train_service_pb2.CheckMemoryRequest) -> tuple[ModelFacts, str]:
        """The model's own facts; the given shape where its files cannot be had."""
        try:
            return await self._facts(request.model_name, Secret("")), "model"
        except (Unavailable, Forbidden):
            if not request.HasField("shape"):
                raise
            return convert_memory.facts_of_shape(request.model_name, request.shape), "request"

    async def _assess(
        self,
        facts: ModelFacts,
        config: TrainConfig,
        gpu_id: int | None,
        *,
        fixed: frozenset[str] = frozenset(),
        at_start: bool = False,
    ) -> Assessment:
        """The run on this machine as it is now; a job that may wait for others counts with what they give back."""

        def look() -> Assessment:
            gpus, host = _machine(self._runtime.devices, at_start=at_start)
            return assess(facts, config, gpus=gpus, host_bytes=host, gpu_id=gpu_id, fixed=fixed)

        return await asyncio.to_thread(look)

    async def _fitted(
        self,
        request: train_service_pb2.StartTrainingRequest,
        facts: ModelFacts,
        config: TrainConfig,
        device: DeviceRequest,
    ) -> tuple[DeviceRequest, dict[str, object]]:
        """Settles what the caller left open so that the run fits, in `request`; the device and what to tell.

        What the caller chose is never changed. Raises LimitReached (INSUFFICIENT_MEMORY) where the run
        can never fit this machine.
        """
        found = await self._assess(facts, config, device.gpu_id, fixed=convert_memory.given(request), at_start=True)
        if found.suggested is None:
            raise refusal(facts, config, found.planned, found.room)
        for name, value in found.changes.items():
            setattr(request, name, convert_memory.request_value(name, value))
        if found.room.on_gpu:  # placed by what fits
            least = max(device.min_gpu_memory_gb, found.fitting.gpu_bytes / GB)
            device = replace(device, min_gpu_memory_gb=least)
        return device, convert_memory.told(found)


def _machine(devices: DevicePool, *, at_start: bool) -> tuple[list[GpuReading], int]:
    """The GPUs and the free RAM; at the start of a job, what running jobs hold counts as free."""
    gpus, host = devices.gpus(), hostmemory.available_bytes()
    if not at_start:
        return gpus, host
    free = devices.free_gpus(gpus)
    busy = len(free) < len(gpus) if gpus else not devices.free_slots()
    gpus = [g if g in free else replace(g, used_bytes=0) for g in gpus]
    return gpus, hostmemory.total_bytes() if busy else host


def _gpu_status(devices: DevicePool) -> train_service_pb2.GetGpuStatusResponse:
    gpus = devices.gpus()
    return convert_memory.gpu_status(gpus, devices.free_gpus(gpus))
