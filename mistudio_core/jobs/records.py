"""A job and its events as plain records: what the store keeps and everyone passes on.

Event payloads are small frozen dataclasses, stored as JSON; mistudio_rpc turns them into messages.
Times are aware datetimes in UTC, for display only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import InvalidInput, NotFound
from mistudio_core.jobs.context import artifact_uri

QUEUED, RUNNING, PAUSED = "queued", "running", "paused"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
TERMINAL = frozenset({COMPLETED, FAILED, CANCELLED})


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRecord:
    """Why a job failed or paused."""

    reason: str
    """Short name of a mistudio.error.v1.Reason."""
    message: str
    """For people."""
    facts: dict[str, str] = field(default_factory=dict)
    """Safe details."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressRecord:
    """How far a job is."""

    stage: str = ""
    """What is being done."""
    fraction: float = 0.0
    """Share of the whole job, 0..1."""
    current: float = 0.0
    """Units done in the stage."""
    total: float = 0.0
    """Units in the stage; 0 where unknown."""
    unit: str = ""
    """The unit."""
    remaining_s: float | None = None
    """Estimated seconds to the end of the job."""
    message: str = ""
    """One line for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChanged:
    """Event: the job moved to another state."""

    status: str
    """The new state."""
    message: str = ""
    """Why, one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptChanged:
    """Event: an attempt began or ended."""

    began: bool
    """Whether it began."""
    device: str = ""
    """Its device."""
    message: str = ""
    """Why it ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSampled:
    """Event: figures of a step."""

    step: int
    """Step of the job."""
    values: dict[str, float]
    """Figures by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactCommitted:
    """Event: an artifact or checkpoint was committed."""

    manifest: str
    """The artifact's manifest as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogWritten:
    """Event: a line for people."""

    message: str
    """The line."""
    level: str = "info"
    """`info`, `warning` or `error`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Event: the end; the last of every job."""

    status: str
    """completed, failed or cancelled."""
    error: ErrorRecord | None = None
    """Why it failed."""


Payload = StateChanged | AttemptChanged | MetricSampled | ArtifactCommitted | LogWritten | Finished
_KINDS: dict[str, type[Payload]] = {
    "state": StateChanged,
    "attempt": AttemptChanged,
    "metric": MetricSampled,
    "artifact": ArtifactCommitted,
    "log": LogWritten,
    "finished": Finished,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRecord:
    """One durable event."""

    job_id: str
    """The job."""
    sequence: int
    """Position in the job's history, from 1 without gaps."""
    time: datetime
    """When it was recorded."""
    attempt: int
    """The attempt it belongs to; 0 for none."""
    payload: Payload
    """What happened."""


def payload_kind(payload: Payload) -> str:
    """The name under which a payload is stored."""
    return next(name for name, kind in _KINDS.items() if type(payload) is kind)


def payload_to_json(payload: Payload) -> dict[str, Any]:
    """A payload as JSON."""
    return asdict(payload)


def payload_from_json(kind: str, body: Mapping[str, Any]) -> Payload:
    """The payload that `payload_to_json` wrote."""
    values = dict(body)
    if kind == "finished" and values.get("error"):
        values["error"] = ErrorRecord(**values["error"])
    return _KINDS[kind](**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputReference:
    """Where an input artifact of a job comes from: a fixed artifact, or what another job writes."""

    uri: str = ""
    """URI of a fixed artifact; empty for `job_id` and `kind`."""
    sha256: str = ""
    """Digest of the fixed artifact: a later upload of the same name does not change the job."""
    job_id: str = ""
    """The job whose artifact it is."""
    kind: str = ""
    """Kind of that artifact."""
    name: str = ""
    """Which of the job's SAEs it belongs to; empty where the job has one."""

    def chosen(self, records: Sequence[ArtifactRecord]) -> ArtifactRecord:
        """The newest of a job's artifacts of the kind that is meant.

        Raises NotFound (ARTIFACT_NOT_FOUND); InvalidInput where the job has several SAEs and none is named.
        """
        start = len(artifact_uri(self.job_id, self.kind, ""))
        by_name = {record.uri[start:].rpartition("/")[0]: record for record in records}
        if not by_name:
            raise NotFound(f"Job {self.job_id} has no artifact of kind {self.kind}.", reason="ARTIFACT_NOT_FOUND")
        if self.name in by_name:
            return by_name[self.name]
        names = ", ".join(sorted(by_name)) if "" not in by_name else "nothing: it has one SAE"
        raise InvalidInput.field(
            "sae_name", self.name, f"one of the SAEs of {self.job_id}: {names}" if "" not in by_name else names
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRequest:
    """What a job asks of its device."""

    gpu_id: int | None = None
    """A specific GPU; None for any device."""
    min_gpu_memory_gb: float = 0.0
    """Least free memory of the GPU, GB; 0 for any device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """What `JobStore.start` takes."""

    service: str
    """The service that owns it."""
    request: bytes
    """Its request as the worker gets it, without secrets."""
    request_id: str = ""
    """Makes the start idempotent; empty for none."""
    body_sha256: str = ""
    """Digest of the request as it came, before defaults were decided; empty: that of `request`."""
    model_name: str = ""
    """The model it is about."""
    start_after: str = ""
    """The job it waits for."""
    inputs: dict[str, InputReference] = field(default_factory=dict)
    """Input artifacts by role."""
    device: DeviceRequest = DeviceRequest()
    """What it asks of its device."""
    creator: str = ""
    """Who starts it."""
    tenant: str = "default"
    """The tenant it belongs to."""
    trace_context: str = ""
    """W3C traceparent of the call that started it."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the service found out when it accepted the job and wants to tell later, as JSON."""
    job_id: str = ""
    """Its id where that was made before; empty for a fresh one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """A job as the store keeps it."""

    job_id: str
    service: str
    status: str
    tenant: str
    creator: str
    etag: str
    request: bytes
    request_id: str
    model_name: str
    start_after: str
    inputs: dict[str, InputReference]
    device_request: DeviceRequest
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    attempt: int
    fruitless_attempts: int
    """Attempts in a row that committed no checkpoint and were not killed from outside."""
    progress: ProgressRecord
    metrics: MetricSampled | None
    error: ErrorRecord | None
    result: bytes | None
    queue_reason: str
    last_checkpoint: str
    cancel_requested: bool
    last_sequence: int
    device: str
    details: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRecord:
    """One attempt at a job."""

    job_id: str
    attempt: int
    device: str
    pid: int
    """Process id of its worker; 0 before it is known."""
    process_start: int
    """Start of that process, clock ticks since boot."""
    ended: bool
    checkpointed: bool
    """Whether it committed a checkpoint."""
