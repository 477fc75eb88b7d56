"""ExplainService: translates messages, starts jobs, reads the explanations of completed ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from mistudio.artifact.v1 import artifact_pb2
from mistudio.explain.v1 import explain_service_pb2, explanation_pb2
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_core.errors import NotFound
from mistudio_core.jobs.records import COMPLETED, InputReference, NewJob
from mistudio_explain import convert
from mistudio_explain.engines.settings import choose_engine, load_engines
from mistudio_explain.evidence import check_texts
from mistudio_rpc import messages
from mistudio_rpc.artifact_service import file_parts
from mistudio_rpc.paging import RankPage
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime, not_ready
from mistudio_rpc.types import Context

SERVICE = "explain"
_FILES = {
    explanation_pb2.REPORT_FORMAT_JSON: ("explanations", convert.EXPLANATIONS_FILE),
    explanation_pb2.REPORT_FORMAT_HTML: ("report", convert.REPORT_FILE),
}


class ExplainServicer:
    """See the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime

    async def StartExplain(
        self, request: explain_service_pb2.StartExplainRequest, _: Context
    ) -> explain_service_pb2.StartExplainResponse:
        """The Find job must have completed, unless the request waits for it; the engine must be known."""
        earlier = await self._runtime.started(SERVICE, request)
        if earlier is not None:
            return convert.start_message(earlier)
        body_sha256 = messages.body_sha256(request)
        config = convert.config_of(request)
        engine = choose_engine(load_engines(self._runtime.home.engines_file), config.engine, config.model)
        find = await self._runtime.queries.get(config.find_job_id, "find")
        if find.status != COMPLETED and (find.is_terminal or not request.wait_for_find):
            raise not_ready(find)
        asked = find_service_pb2.StartFindRequest.FromString(find.request).evidence_text
        check_texts(messages.enum_short(finding_pb2.EvidenceText.Name(asked), "EVIDENCE_TEXT_"), find.job_id)
        request.engine = engine.name  # decided now: a later default does not change the job
        new = NewJob(
            service=SERVICE,
            request=request.SerializeToString(deterministic=True),
            request_id=request.request_id,
            body_sha256=body_sha256,
            model_name=find.model_name,
            inputs={"features": InputReference(job_id=find.job_id, kind="features")},
        )
        job, _fresh = await self._runtime.start_job(new, wait_for=find)
        return convert.start_message(job)

    async def GetExplainStatus(
        self, request: explain_service_pb2.GetExplainStatusRequest, _: Context
    ) -> explain_service_pb2.GetExplainStatusResponse:
        """See the contract."""
        return convert.status_message(await self._runtime.queries.get(request.job_id, SERVICE))

    async def GetExplainResult(
        self, request: explain_service_pb2.GetExplainResultRequest, _: Context
    ) -> explain_service_pb2.GetExplainResultResponse:
        """See the contract."""
        make = explain_service_pb2.GetExplainResultResponse.FromString
        job, response = await self._runtime.result_of(request.job_id, SERVICE, make)
        return convert.add_artifacts(response, job, await self._runtime.queries.artifacts_of(job.job_id))

    async def ListExplanations(
        self, request: explain_service_pb2.ListExplanationsRequest, _: Context
    ) -> explain_service_pb2.ListExplanationsResponse:
        """See the contract."""
        records = await self._records(request.job_id)
        page = RankPage.parse(request.page_token, request.page_size or 50)
        wanted = records[page.start : page.start + page.size]
        explanations = page.fit([convert.explanation_message(r) for r in wanted])
        return explain_service_pb2.ListExplanationsResponse(
            explanations=explanations,
            next_page_token=page.next_token(len(explanations), len(records)),
            total_explanations=len(records),
        )

    async def GetExplanation(
        self, request: explain_service_pb2.GetExplanationRequest, _: Context
    ) -> explain_service_pb2.GetExplanationResponse:
        """See the contract."""
        records = await self._records(request.job_id)
        record = next((r for r in records if r["feature_id"] == request.feature_id), None)
        if record is None:
            raise NotFound(
                f"Feature {request.feature_id} was not explained by {request.job_id}.",
                reason="FEATURE_NOT_FOUND",
                facts={"feature_id": request.feature_id},
            )
        return explain_service_pb2.GetExplanationResponse(explanation=convert.explanation_message(record))

    async def _records(self, job_id: str) -> list[dict[str, Any]]:
        await self._runtime.completed(job_id, SERVICE)
        reader = await self._runtime.open_artifact(job_id, "explanations")
        body = await asyncio.to_thread(lambda: json.loads(reader.read_bytes(convert.EXPLANATIONS_FILE)))
        return list(body["explanations"])

    async def ExportExplanations(
        self, request: explain_service_pb2.ExportExplanationsRequest, _: Context
    ) -> AsyncIterator[explain_service_pb2.ExportExplanationsResponse]:
        """See the contract."""
        await self._runtime.completed(request.job_id, SERVICE)
        kind, name = _FILES[request.format]
        reader = await self._runtime.open_artifact(request.job_id, kind)
        async for part in file_parts(reader, name):
            yield explain_service_pb2.ExportExplanationsResponse(
                header=part if isinstance(part, artifact_pb2.DownloadHeader) else None,
                chunk=part if isinstance(part, artifact_pb2.Chunk) else None,
            )

    async def ListEngines(
        self, _request: explain_service_pb2.ListEnginesRequest, _: Context
    ) -> explain_service_pb2.ListEnginesResponse:
        """See the contract."""
        engines = load_engines(self._runtime.home.engines_file)
        return explain_service_pb2.ListEnginesResponse(engines=[convert.engine_message(e) for e in engines.values()])


entry = ServiceEntry(
    name=SERVICE,
    grpc_service="mistudio.explain.v1.ExplainService",
    servicer=ExplainServicer,
    worker="mistudio_explain.worker:run",
)
"""Registered in the group `mistudio.services`."""
