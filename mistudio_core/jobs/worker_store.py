"""What workers report, each call fenced by (job, attempt, lease token).

The fence stands in the same UPDATE that stores the report: a worker that lost its lease changes
nothing and learns so by StaleAttempt. Every call may be repeated without another effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import sqlalchemy as sa

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import StaleAttempt
from mistudio_core.jobs import schema
from mistudio_core.jobs.database import Database, Transaction
from mistudio_core.jobs.records import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PAUSED,
    RUNNING,
    ArtifactCommitted,
    AttemptChanged,
    ErrorRecord,
    JobRecord,
    LogWritten,
    MetricSampled,
    ProgressRecord,
    StateChanged,
)
from mistudio_core.jobs.rows import append_event, artifact_values, error_json
from mistudio_core.jobs.store import close_attempt, finish_job, load, token_digest

T = TypeVar("T")
jobs, attempts, artifacts = schema.jobs, schema.attempts, schema.artifacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """Proof that the caller is the current attempt's worker."""

    job_id: str
    """The job."""
    attempt: int
    """Number of the attempt."""
    token: str
    """Secret of the attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a worker ended its attempt: exactly one of the four."""

    result: bytes | None = None
    """Completed, with the serialized result."""
    error: ErrorRecord | None = None
    """Failed."""
    paused: ErrorRecord | None = None
    """A resource is missing; goes on when it returns."""
    cancelled: bool = False
    """Stopped as asked."""


Report = ProgressRecord | MetricSampled | LogWritten


class WorkerStore:
    """Reports of workers."""

    def __init__(self, database: Database) -> None:
        """On a migrated database."""
        self._database = database

    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._database.write(operation))

    async def attach(self, lease: Lease, pid: int, process_start: int) -> bool:
        """Records the worker's process; (whether a cancel was asked for). Raises StaleAttempt."""

        def operation(tx: Transaction) -> bool:
            _fence(tx, lease)
            tx.connection.execute(
                sa.update(attempts).where(_attempt(lease)).values(pid=pid, process_start=process_start)
            )
            return load(tx, lease.job_id).cancel_requested

        return await self._write(operation)

    async def check(self, lease: Lease) -> None:
        """Raises StaleAttempt unless the lease holds."""
        await self._write(lambda tx: _fence(tx, lease))

    async def report(self, lease: Lease, batch: int, reports: Sequence[Report]) -> bool:
        """Stores a batch once; (whether a cancel was asked for). Raises StaleAttempt."""
        return await self._write(lambda tx: _report(tx, lease, batch, reports))

    async def commit_artifact(self, lease: Lease, record: ArtifactRecord) -> None:
        """Records an artifact; a checkpoint becomes what the next attempt resumes from. Raises StaleAttempt."""
        await self._write(lambda tx: _commit_artifact(tx, lease, record))

    async def finish(self, lease: Lease, outcome: Outcome) -> JobRecord:
        """Ends the attempt; a repeated call returns the ended job. Raises StaleAttempt."""
        return await self._write(lambda tx: _finish(tx, lease, outcome))


def _attempt(lease: Lease) -> sa.ColumnElement[bool]:
    return sa.and_(
        attempts.c.job_id == lease.job_id,
        attempts.c.attempt == lease.attempt,
        attempts.c.token_sha256 == token_digest(lease.token),
    )


def _fence(tx: Transaction, lease: Lease, **values: object) -> None:
    """Updates the job's row only where the lease holds. Raises StaleAttempt."""
    holds = sa.exists(sa.select(attempts.c.job_id).where(_attempt(lease), attempts.c.ended_at.is_(None)))
    updated = tx.connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == lease.job_id, jobs.c.attempt == lease.attempt, jobs.c.status == RUNNING, holds)
        .values(attempt=lease.attempt, **values)
    )
    if updated.rowcount != 1:
        raise StaleAttempt(
            f"Attempt {lease.attempt} of {lease.job_id} no longer holds the job. This worker must stop.",
            facts={"job_id": lease.job_id, "attempt": lease.attempt},
        )


def _report(tx: Transaction, lease: Lease, batch: int, reports: Sequence[Report]) -> bool:
    latest = next((r for r in reversed(reports) if isinstance(r, ProgressRecord)), None)
    metric = next((r for r in reversed(reports) if isinstance(r, MetricSampled)), None)
    values: dict[str, object] = {}
    if latest is not None:
        values["progress"] = asdict(latest)
    if metric is not None:
        values["metrics"] = asdict(metric)
    _fence(tx, lease, **values)
    fresh = tx.connection.execute(
        sa.update(attempts).where(_attempt(lease), attempts.c.last_batch < batch).values(last_batch=batch)
    )
    if fresh.rowcount == 1:
        for report in reports:
            if not isinstance(report, ProgressRecord):
                append_event(tx, lease.job_id, lease.attempt, report)
    return bool(
        tx.connection.execute(sa.select(jobs.c.cancel_requested).where(jobs.c.job_id == lease.job_id)).scalar_one()
    )


def _commit_artifact(tx: Transaction, lease: Lease, record: ArtifactRecord) -> None:
    values: dict[str, object] = {}
    if record.kind == "checkpoint":
        values = {"last_checkpoint": record.uri, "fruitless_attempts": 0}
    _fence(tx, lease, **values)
    known = tx.connection.execute(sa.select(artifacts.c.id).where(artifacts.c.folder == record.folder)).first()
    if known is not None:
        return
    tenant = tx.connection.execute(sa.select(jobs.c.tenant).where(jobs.c.job_id == lease.job_id)).scalar_one()
    tx.connection.execute(sa.insert(artifacts).values(artifact_values(record, tenant)))
    if record.kind == "checkpoint":
        tx.connection.execute(sa.update(attempts).where(_attempt(lease)).values(checkpointed=True))
    append_event(tx, lease.job_id, lease.attempt, ArtifactCommitted(manifest=record.manifest().decode()))


def _finish(tx: Transaction, lease: Lease, outcome: Outcome) -> JobRecord:
    ended = tx.connection.execute(
        sa.select(attempts.c.ended_at).where(_attempt(lease), attempts.c.outcome == _name(outcome))
    ).scalar()
    if ended is not None:
        return load(tx, lease.job_id)
    _fence(tx, lease)
    close_attempt(tx, lease.job_id, lease.attempt, _name(outcome))
    job = load(tx, lease.job_id)
    append_event(
        tx, lease.job_id, lease.attempt, AttemptChanged(began=False, device=job.device, message=_name(outcome))
    )
    if outcome.paused is not None:
        return _pause(tx, lease, outcome.paused)
    if outcome.error is not None:
        return finish_job(tx, lease.job_id, FAILED, outcome.error, None)
    if outcome.cancelled:
        return finish_job(tx, lease.job_id, CANCELLED, None, None)
    return finish_job(tx, lease.job_id, COMPLETED, None, outcome.result)


def _pause(tx: Transaction, lease: Lease, error: ErrorRecord) -> JobRecord:
    if load(tx, lease.job_id).cancel_requested:
        return finish_job(tx, lease.job_id, CANCELLED, None, None)
    tx.connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == lease.job_id)
        .values(status=PAUSED, device="", error=error_json(error), queue_reason=error.message[:500])
    )
    append_event(tx, lease.job_id, lease.attempt, StateChanged(status=PAUSED, message=error.message[:1000]))
    return load(tx, lease.job_id)


def _name(outcome: Outcome) -> str:
    if outcome.paused is not None:
        return "paused"
    if outcome.error is not None:
        return "failed"
    return "cancelled" if outcome.cancelled else "completed"
