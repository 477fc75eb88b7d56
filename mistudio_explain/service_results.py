"""The RPCs of ExplainService that read completed runs: translates messages, asks the tables."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator

from mistudio.artifact.v1 import artifact_pb2
from mistudio.explain.v1 import explain_service_pb2, explanation_pb2
from mistudio.feature.v1 import feature_pb2

from mistudio_core.corpus.fulltext import Words
from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.records import COMPLETED, JobRecord
from mistudio_explain import convert
from mistudio_explain.compare import Comparison, check_comparable, compare
from mistudio_explain.desk import ReportDesk
from mistudio_explain.service_base import SERVICE, Reading, records_at
from mistudio_explain.table import ExplanationTable
from mistudio_rpc import messages
from mistudio_rpc.artifact_service import file_parts
from mistudio_rpc.paging import RankPage
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context

_ROWS = 50
_JOBS = 500


class ResultMethods(Reading):
    """Part of the servicer; see the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        super().__init__(runtime)
        self._desk = ReportDesk(runtime.artifacts, runtime.jobs, runtime.queries, self._tables, runtime.home.fonts)

    async def ListExplanations(
        self, request: explain_service_pb2.ListExplanationsRequest, _: Context
    ) -> explain_service_pb2.ListExplanationsResponse:
        """See the contract."""
        table = await self._table(request.job_id)
        page = RankPage.parse(request.page_token, request.page_size or _ROWS)
        where, values = _wanted(request)
        total = await asyncio.to_thread(table.count, where, *values)
        records = await asyncio.to_thread(table.page, where, values, "place", page.start, page.size)
        records = await self._reviewed(request.job_id, records)
        explanations = page.fit([convert.explanation_message(r) for r in records])
        return explain_service_pb2.ListExplanationsResponse(
            explanations=explanations,
            next_page_token=page.next_token(len(explanations), total),
            total_explanations=total,
        )

    async def GetExplanation(
        self, request: explain_service_pb2.GetExplanationRequest, _: Context
    ) -> explain_service_pb2.GetExplanationResponse:
        """See the contract."""
        table = await self._table(request.job_id)
        record = await asyncio.to_thread(table.record, request.feature_id, request.job_id)
        (record,) = await self._reviewed(request.job_id, [record])
        return explain_service_pb2.GetExplanationResponse(explanation=convert.explanation_message(record))

    async def ExportExplanations(
        self, request: explain_service_pb2.ExportExplanationsRequest, _: Context
    ) -> AsyncIterator[explain_service_pb2.ExportExplanationsResponse]:
        """See the contract."""
        job = await self._runtime.completed(request.job_id, SERVICE)
        name = messages.enum_short(explanation_pb2.ReportFormat.Name(request.format), "REPORT_FORMAT_")
        reader, form = await self._desk.get(job, name, await self._reviews.of(job.job_id))
        async for part in file_parts(reader, form.filename, media_type=form.media_type):
            yield explain_service_pb2.ExportExplanationsResponse(
                header=part if isinstance(part, artifact_pb2.DownloadHeader) else None,
                chunk=part if isinstance(part, artifact_pb2.Chunk) else None,
            )

    async def SearchExplanations(
        self, request: explain_service_pb2.SearchExplanationsRequest, _: Context
    ) -> explain_service_pb2.SearchExplanationsResponse:
        """See the contract."""
        words = Words.parse("query", request.query, beginnings=True)
        page = RankPage.parse(request.page_token, request.page_size or _ROWS)
        runs = await self._runs(request.job_id)
        tables = dict(runs)
        hits = await asyncio.to_thread(_search, runs, words, request.min_quality)
        shown = [(runs[number][0], feature) for _score, number, feature in hits[page.start : page.start + page.size]]
        reviews = await self._reviews.latest(sorted({job_id for job_id, _ in shown}))
        records = await asyncio.to_thread(records_at, tables, shown, reviews)
        found = page.fit(
            [
                explain_service_pb2.FoundExplanation(job_id=job_id, explanation=convert.explanation_message(record))
                for (job_id, _), record in zip(shown, records, strict=True)
            ]
        )
        token = page.next_token(len(found), len(hits))
        return explain_service_pb2.SearchExplanationsResponse(found=found, next_page_token=token, total_found=len(hits))

    async def CompareExplains(
        self, request: explain_service_pb2.CompareExplainsRequest, _: Context
    ) -> explain_service_pb2.CompareExplainsResponse:
        """See the contract."""
        ids = [request.job_id, request.other]
        if ids[0] == ids[1]:
            raise InvalidInput.field("other", ids[1], f"a run other than {ids[0]}", "Name two runs.")
        page = RankPage.parse(request.page_token, request.page_size or _ROWS)
        tables = [await self._table(job_id) for job_id in ids]
        check_comparable(tables, ids)
        first, other = [
            await self._reviewed(job_id, await asyncio.to_thread(list, table.records()))
            for job_id, table in zip(ids, tables, strict=True)
        ]
        return _comparison(await asyncio.to_thread(compare, first, other), page)

    async def ListExplainHistory(
        self, request: explain_service_pb2.ListExplainHistoryRequest, _: Context
    ) -> explain_service_pb2.ListExplainHistoryResponse:
        """See the contract."""
        page = RankPage.parse(request.page_token, request.page_size or _ROWS)
        found = await self._history(request.find_job_id)
        response = explain_service_pb2.ListExplainHistoryResponse(total_runs=len(found))
        for job in found[page.start : page.start + page.size]:
            response.runs.append(convert.run_message(job, await self._result(job)))
        response.next_page_token = page.next_token(len(response.runs), len(found))
        return response

    async def _history(self, find_job_id: str) -> list[JobRecord]:
        """Completed runs, newest first, of one analysis or of all."""
        found: list[JobRecord] = []
        token = ""
        while True:
            jobs, token, _ = await self._runtime.queries.page(SERVICE, status=COMPLETED, size=_JOBS, token=token)
            found += [job for job in jobs if not find_job_id or convert.asked_of(job).find_job_id == find_job_id]
            if not token:
                return found


