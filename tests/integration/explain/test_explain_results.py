"""Reading runs over gRPC: lists, filters, search, history, comparison, downloads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from mistudio.explain.v1 import explanation_pb2
from mistudio.feature.v1 import feature_pb2

from mistudio_core.errors import MistudioError
from mistudio_core.jobs.context import artifact_uri
from mistudio_explain.config import QualityParts
from mistudio_rpc.status import from_rpc_error
from tests.support.explains import Explains, explanation, serving_explains

FORMATS = [n for n in explanation_pb2.ReportFormat.values() if n]


@pytest.fixture
async def explains(home) -> AsyncIterator[Explains]:
    async with serving_explains(home) as running:
        yield running


async def refused(call) -> MistudioError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_list_is_filtered_paged_and_best_first(explains):
    failed = explanation(9, failure="no answer", explanation="", explanation_quality=0.0)
    job_id = await explains.run([*map(explanation, range(9)), failed])
    whole = await explains.call("ListExplanations", job_id=job_id)
    assert [e.feature_id for e in whole.explanations] == list(range(10))
    good = await explains.call("ListExplanations", job_id=job_id, min_quality=0.9)
    assert [e.feature_id for e in good.explanations] == [0, 1, 2, 3, 4, 5]
    kind = feature_pb2.PATTERN_CATEGORY_TECHNICAL
    technical = await explains.call("ListExplanations", job_id=job_id, pattern_category=kind)
    assert [e.feature_id for e in technical.explanations] == [0, 5]
    safety = explanation_pb2.SAFETY_ASSESSMENT_SAFE
    assert (await explains.call("ListExplanations", job_id=job_id, safety_assessment=safety)).total_explanations == 0
    first = await explains.call("ListExplanations", job_id=job_id, page_size=4, min_quality=0.9)
    rest = await explains.call(
        "ListExplanations", job_id=job_id, page_size=4, min_quality=0.9, page_token=first.next_page_token
    )
    assert [e.feature_id for e in (*first.explanations, *rest.explanations)] == [0, 1, 2, 3, 4, 5]
    assert not rest.next_page_token and first.total_explanations == 6


async def test_search_finds_words_phrases_and_beginnings_in_all_runs(explains):
    one = await explains.run([explanation(0, explanation="About tulips and roses."), explanation(1)])
    two = await explains.run([explanation(4, explanation="Über Tulpen; 花园里的花.", pattern_keywords=("花",))])
    find = lambda query, **more: explains.call("SearchExplanations", query=query, **more)  # noqa: E731
    assert [(f.job_id, f.explanation.feature_id) for f in (await find("tulips roses")).found] == [(one, 0)]
    assert {f.job_id for f in (await find("tul*")).found} == {one, two}
    assert (await find("tul")).total_found == 0
    assert [f.job_id for f in (await find('"and roses"')).found] == [one]
    assert [f.job_id for f in (await find("花园")).found] == [two]
    assert (await find("garden", job_id=one)).total_found == 2
    assert (await find("garden", min_quality=0.949)).total_found == 1
    assert (await refused(find('" "'))).reason == "INVALID_FIELD"
    assert (await find('") OR words MATCH ("x')).total_found == 0


async def test_history_lists_runs_newest_first_with_their_figures(explains):
    old = await explains.run([explanation(0)], find_job_id="find_a")
    new = await explains.run([explanation(1), explanation(2)], find_job_id="find_b")
    listed = await explains.call("ListExplainHistory")
    assert [r.job_id for r in listed.runs] == [new, old] and listed.total_runs == 2
    assert listed.runs[0].summary_insights.explanation_quality_average == pytest.approx(0.935)
    assert listed.runs[0].summary_insights.engines[0].explanations == 2
    only = await explains.call("ListExplainHistory", find_job_id="find_a")
    assert [(r.job_id, r.find_job_id) for r in only.runs] == [(old, "find_a")]
    paged = await explains.call("ListExplainHistory", page_size=1, page_token="1")
    assert [r.job_id for r in paged.runs] == [old]


async def test_two_runs_compare_feature_by_feature(explains):
    one = await explains.run([explanation(i) for i in range(8)])
    better = [explanation(i, explanation_quality=0.99, quality_parts=QualityParts(accuracy=1.0)) for i in range(2, 7)]
    failed = explanation(7, failure="no answer", explanation="", explanation_quality=0.0)
    two = await explains.run([*better, failed, explanation(30)])
    found = await explains.call("CompareExplains", job_id=one, other=two)
    assert [p.feature_id for p in found.pairs] == [6, 5, 4, 3, 2, 7]
    assert found.pairs[0].quality_change == pytest.approx(0.10)
    assert not found.pairs[-1].HasField("quality_change")
    assert (found.only_first, found.only_other, found.total_pairs) == (2, 1, 6)
    assert found.quality_change_average == pytest.approx(0.08)
    assert 0.06 <= found.quality_change_low <= 0.08 <= found.quality_change_high <= 0.10
    assert found.other.failed == 1 and found.first.failed == 0
    assert found.other.accuracy_average == 1.0


async def test_runs_over_different_saes_do_not_compare(explains):
    one = await explains.run([explanation(0)])
    two = await explains.run([explanation(0)], sae_sha256="ff" * 32)
    error = await refused(explains.call("CompareExplains", job_id=one, other=two))
    assert error.reason == "UNSUPPORTED" and "SAE" in error.message
    assert (await refused(explains.call("CompareExplains", job_id=one, other=one))).reason == "INVALID_FIELD"


async def test_every_form_downloads_is_kept_and_made_again_where_it_is_lost(explains):
    job_id = await explains.run(list(map(explanation, range(5))))
    made = {form: await explains.export(job_id, form) for form in FORMATS}
    assert made[explanation_pb2.REPORT_FORMAT_PDF].startswith(b"%PDF-")
    assert len(json.loads(made[explanation_pb2.REPORT_FORMAT_JSON])["explanations"]) == 5
    kept = await explains.runtime.queries.artifacts_of(job_id, "report")
    assert len(kept) == 1 + len(FORMATS) - 2
    assert await explains.export(job_id, explanation_pb2.REPORT_FORMAT_CSV) == made[explanation_pb2.REPORT_FORMAT_CSV]
    assert len(await explains.runtime.queries.artifacts_of(job_id, "report")) == len(kept)
    uri = artifact_uri(job_id, "report", "csv_0")
    explains.runtime.artifacts.remove(next(r for r in kept if r.uri == uri))
    assert await explains.export(job_id, explanation_pb2.REPORT_FORMAT_CSV) == made[explanation_pb2.REPORT_FORMAT_CSV]
    result = await explains.call("GetExplainResult", job_id=job_id)
    assert result.report_path.endswith("/report/explanation_report.html")


async def test_what_is_not_there_is_refused_by_name(explains):
    job_id = await explains.run([explanation(0)])
    error = await refused(explains.call("GetExplanation", job_id=job_id, feature_id=5))
    assert error.reason == "FEATURE_NOT_FOUND"
    missing = "explain_20250101_000000_00000000"
    for name, fields in {
        "ListExplanations": {"job_id": missing},
        "SearchExplanations": {"query": "x", "job_id": missing},
        "ListReviews": {"job_id": missing},
    }.items():
        assert (await refused(explains.call(name, **fields))).reason == "JOB_NOT_FOUND", name
