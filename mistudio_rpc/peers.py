"""Reads of jobs and artifacts that another control process of the installation keeps.

A process that hosts every service needs none of this. Where each service has a process and a database
of its own, `PeerQueries` answers for a foreign job id or URI by asking its owner; whoever reads does not
notice. Only rows travel: files stand on the artifact folder that all share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import grpc.aio
from mistudio.artifact.v1 import artifact_pb2
from mistudio.job.v1 import job_pb2
from mistudio.peer.v1 import peer_service_pb2, peer_service_pb2_grpc

from mistudio_core import ids
from mistudio_core.address import is_loopback, split_address
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from mistudio_core.jobs.database import Database
from mistudio_core.jobs.queries import JobQueries, Upload, wrong_service
from mistudio_core.jobs.records import DeviceRequest, JobRecord
from mistudio_core.secret import Secret
from mistudio_rpc import messages
from mistudio_rpc.channel import Tls, open_channel
from mistudio_rpc.status import from_rpc_error

T = TypeVar("T")
CALL_SECONDS = 10.0
_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerConfig:
    """Where the other control processes are. Raises InvalidInput for an open address without certificates."""

    targets: Mapping[str, str]
    """gRPC target of each service that another process hosts, by its name."""
    tls: Tls | None = None
    """Certificates to show them; required unless every target is a unix socket or loopback."""

    def __post_init__(self) -> None:
        """Checks targets: the bearer token travels to them."""
        for name, target in self.targets.items():
            if target.startswith("unix:") or self.tls is not None:
                continue
            if not is_loopback(split_address("peer", target)[0]):
                raise InvalidInput.field(
                    "peer",
                    f"{name}={target}",
                    "a unix socket or loopback without certificates, any address with them",
                    "Give --tls-cert, --tls-key and --tls-ca.",
                )


class Peers:
    """Connections to other control processes, opened when they are first needed."""

    def __init__(self, config: PeerConfig, token: Callable[[], Secret]) -> None:
        """`token` is asked for at each call."""
        self._config, self._token = config, token
        self._channels: dict[str, grpc.aio.Channel] = {}
        self.names = tuple(sorted(config.targets))
        """Services that other processes host."""

    def stub(self, service: str) -> peer_service_pb2_grpc.PeerServiceAsyncStub:
        """The reads of the process that hosts a service."""
        target = self._config.targets[service]
        if target not in self._channels:
            self._channels[target] = open_channel(target, self._config.tls)
        return peer_service_pb2_grpc.PeerServiceStub(self._channels[target])

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call shows."""
        return (("authorization", f"Bearer {self._token().reveal()}"),)

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def users(self, job_ids: Sequence[str], uris: Sequence[str]) -> list[tuple[str, str]]:
        """(a job of another process, which of these it builds on). Raises Unavailable where one does not answer."""
        found = []
        for name in self.names:
            for start in range(0, max(len(job_ids), len(uris)), _AT_ONCE):
                end = start + _AT_ONCE
                request = peer_service_pb2.ListUsersRequest(job_ids=job_ids[start:end], uris=uris[start:end])
                call = self.stub(name).ListUsers(request, timeout=CALL_SECONDS, metadata=self.metadata())
                found += [(user.job_id, user.uses) for user in (await _answer(name, call)).users]
        return found


