"""ArtifactService: lists and reads what jobs committed, verified before it is sent."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator

from mistudio.artifact.v1 import artifact_pb2, artifact_service_pb2

from mistudio_core.artifacts import ArtifactReader
from mistudio_rpc import messages
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context


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
    reader: ArtifactReader, name: str, *, offset: int = 0, media_type: str = ""
) -> AsyncIterator[artifact_pb2.DownloadHeader | artifact_pb2.Chunk]:
    """A verified file as a header and chunks; its media type follows from its name unless given. Raises Corrupt."""
    record = reader.record.file(name)
    media_type = media_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
    chunks = reader.chunks(name, offset)
    # the first slice is verified before anything is promised: a damaged file is an error, not a torn download
    chunk = await asyncio.to_thread(next, chunks, None)
    yield artifact_pb2.DownloadHeader(
        filename=name, media_type=media_type, size_bytes=record.size_bytes, sha256=record.sha256
    )
    while chunk is not None:
        yield artifact_pb2.Chunk(offset=chunk[0], data=chunk[1])
        chunk = await asyncio.to_thread(next, chunks, None)
