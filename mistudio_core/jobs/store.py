"""Jobs as callers and the dispatcher change them: start, cancel, claim, end, pause.

Every method is one transaction that writes the new state and its event together and returns after
the commit is on disk. What workers report is in `worker_store`, what anyone reads in `queries`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import sqlalchemy as sa

from mistudio_core import clock, ids
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import Conflict, InvalidInput, NotFound
from mistudio_core.jobs import schema
from mistudio_core.jobs.database import Database, Transaction
from mistudio_core.jobs.records import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    TERMINAL,
    AttemptChanged,
    ErrorRecord,
    Finished,
    JobRecord,
    NewJob,
    ProgressRecord,
    StateChanged,
)
from mistudio_core.jobs.rows import append_event, artifact_of, artifact_values, error_json, job_of, micros

T = TypeVar("T")
jobs, attempts, artifacts = schema.jobs, schema.attempts, schema.artifacts

MAX_FRUITLESS = 3
"""Attempts in a row that may end without a new checkpoint before the job fails as POISON."""


UsersElsewhere = Callable[[Sequence[str], Sequence[str]], Awaitable[list[tuple[str, str]]]]
"""Asks which jobs of other control processes build on these jobs and URIs of uploads: (job, what it builds on)."""


async def nobody(_job_ids: Sequence[str], _uris: Sequence[str]) -> list[tuple[str, str]]:
    """UsersElsewhere where one control process hosts every service."""
    return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A new attempt at a job."""

    job: JobRecord
    """The job, now running."""
    token: str
    """The attempt's lease token; only its digest is stored."""


def token_digest(token: str) -> str:
    """What the store keeps of a lease token."""
    return hashlib.sha256(token.encode()).hexdigest()


class JobStore:
    """State changes of jobs."""

    def __init__(self, database: Database, users_elsewhere: UsersElsewhere = nobody) -> None:
        """On a migrated database; `users_elsewhere` asks those of other control processes."""
        self._database, self._users_elsewhere = database, users_elsewhere

    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._database.write(operation))

    async def start(self, new: NewJob) -> tuple[JobRecord, bool]:
        """Records a job; (job, whether it is new). The same request_id with the same body returns the first job.

        Raises InvalidInput (REQUEST_ID_REUSED) where the body differs.
        """
        return await self._write(lambda tx: _start(tx, new))

    async def cancel(self, job_id: str, etag: str = "") -> JobRecord:
        """Asks a job to stop: at once where no worker has it, else marked for its worker. Idempotent.

        Raises NotFound, Conflict (the etag is old).
        """
        return await self._write(lambda tx: _cancel(tx, job_id, etag))

    async def claim(self, job_id: str, device: str) -> Claim | None:
        """Begins the next attempt of a queued job; None where it is no longer queued."""
        return await self._write(lambda tx: _claim(tx, job_id, device))

    async def end_attempt(self, job_id: str, attempt: int, *, counts: bool, reason: str, message: str) -> JobRecord:
        """Records that an attempt's worker is gone without a result, and decides what follows.

        Cancelled where a cancel was asked for; failed (POISON) at the limit of fruitless attempts,
        which grows only where `counts`; else queued again. Changes nothing for an older attempt.
        """
        return await self._write(lambda tx: _end_attempt(tx, job_id, attempt, counts, reason, message))

    async def fail(self, job_id: str, error: ErrorRecord) -> JobRecord:
        """Fails a job that no worker has."""
        return await self._write(lambda tx: _finish_job(tx, job_id, FAILED, error))

    async def requeue(self, job_id: str) -> JobRecord:
        """Lets a paused job go on."""
        return await self._write(lambda tx: _requeue(tx, job_id))

    async def set_queue_reason(self, job_id: str, reason: str) -> None:
        """Says why a job waits; no event, since it changes with every other job."""

        def operation(tx: Transaction) -> None:
            tx.connection.execute(sa.update(jobs).where(jobs.c.job_id == job_id).values(queue_reason=reason[:500]))

        await self._write(operation)

    async def set_process(self, job_id: str, attempt: int, pid: int, process_start: int) -> None:
        """Records the worker process of an attempt, so that a later service can find it."""

        def operation(tx: Transaction) -> None:
            tx.connection.execute(
                sa.update(attempts)
                .where(attempts.c.job_id == job_id, attempts.c.attempt == attempt)
                .values(pid=pid, process_start=process_start)
            )

        await self._write(operation)

    async def add_upload(self, record: ArtifactRecord, tenant: str = "default") -> None:
        """Records an uploaded artifact; a newer one of the same URI takes its name over."""
        await self._write(
            lambda tx: tx.connection.execute(sa.insert(artifacts).values(artifact_values(record, tenant)))
        )

    async def remove_upload(self, uri: str) -> list[ArtifactRecord]:
        """Forgets every upload of a URI; the records, whose files may go now.

        Raises NotFound (CORPUS_NOT_FOUND), Conflict (CORPUS_IN_USE) while a job that has not ended reads one.
        """
        users = [job_id for job_id, _uri in await self._users_elsewhere([], [uri])]
        return await self._write(lambda tx: _remove_upload(tx, uri, users))

    async def forget_artifacts(self, records: list[ArtifactRecord]) -> None:
        """Removes rows of artifacts, before their files."""
        folders = [r.folder for r in records]
        await self._write(lambda tx: tx.connection.execute(sa.delete(artifacts).where(artifacts.c.folder.in_(folders))))


