"""FindService: translates messages, starts jobs, reads the features of completed ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mistudio.artifact.v1 import artifact_pb2
from mistudio.feature.v1 import feature_pb2
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_core.jobs.records import COMPLETED, InputReference, NewJob
from mistudio_find import convert
from mistudio_find.outputs import ANALYSIS_FILE, CSV_FILE
from mistudio_find.pages import FeaturePages
from mistudio_rpc.artifact_service import file_parts
from mistudio_rpc.paging import RankPage
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime, not_ready
from mistudio_rpc.types import Context

SERVICE = "find"
_FILES = {finding_pb2.EXPORT_FORMAT_JSON: ANALYSIS_FILE, finding_pb2.EXPORT_FORMAT_CSV: CSV_FILE}


class FindServicer:
    """See the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime

    async def StartFind(
        self, request: find_service_pb2.StartFindRequest, _: Context
    ) -> find_service_pb2.StartFindResponse:
        """The training job must have completed, unless the request waits for it."""
        earlier = await self._runtime.started(SERVICE, request)
        if earlier is not None:
            return convert.start_message(earlier)
        config = convert.config_of(request)
        training = await self._runtime.queries.get(config.training_job_id, "train")
        if training.status != COMPLETED and (training.is_terminal or not request.wait_for_training):
            raise not_ready(training)
        inputs = {
            kind: InputReference(job_id=training.job_id, kind=kind, name=request.sae_name)
            for kind in ("codes", "metadata", "sae")
        }
        if training.status == COMPLETED:
            inputs["sae"].chosen(await self._runtime.queries.artifacts_of(training.job_id, "sae"))
        new = NewJob(
            service=SERVICE,
            request=request.SerializeToString(deterministic=True),
            request_id=request.request_id,
            model_name=training.model_name,
            inputs=inputs,
        )
        job, _fresh = await self._runtime.start_job(new, wait_for=training)
        return convert.start_message(job)

    async def GetFindStatus(
        self, request: find_service_pb2.GetFindStatusRequest, _: Context
    ) -> find_service_pb2.GetFindStatusResponse:
        """See the contract."""
        return convert.status_message(await self._runtime.queries.get(request.job_id, SERVICE))

    async def GetFindResult(
        self, request: find_service_pb2.GetFindResultRequest, _: Context
    ) -> find_service_pb2.GetFindResultResponse:
        """See the contract."""
        make = find_service_pb2.GetFindResultResponse.FromString
        job, response = await self._runtime.result_of(request.job_id, SERVICE, make)
        return convert.add_artifacts(response, job, await self._runtime.queries.artifacts_of(job.job_id))

    async def ListFeatures(
        self, request: find_service_pb2.ListFeaturesRequest, _: Context
    ) -> find_service_pb2.ListFeaturesResponse:
        """See the contract."""
        pages = await self._pages(request.job_id)
        page = RankPage.parse(request.page_token, request.page_size or 50)
        features = await asyncio.to_thread(_features, pages, page)
        return find_service_pb2.ListFeaturesResponse(
            features=features,
            next_page_token=page.next_token(len(features), pages.total),
            total_features=pages.total,
        )

    async def GetFeature(
        self, request: find_service_pb2.GetFeatureRequest, _: Context
    ) -> find_service_pb2.GetFeatureResponse:
        """See the contract."""
        pages = await self._pages(request.job_id)
        record = await asyncio.to_thread(pages.feature, request.feature_id)
        return find_service_pb2.GetFeatureResponse(feature=convert.feature_message(record))

    async def _pages(self, job_id: str) -> FeaturePages:
        await self._runtime.completed(job_id, SERVICE)
        reader = await self._runtime.open_artifact(job_id, "features")
        return await asyncio.to_thread(FeaturePages, reader)

    async def ExportFeatures(
        self, request: find_service_pb2.ExportFeaturesRequest, _: Context
    ) -> AsyncIterator[find_service_pb2.ExportFeaturesResponse]:
        """See the contract."""
        await self._runtime.completed(request.job_id, SERVICE)
        reader = await self._runtime.open_artifact(request.job_id, "features")
        async for part in file_parts(reader, _FILES[request.format]):
            yield find_service_pb2.ExportFeaturesResponse(
                header=part if isinstance(part, artifact_pb2.DownloadHeader) else None,
                chunk=part if isinstance(part, artifact_pb2.Chunk) else None,
            )


def _features(pages: FeaturePages, page: RankPage) -> list[feature_pb2.Feature]:
    """As many features of a page as fit a message; a record is read and converted only when it is its turn."""
    ranks = range(page.start, min(page.start + page.size, pages.total))
    records = (record for rank in ranks for record in pages.page(rank, 1))
    return page.fit(convert.feature_message(record, brief=True) for record in records)


entry = ServiceEntry(
    name=SERVICE,
    grpc_service="mistudio.find.v1.FindService",
    servicer=FindServicer,
    worker="mistudio_find.worker:run",
)
"""Registered in the group `mistudio.services`."""
