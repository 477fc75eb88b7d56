"""The RPCs of FindService that download an analysis: translates messages, asks the export desk."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mistudio.artifact.v1 import artifact_pb2
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_find import convert
from mistudio_find.exports import FORMATS
from mistudio_find.exports.desk import ExportDesk
from mistudio_rpc.artifact_service import file_parts
from mistudio_rpc.messages import enum_short
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context

_SERVICE, _BUNDLE = "find", "zip"


class ExportMethods:
    """Part of the servicer; see the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime
        self._desk = ExportDesk(runtime.artifacts, runtime.jobs, runtime.queries)

    async def ExportFeatures(
        self, request: find_service_pb2.ExportFeaturesRequest, _: Context
    ) -> AsyncIterator[find_service_pb2.ExportFeaturesResponse]:
        """See the contract."""
        name = enum_short(finding_pb2.ExportFormat.Name(request.format), "EXPORT_FORMAT_")
        async for part in self._parts(request.job_id, name, request.offset):
            yield find_service_pb2.ExportFeaturesResponse(
                header=part if isinstance(part, artifact_pb2.DownloadHeader) else None,
                chunk=part if isinstance(part, artifact_pb2.Chunk) else None,
            )

    async def DownloadFindBundle(
        self, request: find_service_pb2.DownloadFindBundleRequest, _: Context
    ) -> AsyncIterator[find_service_pb2.DownloadFindBundleResponse]:
        """See the contract."""
        async for part in self._parts(request.job_id, _BUNDLE, request.offset):
            yield find_service_pb2.DownloadFindBundleResponse(
                header=part if isinstance(part, artifact_pb2.DownloadHeader) else None,
                chunk=part if isinstance(part, artifact_pb2.Chunk) else None,
            )

    async def _parts(
        self, job_id: str, name: str, offset: int
    ) -> AsyncIterator[artifact_pb2.DownloadHeader | artifact_pb2.Chunk]:
        """The finished file as a header and chunks."""
        job = await self._runtime.completed(job_id, _SERVICE)
        if FORMATS[name].needs_codes:
            convert.check_has_tokens(job, name)
        reader, form = await self._desk.get(job, name)
        async for part in file_parts(reader, form.filename, offset=offset, media_type=form.media_type):
            yield part
