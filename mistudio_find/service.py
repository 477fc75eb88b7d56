"""FindService: translates messages, starts jobs, reads the features of completed ones."""

from __future__ import annotations

from mistudio.find.v1 import find_service_pb2

from mistudio_find import convert, service_start
from mistudio_find.service_exports import ExportMethods
from mistudio_find.service_history import HistoryMethods
from mistudio_find.service_queries import QueryMethods
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context

SERVICE = "find"


class FindServicer(ExportMethods, HistoryMethods, QueryMethods):
    """See the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        ExportMethods.__init__(self, runtime)
        HistoryMethods.__init__(self, runtime)
        QueryMethods.__init__(self, runtime)

    async def StartFind(
        self, request: find_service_pb2.StartFindRequest, _: Context
    ) -> find_service_pb2.StartFindResponse:
        """See service_start.py for what must be there before a job exists."""
        return convert.start_message(await service_start.start(self._runtime, request))

    async def GetFindStatus(
        self, request: find_service_pb2.GetFindStatusRequest, _: Context
    ) -> find_service_pb2.GetFindStatusResponse:
        """See the contract."""
        return convert.status_message(await self._runtime.queries.get(request.job_id, SERVICE))

    async def GetFindResult(
        self, request: find_service_pb2.GetFindResultRequest, _: Context
    ) -> find_service_pb2.GetFindResultResponse:
        """See the contract."""
        make = find_service_pb2.GetFindResultResponse.FromString
        job, response = await self._runtime.result_of(request.job_id, SERVICE, make)
        return convert.add_artifacts(response, job, await self._runtime.queries.artifacts_of(job.job_id))


entry = ServiceEntry(
    name=SERVICE,
    grpc_service="mistudio.find.v1.FindService",
    servicer=FindServicer,
    worker="mistudio_find.worker:run",
)
"""Registered in the group `mistudio.services`."""
