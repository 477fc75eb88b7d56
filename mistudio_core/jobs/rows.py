"""Rows <-> records, and the one way to append an event.

`append_event` raises the job's sequence and writes the event in the caller's transaction: no state
changes without its event, no event without its state.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from mistudio_core import clock, ids
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs import schema
from mistudio_core.jobs.database import Transaction
from mistudio_core.jobs.records import (
    DeviceRequest,
    ErrorRecord,
    EventRecord,
    InputReference,
    JobRecord,
    MetricSampled,
    Payload,
    ProgressRecord,
    payload_from_json,
    payload_kind,
    payload_to_json,
)

jobs, events = schema.jobs, schema.events


def micros(time: datetime) -> int:
    """Microseconds since 1970."""
    return int(time.timestamp() * 1_000_000)


def time_of(value: int | None) -> datetime | None:
    """The time that `micros` stored."""
    return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)


def moment_of(value: int) -> datetime:
    """`time_of` for a value that is there."""
    return datetime.fromtimestamp(value / 1_000_000, UTC)


def append_event(transaction: Transaction, job_id: str, attempt: int, payload: Payload) -> EventRecord:
    """Writes an event with the job's next sequence."""
    sequence = transaction.connection.execute(
        sa.update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(last_sequence=jobs.c.last_sequence + 1, etag=ids.new_etag())
        .returning(jobs.c.last_sequence)
    ).scalar_one()
    record = EventRecord(job_id=job_id, sequence=sequence, time=clock.now(), attempt=attempt, payload=payload)
    transaction.connection.execute(
        sa.insert(events).values(
            job_id=job_id,
            sequence=sequence,
            time=micros(record.time),
            attempt=attempt,
            kind=payload_kind(payload),
            payload=payload_to_json(payload),
        )
    )
    transaction.events.append(record)
    return record


def event_of(row: sa.Row[Any]) -> EventRecord:
    """An event from its row."""
    return EventRecord(
        job_id=row.job_id,
        sequence=row.sequence,
        time=moment_of(row.time),
        attempt=row.attempt,
        payload=payload_from_json(row.kind, row.payload),
    )


def job_of(row: sa.Row[Any]) -> JobRecord:
    """A job from its row."""
    return JobRecord(
        job_id=row.job_id,
        service=row.service,
        status=row.status,
        tenant=row.tenant,
        creator=row.creator,
        etag=row.etag,
        request=row.request,
        request_id=row.request_id or "",
        model_name=row.model_name,
        start_after=row.start_after,
        inputs={role: InputReference(**value) for role, value in row.inputs.items()},
        device_request=DeviceRequest(**row.device_request),
        created_at=moment_of(row.created_at),
        started_at=time_of(row.started_at),
        completed_at=time_of(row.completed_at),
        attempt=row.attempt,
        fruitless_attempts=row.fruitless_attempts,
        progress=ProgressRecord(**row.progress),
        metrics=None if row.metrics is None else MetricSampled(**row.metrics),
        error=None if row.error is None else ErrorRecord(**row.error),
        result=row.result,
        queue_reason=row.queue_reason,
        last_checkpoint=row.last_checkpoint,
        cancel_requested=row.cancel_requested,
        last_sequence=row.last_sequence,
        device=row.device,
        details=row.details,
    )


def artifact_of(row: sa.Row[Any]) -> ArtifactRecord:
    """An artifact from its row."""
    return ArtifactRecord.parse(row.manifest.encode(), row.folder)


def artifact_values(record: ArtifactRecord, tenant: str) -> dict[str, Any]:
    """The row of an artifact."""
    return {
        "uri": record.uri,
        "kind": record.kind,
        "sha256": record.sha256,
        "manifest": record.manifest().decode(),
        "folder": record.folder,
        "job_id": record.job_id,
        "attempt": record.attempt,
        "step": record.step,
        "tenant": tenant,
        "created_at": micros(clock.now()),
    }


def error_json(error: ErrorRecord | None) -> dict[str, Any] | None:
    """An error for its column."""
    return None if error is None else asdict(error)
