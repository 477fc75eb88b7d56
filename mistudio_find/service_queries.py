"""The RPCs of FindService that list, get, search and watch features: translates messages, asks the tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from mistudio.feature.v1 import feature_pb2
from mistudio.find.v1 import find_service_pb2
from mistudio.job.v1 import job_event_pb2

from mistudio_core import clock
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.corpus.fulltext import Words
from mistudio_core.errors import Corrupt, InvalidInput, MistudioError, NotFound, Unavailable
from mistudio_core.jobs.records import COMPLETED
from mistudio_find import convert
from mistudio_find.filters import compile_filter, compile_order
from mistudio_find.opened import OpenAnalyses, Opened, binding, page_start, page_token
from mistudio_find.pages import FeaturePages
from mistudio_find.search import search
from mistudio_find.spooled import SpoolTail
from mistudio_find.table import Sql
from mistudio_rpc.paging import PAGE_BYTES
from mistudio_rpc.runtime import Runtime, not_ready
from mistudio_rpc.types import Context

_SERVICE = "find"
_LIST, _SEARCH = 50, 20
MOST_SEARCHED = 200
"""Analyses that one search goes through, the newest ones."""
_POLL_SECONDS = 0.25
_HEARTBEAT_SECONDS = 15.0
_BATCH = 16


class QueryMethods:
    """Part of the servicer; see the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime
        self._opened = OpenAnalyses(runtime.artifacts)

    async def ListFeatures(
        self, request: find_service_pb2.ListFeaturesRequest, _: Context
    ) -> find_service_pb2.ListFeaturesResponse:
        """See the contract."""
        await self._runtime.completed(request.job_id, _SERVICE)
        record = await self._runtime.artifact_of(request.job_id, "features")
        return await asyncio.to_thread(self._listed, request, record)

    def _listed(
        self, request: find_service_pb2.ListFeaturesRequest, record: ArtifactRecord
    ) -> find_service_pb2.ListFeaturesResponse:
        where, order = compile_filter(request.filter), compile_order(request.order_by)
        bound = binding(record.sha256, request.filter, request.order_by)
        start = page_start(request.page_token, bound, "job_id, filter and order_by")
        size = request.page_size or _LIST
        opened = self._opened.get(record)
        if request.filter.strip() or request.order_by.strip():
            places, total = opened.queries().select(where, order, start, size)
        else:
            total = opened.pages.total
            places = list(range(start, min(total, start + size)))
        response = find_service_pb2.ListFeaturesResponse(total_features=total)
        end = start + _fill(response.features, opened.pages.records(places))
        response.next_page_token = page_token(end, bound) if start < end < total else ""
        return response

    async def GetFeature(
        self, request: find_service_pb2.GetFeatureRequest, _: Context
    ) -> find_service_pb2.GetFeatureResponse:
        """See the contract."""
        await self._runtime.completed(request.job_id, _SERVICE)
        opened = await self._open(request.job_id)
        record = await asyncio.to_thread(opened.pages.feature, request.feature_id)
        return find_service_pb2.GetFeatureResponse(feature=convert.feature_message(record))

    async def SearchFeatures(
        self, request: find_service_pb2.SearchFeaturesRequest, _: Context
    ) -> find_service_pb2.SearchFeaturesResponse:
        """See the contract."""
        words, where = Words.parse("query", request.query), compile_filter(request.filter)
        records, unsearched = await self._searched(request.job_id)
        return await asyncio.to_thread(self._found, request, words, where, records, unsearched)

    async def _searched(self, job_id: str) -> tuple[list[ArtifactRecord], list[str]]:
        """(the analyses to search, newest first; ids of completed ones that have no artifact)."""
        if job_id:
            await self._runtime.completed(job_id, _SERVICE)
            return [await self._runtime.artifact_of(job_id, "features")], []
        jobs, _, _ = await self._runtime.queries.page(_SERVICE, status=COMPLETED, size=MOST_SEARCHED)
        records, without = [], []
        for job in jobs:
            try:
                records.append(await self._runtime.artifact_of(job.job_id, "features"))
            except NotFound:
                without.append(job.job_id)
        return records, without

    def _found(
        self,
        request: find_service_pb2.SearchFeaturesRequest,
        words: Words,
        where: Sql,
        records: list[ArtifactRecord],
        unsearched: list[str],
    ) -> find_service_pb2.SearchFeaturesResponse:
        bound = binding(request.query, request.filter, *(record.sha256 for record in records))
        start = page_start(request.page_token, bound, "query, job_id and filter, and the same completed analyses")
        size = request.page_size or _SEARCH
        analyses = list(self._searchable(records, unsearched, alone=bool(request.job_id)))
        found = search(analyses, words, where, start + size)
        response = find_service_pb2.SearchFeaturesResponse(total_hits=found.total, unsearched_job_ids=unsearched)
        hits = list(found.hits(start, size))
        count = _fill(response.features, (hit.record for hit in hits))
        response.hits.extend(convert.hit_message(hit) for hit in hits[:count])
        end = start + count
        response.next_page_token = page_token(end, bound) if start < end < found.total else ""
        return response

    def _searchable(
        self, records: list[ArtifactRecord], unsearched: list[str], *, alone: bool
    ) -> Iterator[tuple[str, Opened]]:
        """Analyses with a sound query table; the others are named, or raise where one was asked for."""
        for record in records:
            try:
                opened = self._opened.get(record)
                opened.queries()
            except MistudioError as error:
                if alone or not isinstance(error, InvalidInput | Corrupt):
                    raise
                unsearched.append(record.job_id)
            else:
                yield record.job_id, opened

    async def WatchFeatures(
        self, request: find_service_pb2.WatchFeaturesRequest, _: Context
    ) -> AsyncIterator[find_service_pb2.WatchFeaturesResponse]:
        """See the contract. Holds at most a batch of records; a slow reader is waited for."""
        job = await self._runtime.queries.get(request.job_id, _SERVICE)
        tail = SpoolTail(self._runtime.home.scratch / job.job_id, request.after_sequence - 1)
        quiet_since = clock.monotonic()
        while not job.is_terminal:
            records = await asyncio.to_thread(tail.read)
            for record in records:
                yield convert.feature_event(record)
            if records:
                quiet_since = clock.monotonic()
                continue
            if clock.monotonic() - quiet_since > _HEARTBEAT_SECONDS:
                quiet_since = clock.monotonic()
                yield find_service_pb2.WatchFeaturesResponse(
                    event=find_service_pb2.FeatureEvent(heartbeat=job_event_pb2.Heartbeat())
                )
            await asyncio.sleep(_POLL_SECONDS)
            if self._runtime.draining:
                raise Unavailable("The service is stopping. Attach again in a moment; no feature is lost.")
            job = await self._runtime.queries.get(request.job_id, _SERVICE)
        if job.status != COMPLETED:
            raise not_ready(job)
        async for event in self._rest(job.job_id, tail.last + 1):
            yield event

    async def _rest(self, job_id: str, first: int) -> AsyncIterator[find_service_pb2.WatchFeaturesResponse]:
        """Events of a completed analysis from a feature on, and the end."""
        pages = (await self._open(job_id)).pages
        if first > pages.total:
            raise InvalidInput.field(
                "after_sequence",
                first,
                f"0 to {pages.total}",
                "Attach again with the last sequence that you received.",
                reason="SEQUENCE_OUT_OF_RANGE",
            )
        for start in range(first, pages.total, _BATCH):
            for record in await asyncio.to_thread(_batch, pages, start):
                yield convert.feature_event(record)
        yield find_service_pb2.WatchFeaturesResponse(
            event=find_service_pb2.FeatureEvent(end=find_service_pb2.FeaturesEnd(total_features=pages.total))
        )

    async def _open(self, job_id: str) -> Opened:
        return await asyncio.to_thread(self._opened.get, await self._runtime.artifact_of(job_id, "features"))


def _fill(features: RepeatedCompositeFieldContainer[feature_pb2.Feature], records: Iterable[dict[str, Any]]) -> int:
    """Adds as many brief features as go into one message, at least one; how many."""
    room = PAGE_BYTES
    for record in records:
        room -= convert.fill_feature(features.add(), record).ByteSize()
        if room < 0 and len(features) > 1:
            del features[-1]
            break
    return len(features)


def _batch(pages: FeaturePages, start: int) -> list[dict[str, Any]]:
    """Records of the features from an index on."""
    return [pages.feature(number) for number in range(start, min(pages.total, start + _BATCH))]
