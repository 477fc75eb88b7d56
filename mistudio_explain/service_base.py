"""What the RPCs of ExplainService share: completed runs opened for reading, and what people decided."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from mistudio.explain.v1 import explain_service_pb2

from mistudio_core.artifacts import OpenArtifacts
from mistudio_core.errors import MistudioError
from mistudio_core.jobs.records import COMPLETED, JobRecord
from mistudio_core.jobs.reviews import ReviewRecord, ReviewStore
from mistudio_explain import convert
from mistudio_explain.book import with_review
from mistudio_explain.table import ExplanationTable, Record
from mistudio_rpc.runtime import Runtime

SERVICE = "explain"
MOST_RUNS = 200
"""Runs that a search or a queue over all of them goes through, the newest ones; as many are kept open."""


class Reading:
    """Base of the servicer's parts."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime
        self._tables = OpenArtifacts(runtime.artifacts, ExplanationTable.of, MOST_RUNS)
        self._reviews = ReviewStore(runtime.database)

    async def _table(self, job_id: str) -> ExplanationTable:
        """A completed run. Raises NotFound, NotReady, Corrupt, Unsupported."""
        await self._runtime.completed(job_id, SERVICE)
        return await asyncio.to_thread(self._tables.get, await self._runtime.artifact_of(job_id, "explanations"))

    async def _runs(self, job_id: str) -> list[tuple[str, ExplanationTable]]:
        """One completed run, or where none is named the newest ones that can be read."""
        if job_id:
            return [(job_id, await self._table(job_id))]
        jobs, _, _ = await self._runtime.queries.page(SERVICE, status=COMPLETED, size=MOST_RUNS)
        found = []
        for job in jobs:
            try:
                found.append((job.job_id, await self._table(job.job_id)))
            except MistudioError:  # removed, damaged or of an earlier version: the others are still shown
                continue
        return found

    async def _reviewed(self, job_id: str, records: list[Record]) -> list[Record]:
        """Records of a run with what people decided about them last."""
        latest = {r.feature_id: r for r in await self._reviews.latest([job_id])}
        return [with_review(record, latest.get(record["feature_id"])) for record in records]

    async def _result(self, job: JobRecord) -> explain_service_pb2.GetExplainResultResponse:
        """A completed run's result as its worker stored it, with the figures of reviews."""
        response = explain_service_pb2.GetExplainResultResponse.FromString(job.result or b"")
        convert.add_reviews(response.summary_insights, await self._reviews.latest([job.job_id]))
        return response


def records_at(
    tables: Mapping[str, ExplanationTable], places: Sequence[tuple[str, int]], reviews: Sequence[ReviewRecord]
) -> list[Record]:
    """Records of (run, feature) in this order, each with what a person decided about it; call it in a thread."""
    latest = {(r.job_id, r.feature_id): r for r in reviews}
    return [with_review(tables[job].record(feature, job), latest.get((job, feature))) for job, feature in places]
