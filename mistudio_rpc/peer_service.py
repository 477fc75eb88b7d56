"""PeerService: what this process tells other control processes about its jobs and artifacts.

Answers from its own database only; `peers.py` is the asking side.
"""

from __future__ import annotations

from mistudio.artifact.v1 import artifact_pb2
from mistudio.peer.v1 import peer_service_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import NotFound
from mistudio_core.jobs.database import Database
from mistudio_core.jobs.queries import JobQueries
from mistudio_rpc import messages
from mistudio_rpc.types import Context


class PeerServicer:
    """See the contract for every method."""

    def __init__(self, database: Database) -> None:
        """Over the process's own database: a question is never passed on."""
        self._queries = JobQueries(database)

    async def ReadJob(self, request: peer_service_pb2.ReadJobRequest, _: Context) -> peer_service_pb2.ReadJobResponse:
        """See the contract."""
        job = await self._queries.get(request.job_id)
        return peer_service_pb2.ReadJobResponse(
            job=messages.job_message(job), request=job.request, result=job.result or b""
        )

    async def ListStoredArtifacts(
        self, request: peer_service_pb2.ListStoredArtifactsRequest, _: Context
    ) -> peer_service_pb2.ListStoredArtifactsResponse:
        """See the contract."""
        kind = messages.enum_short(artifact_pb2.ArtifactKind.Name(request.kind), "ARTIFACT_KIND_")
        records = await self._queries.artifacts_of(request.job_id, kind)
        return peer_service_pb2.ListStoredArtifactsResponse(artifacts=[_stored(record) for record in records])

    async def FindStoredArtifact(
        self, request: peer_service_pb2.FindStoredArtifactRequest, _: Context
    ) -> peer_service_pb2.FindStoredArtifactResponse:
        """See the contract."""
        if not request.upload:
            record = await self._queries.artifact(request.uri, request.sha256)
            return peer_service_pb2.FindStoredArtifactResponse(artifact=_stored(record))
        upload = await self._queries.upload(request.uri)
        if upload is None:
            raise NotFound(
                f"Nothing was uploaded as {request.uri[:200]}.",
                reason="ARTIFACT_NOT_FOUND",
                facts={"uri": request.uri[:200]},
            )
        return peer_service_pb2.FindStoredArtifactResponse(artifact=_stored(upload.record))

    async def ListUsers(
        self, request: peer_service_pb2.ListUsersRequest, _: Context
    ) -> peer_service_pb2.ListUsersResponse:
        """See the contract."""
        users = await self._queries.users(set(request.job_ids), set(request.uris))
        return peer_service_pb2.ListUsersResponse(
            users=[peer_service_pb2.User(job_id=job_id, uses=uses) for job_id, uses in users]
        )


def _stored(record: ArtifactRecord) -> peer_service_pb2.StoredArtifact:
    return peer_service_pb2.StoredArtifact(artifact=messages.artifact_message(record), folder=record.folder)
