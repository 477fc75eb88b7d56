"""ExplainService: translates messages, starts jobs, tells how they stand; the other methods stand in service_*.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mistudio.explain.v1 import explain_service_pb2
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_core.jobs.records import COMPLETED, InputReference, JobRecord, NewJob
from mistudio_explain import convert
from mistudio_explain.engines.settings import choose_engine, load_engines
from mistudio_explain.engines.table import LEXICAL
from mistudio_explain.evidence import check_contrast, check_texts
from mistudio_explain.few_shot import load_few_shot
from mistudio_explain.judging.choice import EMBEDDING
from mistudio_explain.policy.pool import check_budget
from mistudio_explain.service_base import SERVICE
from mistudio_explain.service_engines import PRELOAD, EngineMethods, background
from mistudio_explain.service_live import LiveMethods
from mistudio_explain.service_metrics import counted
from mistudio_explain.service_results import ResultMethods
from mistudio_explain.service_reviews import ReviewMethods
from mistudio_rpc import messages
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime, not_ready
from mistudio_rpc.types import Context


class ExplainServicer(ResultMethods, ReviewMethods, LiveMethods, EngineMethods):
    """See the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        ResultMethods.__init__(self, runtime)
        EngineMethods.__init__(self, runtime)

    async def StartExplain(
        self, request: explain_service_pb2.StartExplainRequest, _: Context
    ) -> explain_service_pb2.StartExplainResponse:
        """The Find job must have completed, unless the request waits for it; the engines must be known."""
        earlier = await self._runtime.started(SERVICE, request)
        if earlier is not None:
            return convert.start_message(earlier)
        body_sha256 = messages.body_sha256(request)
        find = await self._find_job(request)
        # decided now: a later default does not change the job
        request.engine = await asyncio.to_thread(self._engine, request)
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

    async def _find_job(self, request: explain_service_pb2.StartExplainRequest) -> JobRecord:
        """The analysis to explain. Raises NotFound, NotReady; Unsupported where it lacks texts."""
        find = await self._runtime.queries.get(request.find_job_id, "find")
        if find.status != COMPLETED and (find.is_terminal or not request.wait_for_find):
            raise not_ready(find)
        asked = find_service_pb2.StartFindRequest.FromString(find.request)
        check_texts(
            messages.enum_short(finding_pb2.EvidenceText.Name(asked.evidence_text), "EVIDENCE_TEXT_"), find.job_id
        )
        check_contrast(asked.contrast_texts if asked.HasField("contrast_texts") else None, find.job_id)
        return find

    def _engine(self, request: explain_service_pb2.StartExplainRequest) -> str:
        """The engine that the request gets. Raises InvalidInput, NotFound (ENGINE_NOT_FOUND), Unsupported."""
        config = convert.config_of(request)
        engines = load_engines(self._runtime.home.engines_file)
        chosen = choose_engine(engines, config.engine, config.model)
        check_budget(chosen, config.budget_usd)
        if config.judge_engine not in ("", LEXICAL, EMBEDDING):
            judge = choose_engine(engines, config.judge_engine, config.judge_model)
            check_budget(judge, config.budget_usd, field="judge_engine")
        load_few_shot(config.few_shot, self._runtime.home.root / "few_shot")
        return chosen.name

    async def GetExplainStatus(
        self, request: explain_service_pb2.GetExplainStatusRequest, _: Context
    ) -> explain_service_pb2.GetExplainStatusResponse:
        """See the contract."""
        return convert.status_message(await self._runtime.queries.get(request.job_id, SERVICE))

    async def GetExplainResult(
        self, request: explain_service_pb2.GetExplainResultRequest, _: Context
    ) -> explain_service_pb2.GetExplainResultResponse:
        """See the contract."""
        job = await self._runtime.completed(request.job_id, SERVICE)
        artifacts = await self._runtime.queries.artifacts_of(job.job_id)
        return convert.add_artifacts(await self._result(job), job, artifacts)


@asynccontextmanager
async def _background(runtime: Runtime) -> AsyncIterator[None]:
    """Engines, and what is counted for Prometheus."""
    async with background(runtime), counted(runtime):
        yield


entry = ServiceEntry(
    name=SERVICE,
    grpc_service="mistudio.explain.v1.ExplainService",
    servicer=ExplainServicer,
    worker="mistudio_explain.worker:run",
    preload=PRELOAD,
    background=_background,
)
"""Registered in the group `mistudio.services`."""
