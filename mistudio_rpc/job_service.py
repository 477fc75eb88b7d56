"""JobService, WorkerService and ArtifactService: the servicers that every control process has."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable

from mistudio.artifact.v1 import artifact_pb2, artifact_service_pb2
from mistudio.job.v1 import job_pb2, job_service_pb2
from mistudio.worker.v1 import worker_service_pb2

from mistudio_core.artifacts import ArtifactReader
from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.records import LogWritten, MetricSampled, ProgressRecord
from mistudio_core.jobs.worker_store import Lease, Outcome
from mistudio_rpc import messages
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context

LEASE_SECONDS = 30.0


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
        if job.is_terminal:
            self._runtime.forget_secrets(job.job_id)
        return job_service_pb2.CancelJobResponse(job=messages.job_message(job))


class WorkerServicer:
    """WorkerService."""

    def __init__(self, runtime: Runtime, prune: Callable[[str], Awaitable[None]]) -> None:
        """`prune` removes old checkpoints of a job after a newer one is committed."""
        self._runtime = runtime
        self._prune = prune

    async def Attach(self, request: worker_service_pb2.AttachRequest, _: Context) -> worker_service_pb2.AttachResponse:
        """See the contract."""
        cancel = await self._runtime.worker_jobs.attach(_lease(request.lease), request.pid, request.process_start)
        return worker_service_pb2.AttachResponse(lease_seconds=LEASE_SECONDS, cancel_requested=cancel)

    async def Report(self, request: worker_service_pb2.ReportRequest, _: Context) -> worker_service_pb2.ReportResponse:
        """See the contract."""
        reports = [_report(item) for item in request.items]
        lease = _lease(request.lease)
        cancel = await self._runtime.worker_jobs.report(lease, request.batch, reports)
        latest = next((r for r in reversed(reports) if isinstance(r, ProgressRecord)), None)
        if latest is not None:
            self._runtime.hub.publish_progress(lease.job_id, latest)
        return worker_service_pb2.ReportResponse(lease_seconds=LEASE_SECONDS, cancel_requested=cancel)

    async def CommitArtifact(
        self, request: worker_service_pb2.CommitArtifactRequest, _: Context
    ) -> worker_service_pb2.CommitArtifactResponse:
        """See the contract."""
        lease = _lease(request.lease)
        record = messages.artifact_record(request.artifact, request.folder)
        if record.job_id != lease.job_id or record.attempt != lease.attempt:
            raise InvalidInput.field("artifact.job_id", record.job_id, "the job and attempt of the lease")
        await asyncio.to_thread(self._runtime.artifacts.open, record, request.artifact.sha256)
        await self._runtime.worker_jobs.commit_artifact(lease, record)
        if record.kind == "checkpoint":
            await self._prune(lease.job_id)
        return worker_service_pb2.CommitArtifactResponse()

    async def Finish(self, request: worker_service_pb2.FinishRequest, _: Context) -> worker_service_pb2.FinishResponse:
        """See the contract."""
        outcome = request.WhichOneof("outcome")
        job = await self._runtime.worker_jobs.finish(
            _lease(request.lease),
            Outcome(
                result=request.result if outcome == "result" else None,
                error=messages.error_record(request.error) if outcome == "error" else None,
                paused=messages.error_record(request.paused) if outcome == "paused" else None,
                cancelled=outcome == "cancelled",
            ),
        )
        if job.is_terminal:
            self._runtime.forget_secrets(job.job_id)
        return worker_service_pb2.FinishResponse()


class ArtifactServicer:
    """ArtifactService."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime

    async def ListArtifacts(
        self, request: artifact_service_pb2.ListArtifactsRequest, _: Context
    ) -> artifact_service_pb2.ListArtifactsResponse:
        """See the contract."""
        await self._runtime.queries.get(request.job_id)
        records = await self._runtime.queries.artifacts_of(request.job_id)
        return artifact_service_pb2.ListArtifactsResponse(artifacts=[messages.artifact_message(r) for r in records])

    async def ReadArtifact(
        self, request: artifact_service_pb2.ReadArtifactRequest, _: Context
    ) -> AsyncIterator[artifact_service_pb2.ReadArtifactResponse]:
        """See the contract."""
        uri, _slash, name = ("/" + request.uri.lstrip("/")).rpartition("/")
        record = await self._runtime.queries.artifact(uri)
        reader = await asyncio.to_thread(self._runtime.artifacts.open, record)
        async for part in file_parts(reader, name, offset=request.offset):
            yield artifact_service_pb2.ReadArtifactResponse(
                header=part if isinstance(part, artifact_pb2.DownloadHeader) else None,
                chunk=part if isinstance(part, artifact_pb2.Chunk) else None,
            )


async def file_parts(
    reader: ArtifactReader, name: str, *, offset: int = 0
) -> AsyncIterator[artifact_pb2.DownloadHeader | artifact_pb2.Chunk]:
    """A verified file as a header and chunks. Raises Corrupt."""
    record = reader.record.file(name)
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    chunks = reader.chunks(name, offset)
    # the first slice is verified before anything is promised: a damaged file is an error, not a torn download
    chunk = await asyncio.to_thread(next, chunks, None)
    yield artifact_pb2.DownloadHeader(
        filename=name, media_type=media_type, size_bytes=record.size_bytes, sha256=record.sha256
    )
    while chunk is not None:
        yield artifact_pb2.Chunk(offset=chunk[0], data=chunk[1])
        chunk = await asyncio.to_thread(next, chunks, None)


def _lease(message: worker_service_pb2.Lease) -> Lease:
    return Lease(job_id=message.job_id, attempt=message.attempt, token=message.token)


def _report(item: worker_service_pb2.ReportItem) -> ProgressRecord | MetricSampled | LogWritten:
    kind = item.WhichOneof("item")
    if kind == "progress":
        return messages.progress_record(item.progress)
    if kind == "metric":
        return messages.metric_record(item.metric)
    return messages.log_record(item.log)