def _remove_upload(tx: Transaction, uri: str, elsewhere: list[str]) -> list[ArtifactRecord]:
    name = uri.rpartition("/")[2]
    ours = sa.and_(artifacts.c.uri == uri, artifacts.c.job_id == "")
    records = [artifact_of(row) for row in tx.connection.execute(sa.select(artifacts).where(ours))]
    if not records:
        raise corpus_not_found(name)
    rows = tx.connection.execute(
        sa.select(jobs.c.job_id, jobs.c.inputs).where(jobs.c.status.not_in(TERMINAL)).order_by(jobs.c.created_at)
    )
    users = [row.job_id for row in rows if any(reference["uri"] == uri for reference in row.inputs.values())]
    users += elsewhere
    if users:
        raise Conflict(
            f"Corpus {name!r} is in use by {', '.join(users[:5])}{', ...' if len(users) > 5 else ''}. "
            "Wait until the jobs end, or cancel them: `mistudio jobs cancel JOB`.",
            reason="CORPUS_IN_USE",
            facts={"corpus": name, "job_ids": ", ".join(users[:5]), "jobs": len(users)},
        )
    tx.connection.execute(sa.delete(artifacts).where(ours))
    return records


def corpus_not_found(name: str) -> NotFound:
    """The error for a name under which nothing was uploaded."""
    return NotFound(
        f"Corpus {name[:255]!r} not found. The corpora there are: `mistudio corpora list`.",
        reason="CORPUS_NOT_FOUND",
        facts={"corpus": name[:255]},
    )


def request_id_reused(request_id: str, job_id: str) -> InvalidInput:
    """The error for a request_id that came before with another body."""
    return InvalidInput.field(
        "request_id",
        request_id,
        "an id that was not used with another body",
        f"Job {job_id} has it; send the same body again or a new id.",
        reason="REQUEST_ID_REUSED",
    )


def load(tx: Transaction, job_id: str) -> JobRecord:
    """The job inside a transaction. Raises NotFound."""
    row = tx.connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).first()
    if row is None:
        raise ids.job_not_found(job_id)
    return job_of(row)


def _start(tx: Transaction, new: NewJob) -> tuple[JobRecord, bool]:
    body_hash = new.body_sha256 or hashlib.sha256(new.request).hexdigest()
    if new.request_id:
        row = tx.connection.execute(
            sa.select(jobs).where(
                jobs.c.tenant == new.tenant, jobs.c.service == new.service, jobs.c.request_id == new.request_id
            )
        ).first()
        if row is not None:
            if row.request_hash != body_hash:
                raise request_id_reused(new.request_id, row.job_id)
            return job_of(row), False
    job_id = new.job_id or ids.new_job_id(new.service)
    tx.connection.execute(
        sa.insert(jobs).values(
            job_id=job_id,
            service=new.service,
            status=QUEUED,
            tenant=new.tenant,
            creator=new.creator,
            etag=ids.new_etag(),
            request=new.request,
            request_id=new.request_id or None,
            request_hash=body_hash,
            trace_context=new.trace_context,
            model_name=new.model_name,
            start_after=new.start_after,
            inputs={role: asdict(reference) for role, reference in new.inputs.items()},
            device_request=asdict(new.device),
            created_at=micros(clock.now()),
            attempt=0,
            fruitless_attempts=0,
            progress=asdict(ProgressRecord()),
            queue_reason=f"waits for {new.start_after}" if new.start_after else "",
            last_checkpoint="",
            cancel_requested=False,
            last_sequence=0,
            device="",
            details=new.details,
        )
    )
    append_event(tx, job_id, 0, StateChanged(status=QUEUED))
    return load(tx, job_id), True


