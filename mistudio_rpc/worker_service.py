"""WorkerService: what worker processes report, fenced by their lease."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mistudio.worker.v1 import worker_service_pb2

from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.records import LogWritten, MetricSampled, ProgressRecord
from mistudio_core.jobs.worker_store import Lease, Outcome
from mistudio_rpc import messages
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context

LEASE_SECONDS = 30.0


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
        return worker_service_pb2.ReportResponse(
            lease_seconds=LEASE_SECONDS, cancel_requested=cancel, checkpoint_wanted=self._runtime.ending
        )

    async def CommitArtifact(
        self, request: worker_service_pb2.CommitArtifactRequest, _: Context
    ) -> worker_service_pb2.CommitArtifactResponse:
        """See the contract."""
        lease = _lease(request.lease)
        await self._runtime.worker_jobs.check(lease)  # before a path of the message is looked at
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
        await self._runtime.worker_jobs.finish(
            _lease(request.lease),
            Outcome(
                result=request.result if outcome == "result" else None,
                error=messages.error_record(request.error) if outcome == "error" else None,
                paused=messages.error_record(request.paused) if outcome == "paused" else None,
                cancelled=outcome == "cancelled",
            ),
        )
        return worker_service_pb2.FinishResponse()


def _lease(message: worker_service_pb2.Lease) -> Lease:
    return Lease(job_id=message.job_id, attempt=message.attempt, token=message.token)


def _report(item: worker_service_pb2.ReportItem) -> ProgressRecord | MetricSampled | LogWritten:
    kind = item.WhichOneof("item")
    if kind == "progress":
        return messages.progress_record(item.progress)
    if kind == "metric":
        return messages.metric_record(item.metric)
    return messages.log_record(item.log)
