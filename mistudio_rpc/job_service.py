"""JobService: get, list, watch and cancel jobs, the same for every service."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mistudio.job.v1 import job_pb2, job_service_pb2

from mistudio_rpc import messages
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context


class JobServicer:
    """JobService."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime

    async def GetJob(self, request: job_service_pb2.GetJobRequest, _: Context) -> job_service_pb2.GetJobResponse:
        """See the contract."""
        job = await self._runtime.queries.get(request.job_id)
        return job_service_pb2.GetJobResponse(job=messages.job_message(job))

    async def ListJobs(self, request: job_service_pb2.ListJobsRequest, _: Context) -> job_service_pb2.ListJobsResponse:
        """See the contract."""
        jobs, token, total = await self._runtime.queries.page(
            request.service or "train",
            status=messages.enum_short(job_pb2.JobStatus.Name(request.status), "JOB_STATUS_"),
            size=request.page_size or 100,
            token=request.page_token,
        )
        listed = [messages.job_message(j) for j in jobs]
        return job_service_pb2.ListJobsResponse(total_jobs=total, jobs=listed, next_page_token=token)

    async def WatchJob(self, request: job_service_pb2.WatchJobRequest, _: Context) -> AsyncIterator[bytes]:
        """See the contract. Yields finished bytes: each event is encoded once for all watchers."""
        async for encoded in self._runtime.hub.watch(request.job_id, request.after_sequence):
            yield encoded

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, _: Context
    ) -> job_service_pb2.CancelJobResponse:
        """See the contract."""
        job = await self._runtime.jobs.cancel(request.job_id, request.etag)
        return job_service_pb2.CancelJobResponse(job=messages.job_message(job))