def _cancel(tx: Transaction, job_id: str, etag: str) -> JobRecord:
    job = load(tx, job_id)
    if etag and etag != job.etag:
        raise Conflict(f"Job {job_id} changed since you read it. Read it again and repeat the call.")
    if job.is_terminal or job.cancel_requested:
        return job
    if job.status in (QUEUED, PAUSED):
        return _finish_job(tx, job_id, CANCELLED, None)
    tx.connection.execute(
        sa.update(jobs).where(jobs.c.job_id == job_id).values(cancel_requested=True, etag=ids.new_etag())
    )
    append_event(tx, job_id, job.attempt, StateChanged(status=RUNNING, message="cancel requested"))
    return load(tx, job_id)


def _claim(tx: Transaction, job_id: str, device: str) -> Claim | None:
    now, token = micros(clock.now()), ids.new_token()
    attempt = tx.connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == job_id, jobs.c.status == QUEUED)
        .values(
            status=RUNNING,
            attempt=jobs.c.attempt + 1,
            device=device,
            queue_reason="",
            started_at=sa.func.coalesce(jobs.c.started_at, now),
        )
        .returning(jobs.c.attempt)
    ).scalar()
    if attempt is None:
        return None
    tx.connection.execute(
        sa.insert(attempts).values(
            job_id=job_id,
            attempt=attempt,
            token_sha256=token_digest(token),
            device=device,
            pid=0,
            process_start=0,
            started_at=now,
            outcome="",
            last_batch=0,
            checkpointed=False,
        )
    )
    append_event(tx, job_id, attempt, StateChanged(status=RUNNING))
    append_event(tx, job_id, attempt, AttemptChanged(began=True, device=device))
    return Claim(job=load(tx, job_id), token=token)


def close_attempt(tx: Transaction, job_id: str, attempt: int, outcome: str) -> bool:
    """Ends an attempt's row; (whether it committed a checkpoint)."""
    row = tx.connection.execute(
        sa.update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.attempt == attempt)
        .values(ended_at=micros(clock.now()), outcome=outcome)
        .returning(attempts.c.checkpointed)
    ).scalar()
    return bool(row)


def _end_attempt(tx: Transaction, job_id: str, attempt: int, counts: bool, reason: str, message: str) -> JobRecord:
    job = load(tx, job_id)
    if job.status != RUNNING or job.attempt != attempt:
        return job
    checkpointed = close_attempt(tx, job_id, attempt, reason)
    append_event(tx, job_id, attempt, AttemptChanged(began=False, device=job.device, message=message))
    if job.cancel_requested:
        return _finish_job(tx, job_id, CANCELLED, None)
    fruitless = 0 if checkpointed else job.fruitless_attempts + (1 if counts else 0)
    if fruitless >= MAX_FRUITLESS:
        text = (
            f"The worker ended {fruitless} times in a row without a new checkpoint; the last time: {message}. "
            f"Its log is shown by `mistudio jobs get {job_id}`; start the job again once the cause is removed."
        )
        return _finish_job(tx, job_id, FAILED, ErrorRecord(reason="POISON", message=text, facts={"last": reason}))
    tx.connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(status=QUEUED, fruitless_attempts=fruitless, device="", queue_reason="starts again after " + message)
    )
    append_event(tx, job_id, attempt, StateChanged(status=QUEUED, message=message))
    return load(tx, job_id)


def _requeue(tx: Transaction, job_id: str) -> JobRecord:
    job = load(tx, job_id)
    if job.status != PAUSED:
        return job
    tx.connection.execute(
        sa.update(jobs).where(jobs.c.job_id == job_id).values(status=QUEUED, error=sa.null(), queue_reason="")
    )
    append_event(tx, job_id, job.attempt, StateChanged(status=QUEUED, message="goes on"))
    return load(tx, job_id)


def _finish_job(tx: Transaction, job_id: str, status: str, error: ErrorRecord | None) -> JobRecord:
    return finish_job(tx, job_id, status, error, None)


def finish_job(tx: Transaction, job_id: str, status: str, error: ErrorRecord | None, result: bytes | None) -> JobRecord:
    """Moves a job to a terminal state with its last event; changes nothing where it has ended."""
    job = load(tx, job_id)
    if job.is_terminal:
        return job
    progress = job.progress
    if status == COMPLETED:
        done = progress.total or progress.current
        progress = replace(progress, stage="", fraction=1.0, current=done, remaining_s=None, message="")
    tx.connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(
            status=status,
            progress=asdict(progress),
            completed_at=micros(clock.now()),
            error=sa.null() if error is None else error_json(error),
            result=result,
            device="",
            queue_reason="",
        )
    )
    append_event(tx, job_id, job.attempt, StateChanged(status=status, message=error.message[:1000] if error else ""))
    append_event(tx, job_id, job.attempt, Finished(status=status, error=error))
    return load(tx, job_id)
