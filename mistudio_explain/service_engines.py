"""The RPCs of ExplainService about engines, and the work behind them that a control process does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import cast

from mistudio.explain.v1 import explain_service_pb2

from mistudio_core.errors import Unavailable
from mistudio_core.gpus import GpuReading
from mistudio_explain import convert_engines as convert
from mistudio_explain.engines.roster import Roster
from mistudio_explain.engines.vllm_pool import DRAIN_SECONDS, VllmPool
from mistudio_explain.engines.vllm_settings import cores_of
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context

PRELOAD = ("mistudio_explain.worker", *(("mistudio_explain.engines.vllm",) if find_spec("openai") else ()))
"""What a spare worker imports before it has a job: the clients of engines take most of a second."""
_PART = "explain.engines"
_WAITS_SECONDS = 3.0


class Devices:
    """The machine's leases as the pool asks for them."""

    def __init__(self, devices: DevicePool) -> None:
        """Over the pool that jobs lease from too."""
        self._devices = devices

    def gpus(self) -> list[GpuReading]:
        """See Lessor."""
        return self._devices.gpus()

    def lease(self, device: str) -> list[int] | None:
        """See Lessor."""
        cores = cores_of(device)
        if cores:
            held = self._devices.lease_cores(cores)
            return None if held is None else [lease.fd for lease in held]
        lease = self._devices.lease_gpu(int(device.partition(":")[2]))
        return None if lease is None else [lease.fd]

    def wanted(self) -> bool:
        """See Lessor."""
        return self._devices.gpu_wanted(_WAITS_SECONDS)


@asynccontextmanager
async def background(runtime: Runtime) -> AsyncIterator[None]:
    """Engines for the life of a control process: found again or started at its start, ended at its end."""
    pool = VllmPool(runtime.home, Devices(runtime.devices))
    roster = runtime.parts[_PART] = Roster(runtime.home, pool)
    try:
        await pool.open()
        yield
    finally:
        await roster.close()
        await pool.close()


class EngineMethods:
    """Part of the servicer; see the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime, in which `background` runs."""
        self._runtime = runtime

    @property
    def _roster(self) -> Roster:
        return cast(Roster, self._runtime.parts[_PART])

    async def ListEngines(
        self, _request: explain_service_pb2.ListEnginesRequest, _: Context
    ) -> explain_service_pb2.ListEnginesResponse:
        """See the contract."""
        found = await self._roster.all()
        return explain_service_pb2.ListEnginesResponse(engines=[convert.engine_message(s) for s in found])

    async def WatchEngines(
        self, request: explain_service_pb2.WatchEnginesRequest, _: Context
    ) -> AsyncIterator[explain_service_pb2.WatchEnginesResponse]:
        """See the contract."""
        async for status in self._roster.watch(request.engine, lambda: self._runtime.draining):
            message = None if status is None else convert.engine_message(status)
            yield explain_service_pb2.WatchEnginesResponse(engine=message)
        raise Unavailable("The service is stopping. Attach again in a moment.")

    async def StartEngine(
        self, request: explain_service_pb2.StartEngineRequest, _: Context
    ) -> explain_service_pb2.StartEngineResponse:
        """See the contract."""
        status = await self._roster.start(request.engine, request.model)
        return explain_service_pb2.StartEngineResponse(engine=convert.engine_message(status))

    async def StopEngine(
        self, request: explain_service_pb2.StopEngineRequest, _: Context
    ) -> explain_service_pb2.StopEngineResponse:
        """See the contract."""
        seconds = request.drain_seconds if request.HasField("drain_seconds") else DRAIN_SECONDS
        status = await self._roster.stop(request.engine, seconds)
        return explain_service_pb2.StopEngineResponse(engine=convert.engine_message(status))

    async def LoadModel(
        self, request: explain_service_pb2.LoadModelRequest, _: Context
    ) -> explain_service_pb2.LoadModelResponse:
        """See the contract."""
        status = await self._roster.load(request.engine, request.model)
        return explain_service_pb2.LoadModelResponse(engine=convert.engine_message(status))

    async def UnloadModel(
        self, request: explain_service_pb2.UnloadModelRequest, _: Context
    ) -> explain_service_pb2.UnloadModelResponse:
        """See the contract."""
        status = await self._roster.unload(request.engine, request.model)
        return explain_service_pb2.UnloadModelResponse(engine=convert.engine_message(status))
