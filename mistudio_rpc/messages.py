"""Records of mistudio_core <-> messages of the job and artifact contract."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf import timestamp_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from mistudio.artifact.v1 import artifact_pb2
from mistudio.job.v1 import job_event_pb2, job_pb2

from mistudio_core.artifacts import ArtifactRecord, FileRecord
from mistudio_core.jobs.records import (
    ArtifactCommitted,
    AttemptChanged,
    ErrorRecord,
    EventRecord,
    Finished,
    JobRecord,
    LogWritten,
    MetricSampled,
    ProgressRecord,
    StateChanged,
)

M = TypeVar("M", bound=Message)


def from_record(message: M, record: Mapping[str, Any]) -> M:
    """Fills a message from a JSON record whose keys are field names and whose enums are short names.

    Keys that the message does not have are left out: a file may hold more than callers are shown.
    """
    for field in message.DESCRIPTOR.fields:
        value = record.get(field.name)
        if value is None:
            continue
        if field.message_type is not None and field.is_repeated:
            items, plain = getattr(message, field.name), _plain_fields(field.message_type)
            for item in value:
                if plain is None:
                    from_record(items.add(), item)
                else:  # the library fills a message of plain values at once
                    items.add(**{name: v for name, v in item.items() if name in plain})
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            from_record(getattr(message, field.name), value)
        elif field.is_repeated:
            getattr(message, field.name).extend(value if field.enum_type is None else [_plain(field, v) for v in value])
        else:
            setattr(message, field.name, _plain(field, value))
    return message


@lru_cache(maxsize=256)
def _plain_fields(descriptor: Descriptor) -> frozenset[str] | None:
    """Names of a message's fields; None where it has messages or enums in it."""
    if any(field.message_type is not None or field.enum_type is not None for field in descriptor.fields):
        return None
    return frozenset(descriptor.fields_by_name)


def _plain(field: Any, value: Any) -> Any:
    if field.enum_type is None:
        return value
    prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    return field.enum_type.values_by_name[prefix + (str(value) or "unspecified").upper()].number


