"""The RPCs of FindService about analyses beside each other: translates messages, asks history and comparisons."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mistudio.find.v1 import find_service_pb2

from mistudio_core import clock
from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.retention import Retention
from mistudio_find import convert_history, history
from mistudio_find.compare_desk import CompareDesk, Made
from mistudio_find.comparison_rows import APPEARED, MATCHED
from mistudio_find.opened import binding, page_start, page_token
from mistudio_rpc import messages
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context

_SERVICE = "find"
_ROWS, _ANALYSES = 200, 50


class HistoryMethods:
    """Part of the servicer; see the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._runtime = runtime
        self._comparisons = CompareDesk(runtime.artifacts, runtime.jobs, runtime.queries)
        self._retention = Retention(runtime.database, runtime.users_elsewhere)

    async def CompareFinds(
        self, request: find_service_pb2.CompareFindsRequest, _: Context
    ) -> find_service_pb2.CompareFindsResponse:
        """See the contract."""
        job = await self._runtime.completed(request.job_id, _SERVICE)
        others = await self._others(request)
        wanted = convert_history.wanted_of(request)
        made = [await self._comparisons.get(job, other, wanted) for other in others]
        bound = binding(*(one.sha256 for one in made))
        start = page_start(request.page_token, bound, "job_id, other, more, method and min_similarity")
        total = sum(one.rows.total for one in made)
        response = find_service_pb2.CompareFindsResponse(
            comparisons=map(convert_history.comparison_message, made), total_rows=total
        )
        end = min(total, start + (request.page_size or _ROWS))
        await asyncio.to_thread(_fill, response, made, start, end)
        response.next_page_token = page_token(end, bound) if start < end < total else ""
        return response

    async def _others(self, request: find_service_pb2.CompareFindsRequest) -> list[JobRecord]:
        """The other jobs, completed. Raises InvalidInput where one is named twice."""
        ids = [request.other, *request.more]
        if request.job_id in ids or len(set(ids)) < len(ids):
            raise InvalidInput.field(
                "more" if request.more else "other",
                ", ".join(ids),
                f"jobs other than {request.job_id}, each once",
                "Leave out what is named twice.",
            )
        return [await self._runtime.completed(job_id, _SERVICE) for job_id in ids]

    async def ListFindHistory(
        self, request: find_service_pb2.ListFindHistoryRequest, _: Context
    ) -> find_service_pb2.ListFindHistoryResponse:
        """See the contract."""
        bound = binding(request.corpus_file, request.sae_sha256, request.model_name)
        after = _after(request.page_token, bound)
        found = await history.pasts(self._runtime.queries, convert_history.past_of, convert_history.only_of(request))
        start = next(
            (i + 1 for i, past in enumerate(found) if past.job.job_id == after), 0 if not after else len(found)
        )
        page = found[start : start + (request.page_size or _ANALYSES)]
        response = find_service_pb2.ListFindHistoryResponse(total_analyses=len(found))
        for past in page:
            artifacts = await self._runtime.queries.artifacts_of(past.job.job_id)
            response.analyses.append(convert_history.entry_message(past, artifacts))
            response.jobs.append(messages.job_message(past.job))
        if start + len(page) < len(found):
            response.next_page_token = f"{page[-1].job.job_id}.{bound}"
        return response

    async def PruneFindHistory(
        self, request: find_service_pb2.PruneFindHistoryRequest, _: Context
    ) -> find_service_pb2.PruneFindHistoryResponse:
        """See the contract. Rows go first, then files."""
        found = await history.pasts(self._runtime.queries, convert_history.past_of, convert_history.only_of(request))
        going = {past.job.job_id: past for past in convert_history.policy_of(request).lets_go(found, clock.now())}
        removals = await self._retention.remove(list(going), dry_run=request.dry_run, most=history.MOST_REMOVED)
        response = find_service_pb2.PruneFindHistoryResponse(dry_run=request.dry_run)
        for job_id, removal in removals.items():
            message = convert_history.pruned_message(going[job_id], removal)
            if removal.used_by:
                response.in_use.append(message)
                continue
            response.removed.append(message)
            response.size_bytes += message.size_bytes
            for record in removal.records if not request.dry_run else ():
                await asyncio.to_thread(self._runtime.artifacts.remove, record)
        response.more = len(response.removed) == history.MOST_REMOVED
        del response.in_use[history.MOST_REMOVED :]
        return response


def _after(token: str, bound: str) -> str:
    """The job after which the page of a token begins; empty for the first page. Raises InvalidInput."""
    job_id, _, given = token.partition(".")
    if token and given != bound:
        raise InvalidInput.field(
            "page_token",
            token,
            "the next_page_token of an earlier page of the same corpus_file, sae_sha256 and model_name, or nothing",
        )
    return job_id


def _fill(response: find_service_pb2.CompareFindsResponse, made: Sequence[Made], start: int, end: int) -> None:
    """Puts rows start..end - 1 of all comparisons, one after the other, where they belong."""
    first = 0
    for one in made:
        low, high = max(start - first, 0), min(end - first, one.rows.total)
        first += one.rows.total
        for row in one.rows.rows(low, high - low) if low < high else ():
            if row["kind"] == MATCHED:
                response.matches.append(convert_history.match_message(row, one.other))
            elif row["kind"] == APPEARED:
                response.appeared.append(convert_history.lone_message(row, one.other, "two"))
            else:
                response.vanished.append(convert_history.lone_message(row, one.other, "one"))
