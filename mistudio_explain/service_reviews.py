"""The RPCs of ExplainService with which people say what is right: translates messages, asks queue and store."""

from __future__ import annotations

import asyncio

from mistudio.explain.v1 import explain_service_pb2

from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.reviews import APPROVED, CORRECTED, REJECTED
from mistudio_explain import convert
from mistudio_explain.book import with_review
from mistudio_explain.review_queue import waiting
from mistudio_explain.service_base import Reading, records_at
from mistudio_rpc.paging import RankPage
from mistudio_rpc.types import Context

OPERATOR = "operator"
"""Who a caller is that gives no name: everyone who holds the installation's token is one."""
_ROWS = 50


class ReviewMethods(Reading):
    """Part of the servicer; see the contract for every method."""

    async def ReviewExplanation(
        self, request: explain_service_pb2.ReviewExplanationRequest, _: Context
    ) -> explain_service_pb2.ReviewExplanationResponse:
        """See the contract."""
        verdict = _verdict(request)
        table = await self._table(request.job_id)
        record = await asyncio.to_thread(table.record, request.feature_id, request.job_id)
        if record["failure"] and verdict == APPROVED:
            raise InvalidInput.field(
                "approved", True, "a correction or a rejection: there is no explanation", "Correct it, or reject it."
            )
        review = await self._reviews.add(
            request.job_id,
            request.feature_id,
            verdict=verdict,
            correction=request.correction.strip(),
            reason=request.reason.strip(),
            author=request.author.strip() or OPERATOR,
        )
        explanation = convert.explanation_message(with_review(record, review))
        return explain_service_pb2.ReviewExplanationResponse(explanation=explanation)

    async def ListReviews(
        self, request: explain_service_pb2.ListReviewsRequest, _: Context
    ) -> explain_service_pb2.ListReviewsResponse:
        """See the contract."""
        page = RankPage.parse(request.page_token, request.page_size or _ROWS)
        runs = await self._runs(request.job_id)
        tables = dict(runs)
        reviews = await self._reviews.latest([request.job_id] if request.job_id else None)
        if request.decided:
            keys = [(r.job_id, r.feature_id) for r in reviews if r.job_id in tables]
        else:
            keys = [(w.job_id, w.feature_id) for w in await asyncio.to_thread(waiting, runs, reviews)]
        shown = keys[page.start : page.start + page.size]
        records = await asyncio.to_thread(records_at, tables, shown, reviews)
        items = page.fit(
            [
                explain_service_pb2.ReviewItem(job_id=job_id, explanation=convert.explanation_message(record))
                for (job_id, _), record in zip(shown, records, strict=True)
            ]
        )
        token = page.next_token(len(items), len(keys))
        return explain_service_pb2.ListReviewsResponse(items=items, next_page_token=token, total_items=len(keys))


def _verdict(request: explain_service_pb2.ReviewExplanationRequest) -> str:
    """What the fields say together. Raises InvalidInput where they contradict each other or a reason is missing."""
    correction, reason = request.correction.strip(), request.reason.strip()
    if request.approved and correction:
        raise InvalidInput.field(
            "correction", correction[:80], "nothing where approved is true", "Leave out one of the two."
        )
    if not request.approved and not reason:
        raise InvalidInput.field("reason", "", "why it is corrected or rejected", "Say why in a sentence.")
    return APPROVED if request.approved else CORRECTED if correction else REJECTED