def body_sha256(request: Message) -> str:
    """Digest of a request as it came: what makes two starts with one request_id the same."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def enum_short(name: str, prefix: str) -> str:
    """The short name of an enum value, ("JOB_STATUS_RUNNING", "JOB_STATUS_") -> running; empty for unspecified."""
    short = name.removeprefix(prefix).lower()
    return "" if short == "unspecified" else short


def status_value(status: str) -> job_pb2.JobStatus.ValueType:
    """The enum value of a job status."""
    return job_pb2.JobStatus.Value("JOB_STATUS_" + status.upper())


def timestamp(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    """A time as a message, to the millisecond; None stays None."""
    if time is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(time.replace(microsecond=time.microsecond // 1000 * 1000))
    return message


def error_message(error: ErrorRecord | None) -> job_pb2.JobError | None:
    """An error as a message."""
    if error is None:
        return None
    facts = [job_pb2.ErrorFact(name=k, value=v[:1000]) for k, v in error.facts.items()]
    return job_pb2.JobError(reason=error.reason, message=error.message[:4000], facts=facts)


def error_record(message: job_pb2.JobError) -> ErrorRecord:
    """An error from its message."""
    return ErrorRecord(reason=message.reason, message=message.message, facts={f.name: f.value for f in message.facts})


def progress_message(progress: ProgressRecord) -> job_pb2.Progress:
    """Progress as a message."""
    return job_pb2.Progress(
        stage=progress.stage,
        fraction=min(max(progress.fraction, 0.0), 1.0),
        current=progress.current,
        total=progress.total,
        unit=progress.unit,
        estimated_time_remaining=progress.remaining_s,
        message=progress.message,
    )


def progress_record(message: job_pb2.Progress) -> ProgressRecord:
    """Progress from its message."""
    known = message.HasField("estimated_time_remaining")
    return ProgressRecord(
        stage=message.stage,
        fraction=message.fraction,
        current=message.current,
        total=message.total,
        unit=message.unit,
        remaining_s=message.estimated_time_remaining if known else None,
        message=message.message,
    )


def metric_message(metric: MetricSampled | None) -> job_pb2.MetricSample | None:
    """Figures as a message."""
    if metric is None:
        return None
    values = [job_pb2.MetricValue(name=k, value=v) for k, v in metric.values.items()]
    return job_pb2.MetricSample(step=metric.step, values=values)


def metric_record(message: job_pb2.MetricSample) -> MetricSampled:
    """Figures from their message."""
    return MetricSampled(step=message.step, values={v.name: v.value for v in message.values})


def log_message(line: LogWritten) -> job_event_pb2.LogLine:
    """A log line as a message."""
    level = job_event_pb2.LogLevel.Value("LOG_LEVEL_" + line.level.upper())
    return job_event_pb2.LogLine(level=level, message=line.message[:4000])


def log_record(message: job_event_pb2.LogLine) -> LogWritten:
    """A log line from its message."""
    level = enum_short(job_event_pb2.LogLevel.Name(message.level), "LOG_LEVEL_")
    return LogWritten(level=level or "info", message=message.message)


def job_message(job: JobRecord) -> job_pb2.Job:
    """A job as callers see it."""
    return job_pb2.Job(
        job_id=job.job_id,
        service=job.service,
        status=status_value(job.status),
        model_name=job.model_name,
        created_at=timestamp(job.created_at),
        started_at=timestamp(job.started_at),
        completed_at=timestamp(job.completed_at),
        progress=progress_message(job.progress),
        metrics=metric_message(job.metrics),
        attempt=job.attempt,
        error=error_message(job.error),
        queue_reason=job.queue_reason,
        start_after=job.start_after,
        last_checkpoint=job.last_checkpoint,
        cancel_requested=job.cancel_requested,
        last_sequence=job.last_sequence,
        device=job.device,
        etag=job.etag,
        request_id=job.request_id,
        creator=job.creator,
        tenant=job.tenant,
    )


def artifact_message(record: ArtifactRecord) -> artifact_pb2.ArtifactReference:
    """An artifact as callers see it: no folder."""
    files = [
        artifact_pb2.ArtifactFile(name=f.name, size_bytes=f.size_bytes, sha256=f.sha256, slice_sha256=f.slice_sha256)
        for f in record.files
    ]
    return artifact_pb2.ArtifactReference(
        uri=record.uri,
        kind=artifact_pb2.ArtifactKind.Value("ARTIFACT_KIND_" + record.kind.upper()),
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        files=files,
        job_id=record.job_id,
        attempt=record.attempt,
        step=record.step,
    )


def artifact_record(message: artifact_pb2.ArtifactReference, folder: str) -> ArtifactRecord:
    """An artifact from its message and the folder it stands in."""
    files = tuple(
        FileRecord(name=f.name, size_bytes=f.size_bytes, sha256=f.sha256, slice_sha256=tuple(f.slice_sha256))
        for f in message.files
    )
    return ArtifactRecord(
        uri=message.uri,
        kind=enum_short(artifact_pb2.ArtifactKind.Name(message.kind), "ARTIFACT_KIND_"),
        folder=folder,
        files=files,
        job_id=message.job_id,
        attempt=message.attempt,
        step=message.step,
    )


def event_message(event: EventRecord) -> job_event_pb2.JobEvent:
    """A durable event as watchers see it."""
    message = job_event_pb2.JobEvent(
        job_id=event.job_id, sequence=event.sequence, time=timestamp(event.time), attempt=event.attempt
    )
    payload = event.payload
    if isinstance(payload, StateChanged):
        message.state.status = status_value(payload.status)
        message.state.message = payload.message
    elif isinstance(payload, AttemptChanged):
        message.attempt_change.attempt = event.attempt
        message.attempt_change.began = payload.began
        message.attempt_change.device = payload.device
        message.attempt_change.message = payload.message
    elif isinstance(payload, MetricSampled):
        message.metric.CopyFrom(metric_message(payload) or job_pb2.MetricSample())
    elif isinstance(payload, ArtifactCommitted):
        reference = artifact_message(ArtifactRecord.parse(payload.manifest.encode(), ""))
        checkpoint = reference.kind == artifact_pb2.ARTIFACT_KIND_CHECKPOINT
        (message.checkpoint if checkpoint else message.artifact).CopyFrom(reference)
    elif isinstance(payload, LogWritten):
        message.log.CopyFrom(log_message(payload))
    elif isinstance(payload, Finished):
        message.finished.status = status_value(payload.status)
        if payload.error is not None:
            message.finished.error.CopyFrom(error_message(payload.error) or job_pb2.JobError())
    return message
