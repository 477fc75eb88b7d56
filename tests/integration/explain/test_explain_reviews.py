"""People's verdicts over gRPC: the queue, what a verdict changes, what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from mistudio.explain.v1 import explanation_pb2

from mistudio_core.jobs.reviews import ReviewStore
from mistudio_rpc.status import from_rpc_error
from tests.support.explains import Explains, explanation, serving_explains

JSON, HTML, AUDIT = (explanation_pb2.ReportFormat.Value(f"REPORT_FORMAT_{n}") for n in ("JSON", "HTML", "AUDIT_JSON"))


@pytest.fixture
async def explains(home) -> AsyncIterator[Explains]:
    async with serving_explains(home) as running:
        yield running


async def review(explains, job_id, feature_id, **more):
    return await explains.call("ReviewExplanation", job_id=job_id, feature_id=feature_id, **more)


async def waiting(explains, **more):
    page = await explains.call("ListReviews", **more)
    return [(i.job_id, i.explanation.feature_id) for i in page.items]


async def test_the_queue_is_most_urgent_first_over_all_runs(explains):
    flagged = ("The quality is low.",)
    one = await explains.run(
        [
            explanation(0, flags=flagged, explanation_quality=0.9),
            explanation(1, safety_assessment="concerning", safety_reason="It touches weapons."),
            explanation(2),
        ]
    )
    two = await explains.run(
        [explanation(5, safety_assessment="requires_review"), explanation(6, flags=flagged, explanation_quality=0.2)]
    )
    assert await waiting(explains) == [(two, 5), (one, 1), (two, 6), (one, 0)]
    assert await waiting(explains, job_id=one) == [(one, 1), (one, 0)]
    assert await waiting(explains, page_size=1, page_token="2") == [(two, 6)]
    await review(explains, two, 5, approved=True)
    await review(explains, one, 0, reason="It is about hats.", correction="Fires on hats.")
    assert await waiting(explains) == [(one, 1), (two, 6)]
    decided = await explains.call("ListReviews", decided=True)
    assert [(i.job_id, i.explanation.feature_id) for i in decided.items] == [(one, 0), (two, 5)]
    assert decided.items[0].explanation.review.correction == "Fires on hats."


async def test_a_verdict_is_shown_everywhere_and_the_earlier_one_is_kept(explains):
    job_id = await explains.run([explanation(i, flags=("Look.",)) for i in range(4)])
    before = await explains.export(job_id, AUDIT)
    await review(explains, job_id, 0, approved=True, author="Ada")
    await review(explains, job_id, 1, reason="Wrong word.", author="Ada")
    await review(explains, job_id, 1, reason="Wrong word.", correction="Fires on <b>tulips</b>.", author="Bo")
    shown = (await explains.call("GetExplanation", job_id=job_id, feature_id=1)).explanation
    assert shown.review.verdict == explanation_pb2.VERDICT_CORRECTED and shown.review.author == "Bo"
    assert shown.explanation.startswith("Fires on the word")
    summary = (await explains.call("GetExplainResult", job_id=job_id)).summary_insights
    assert (summary.reviewed, summary.human_accuracy) == (2, 0.5)
    body = json.loads(await explains.export(job_id, JSON))
    assert body["explanations"][1]["review"]["correction"] == "Fires on <b>tulips</b>."
    figures = body["summary_insights"]
    assert (figures["reviewed"], figures["human_accuracy"], figures["human_agreement"]) == (2, 0.5, 0.5)
    assert b"Fires on &lt;b&gt;tulips&lt;/b&gt;." in await explains.export(job_id, HTML)
    audit = json.loads(await explains.export(job_id, AUDIT))
    assert [r["verdict"] for r in audit["reviews"]] == ["approved", "rejected", "corrected"]
    assert audit["digest"] != json.loads(before)["digest"]
    assert len(await ReviewStore(explains.runtime.database).of(job_id, 1)) == 2
    listed = (await explains.call("ListExplainHistory")).runs[0].summary_insights
    assert listed.reviewed == 2


async def test_forms_of_older_verdicts_go(explains):
    job_id = await explains.run([explanation(0)])
    for _ in range(4):
        await review(explains, job_id, 0, approved=True)
        await explains.export(job_id, HTML)
    kept = [r.uri for r in await explains.runtime.queries.artifacts_of(job_id, "report")]
    assert sum("/html_" in uri for uri in kept) == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"approved": True, "correction": "Better."}, "correction"),
        ({"correction": "Better."}, "reason"),
        ({"reason": "  "}, "reason"),
        ({}, "reason"),
    ],
)
async def test_a_verdict_that_says_two_things_or_no_reason_is_refused(explains, fields, field):
    job_id = await explains.run([explanation(0)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await review(explains, job_id, 0, **fields)
    error = from_rpc_error(caught.value)
    assert error.reason == "INVALID_FIELD" and error.facts["field"] == field


async def test_a_failure_cannot_be_approved_but_corrected(explains):
    job_id = await explains.run([explanation(0, failure="no answer", explanation="")])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await review(explains, job_id, 0, approved=True)
    assert from_rpc_error(caught.value).facts["field"] == "approved"
    done = await review(explains, job_id, 0, correction="Fires on hats.", reason="It has none.")
    assert done.explanation.review.author == "operator"