class PeerQueries(JobQueries):
    """Reads that go to the database, or, for what another process owns, to that process."""

    def __init__(self, database: Database, peers: Peers) -> None:
        """Over a process's own database and its connections."""
        super().__init__(database)
        self._peers = peers

    async def get(self, job_id: str, service: str | None = None) -> JobRecord:
        """See JobQueries. Raises Unavailable too."""
        owner = ids.service_of(job_id)
        if owner not in self._peers.names:
            return await super().get(job_id, service)
        if service not in (None, owner):
            raise wrong_service(job_id, owner, service or "")
        request = peer_service_pb2.ReadJobRequest(job_id=job_id)
        call = self._peers.stub(owner).ReadJob(request, timeout=CALL_SECONDS, metadata=self._peers.metadata())
        return _job_record(await _answer(owner, call))

    async def artifacts_of(self, job_id: str, kind: str = "") -> list[ArtifactRecord]:
        """See JobQueries. Raises Unavailable too."""
        owner = _owner_of_job(job_id)
        if owner not in self._peers.names:
            return await super().artifacts_of(job_id, kind)
        wanted = artifact_pb2.ArtifactKind.Value("ARTIFACT_KIND_" + (kind or "unspecified").upper())
        request = peer_service_pb2.ListStoredArtifactsRequest(job_id=job_id, kind=wanted)
        stub, metadata = self._peers.stub(owner), self._peers.metadata()
        call = stub.ListStoredArtifacts(request, timeout=CALL_SECONDS, metadata=metadata)
        return [_artifact_record(stored) for stored in (await _answer(owner, call)).artifacts]

    async def artifact(self, uri: str, sha256: str = "") -> ArtifactRecord:
        """See JobQueries. Raises Unavailable too."""
        owner = ids.owner_of_uri(uri)
        if owner not in self._peers.names:
            return await super().artifact(uri, sha256)
        return await self._find(owner, peer_service_pb2.FindStoredArtifactRequest(uri=uri, sha256=sha256))

    async def upload(self, uri: str) -> Upload | None:
        """See JobQueries. Raises Unavailable too."""
        owner = ids.owner_of_uri(uri)
        if owner not in self._peers.names:
            return await super().upload(uri)
        try:
            record = await self._find(owner, peer_service_pb2.FindStoredArtifactRequest(uri=uri, upload=True))
        except NotFound:
            return None
        return Upload(record, datetime.fromtimestamp(0, UTC), "")  # when it came is its owner's to show

    async def _find(self, owner: str, request: peer_service_pb2.FindStoredArtifactRequest) -> ArtifactRecord:
        stub, metadata = self._peers.stub(owner), self._peers.metadata()
        call = stub.FindStoredArtifact(request, timeout=CALL_SECONDS, metadata=metadata)
        return _artifact_record((await _answer(owner, call)).artifact)


async def _answer(owner: str, call: Awaitable[T]) -> T:
    """What a process answered; its errors as it raised them. Raises Unavailable where it does not answer."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        found = from_rpc_error(error)
        if isinstance(found, Unavailable | DeadlineExceeded):
            raise Unavailable(
                f"The {owner} service does not answer, and this call builds on what it keeps. Try again in a moment.",
                facts={"service": owner},
            ) from error
        raise found from error


def _owner_of_job(job_id: str) -> str:
    """The service that owns a job; empty for what is no job id."""
    try:
        return ids.service_of(job_id)
    except NotFound:
        return ""


def _artifact_record(stored: peer_service_pb2.StoredArtifact) -> ArtifactRecord:
    return messages.artifact_record(stored.artifact, stored.folder)


def _job_record(reply: peer_service_pb2.ReadJobResponse) -> JobRecord:
    """A foreign job: what callers see of it, its request and its result. Its inputs and device are not told."""
    job = reply.job
    return JobRecord(
        job_id=job.job_id,
        service=job.service,
        status=messages.enum_short(job_pb2.JobStatus.Name(job.status), "JOB_STATUS_"),
        tenant=job.tenant,
        creator=job.creator,
        etag=job.etag,
        request=reply.request,
        request_id=job.request_id,
        model_name=job.model_name,
        start_after=job.start_after,
        inputs={},
        device_request=DeviceRequest(),
        created_at=job.created_at.ToDatetime(UTC),
        started_at=job.started_at.ToDatetime(UTC) if job.HasField("started_at") else None,
        completed_at=job.completed_at.ToDatetime(UTC) if job.HasField("completed_at") else None,
        attempt=job.attempt,
        fruitless_attempts=0,
        progress=messages.progress_record(job.progress),
        metrics=messages.metric_record(job.metrics) if job.HasField("metrics") else None,
        error=messages.error_record(job.error) if job.HasField("error") else None,
        result=reply.result or None,
        queue_reason=job.queue_reason,
        last_checkpoint=job.last_checkpoint,
        cancel_requested=job.cancel_requested,
        last_sequence=job.last_sequence,
        device=job.device,
        details={},
    )