def _wanted(request: explain_service_pb2.ListExplanationsRequest) -> tuple[str, tuple[object, ...]]:
    """A condition of the table and its values."""
    category = messages.enum_short(feature_pb2.PatternCategory.Name(request.pattern_category), "PATTERN_CATEGORY_")
    safety = messages.enum_short(explanation_pb2.SafetyAssessment.Name(request.safety_assessment), "SAFETY_ASSESSMENT_")
    wanted: list[tuple[str, object]] = [("quality >= ?", request.min_quality)] if request.min_quality > 0 else []
    wanted += [("category = ?", category)] if category else []
    wanted += [("safety = ?", safety)] if safety else []
    return " AND ".join(text for text, _ in wanted) or "1", tuple(value for _, value in wanted)


def _search(runs: list[tuple[str, ExplanationTable]], words: Words, min_quality: float) -> list[tuple[float, int, int]]:
    """(score, number of the run, feature), best first; equal ones in the order of the runs."""
    rows = [[(s, n, f) for s, f in table.search(words.match, min_quality)] for n, (_, table) in enumerate(runs)]
    return list(heapq.merge(*rows, key=lambda row: (row[0], row[1])))


def _comparison(found: Comparison, page: RankPage) -> explain_service_pb2.CompareExplainsResponse:
    pairs = page.fit([convert.pair_message(p) for p in found.pairs[page.start : page.start + page.size]])
    return explain_service_pb2.CompareExplainsResponse(
        pairs=pairs,
        first=convert.summary_message(found.first),
        other=convert.summary_message(found.other),
        quality_change_average=found.average,
        quality_change_low=found.low,
        quality_change_high=found.high,
        only_first=found.only_first,
        only_other=found.only_other,
        next_page_token=page.next_token(len(pairs), len(found.pairs)),
        total_pairs=len(found.pairs),
    )
