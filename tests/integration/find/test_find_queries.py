"""Listing, getting, searching and watching features over gRPC, on analyses that were published as Find does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from mistudio_core.errors import Failed
from mistudio_core.jobs.records import ErrorRecord
from mistudio_core.jobs.worker_store import Outcome
from mistudio_find import table
from mistudio_find.outputs import RecordSpool
from mistudio_rpc.status import from_rpc_error
from tests.support.analyses import Finds, complete, completed_job, feature, running_job, serving_finds


@pytest.fixture
async def finds(home) -> AsyncIterator[Finds]:
    async with serving_finds(home) as running:
        yield running


def records(count: int = 120) -> list[dict]:
    return [feature(i, [f"text number {i} about {'cats' if i % 4 == 0 else 'dogs'}"]) for i in range(count)]


async def refused(awaitable) -> tuple[str, str]:
    """(reason, message) of the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    error = from_rpc_error(caught.value)
    return error.reason, error.message


async def all_pages(finds: Finds, **request) -> list[int]:
    ids, token = [], ""
    while True:
        page = await finds.call("ListFeatures", **request, page_token=token)
        ids += [f.feature_id for f in page.features]
        token = page.next_page_token
        if not token:
            assert page.total_features == len(ids)
            return ids


async def test_pages_of_a_filtered_sorted_list_hold_every_feature_once(finds):
    job = await completed_job(finds.runtime, records())
    assert await all_pages(finds, job_id=job, page_size=50) == list(range(120))
    listed = await all_pages(
        finds, job_id=job, page_size=7, filter="cats AND complexity = low", order_by="activation_statistics.count desc"
    )
    assert listed == [i for i in reversed(range(120)) if i % 12 == 0]


async def test_listed_features_come_without_the_long_lists_and_a_single_one_with_them(finds):
    job = await completed_job(finds.runtime, records(3))
    page = await finds.call("ListFeatures", job_id=job, filter="feature_id = 1")
    assert page.features[0].top_activations[0].tokens[1] == " number"
    assert not page.features[0].quantile_activations
    whole = (await finds.call("GetFeature", job_id=job, feature_id=1)).feature
    assert whole.quantile_activations and list(whole.contrast_texts) == ["a silent text"]
    reason, message = await refused(finds.call("GetFeature", job_id=job, feature_id=3))
    assert (reason, "0 to 2" in message) == ("FEATURE_NOT_FOUND", True)


async def test_no_feature_after_a_filter_is_an_empty_page(finds):
    job = await completed_job(finds.runtime, records(3))
    page = await finds.call("ListFeatures", job_id=job, filter="coherence_score > 2")
    assert (len(page.features), page.total_features, page.next_page_token) == (0, 0, "")


async def test_a_token_belongs_to_its_filter_order_and_job(finds):
    job, other = [await completed_job(finds.runtime, records(9 + i)) for i in range(2)]
    token = (await finds.call("ListFeatures", job_id=job, page_size=2, filter="dogs")).next_page_token
    for changed in (
        {"filter": "cats"},
        {"filter": "dogs", "order_by": "feature_id"},
        {"filter": "dogs", "job_id": other},
    ):
        reason, message = await refused(finds.call("ListFeatures", **{"job_id": job, **changed}, page_token=token))
        assert reason == "INVALID_FIELD"
        assert "leave page_token empty" in message
    for token in ("x", "1", "-1.0123456789abcdef", "9" * 30, "1.é"):
        assert (await refused(finds.call("ListFeatures", job_id=job, page_token=token)))[0] == "INVALID_FIELD"


async def test_errors_name_what_is_valid(finds):
    job = await completed_job(finds.runtime, records(3))
    for fields in ({"filter": "nope = 1"}, {"order_by": "nope"}):
        reason, message = await refused(finds.call("ListFeatures", job_id=job, **fields))
        assert reason == "INVALID_FIELD"
        assert "coherence_score" in message
    assert (await refused(finds.call("ListFeatures", job_id=job, filter="f(x)")))[0] == "UNSUPPORTED"
    lease = await running_job(finds.runtime)
    assert (await refused(finds.call("ListFeatures", job_id=lease.job_id)))[0] == "JOB_NOT_READY"
    assert (await refused(finds.call("SearchFeatures", query="x", job_id=lease.job_id)))[0] == "JOB_NOT_READY"


async def test_a_search_goes_through_all_analyses_and_pages(finds):
    jobs = [await completed_job(finds.runtime, records(n)) for n in (8, 12)]
    found, token = [], ""
    while True:
        page = await finds.call("SearchFeatures", query="cats", page_size=2, page_token=token)
        assert [f.feature_id for f in page.features] == [h.feature_id for h in page.hits]
        assert all("cats" in h.snippet for h in page.hits)
        found += [(h.job_id, h.feature_id) for h in page.hits]
        token = page.next_page_token
        if not token:
            break
    assert sorted(found) == sorted([(jobs[0], i) for i in (0, 4)] + [(jobs[1], i) for i in (0, 4, 8)])
    assert page.total_hits == 5
    one = await finds.call("SearchFeatures", query="cats", job_id=jobs[0], filter="feature_id > 0")
    assert [(h.job_id, h.feature_id) for h in one.hits] == [(jobs[0], 4)]
    none = await finds.call("SearchFeatures", query='"no such phrase"')
    assert (len(none.hits), none.total_hits) == (0, 0)


async def test_a_search_refuses_what_it_cannot_read_and_foreign_tokens(finds):
    await completed_job(finds.runtime, records(30))
    assert (await refused(finds.call("SearchFeatures", query="()*")))[0] == "INVALID_FIELD"
    assert (await refused(finds.call("SearchFeatures", query="cats", filter="nope = 1")))[0] == "INVALID_FIELD"
    page = await finds.call("SearchFeatures", query='text NEAR( OR "*" AND', page_size=1)
    assert page.total_hits == 0  # every word is only a word
    token = (await finds.call("SearchFeatures", query="text", page_size=1)).next_page_token
    reason, message = await refused(finds.call("SearchFeatures", query="cats", page_token=token))
    assert (reason, "same completed analyses" in message) == ("INVALID_FIELD", True)


async def test_a_damaged_analysis_is_named_and_the_others_are_searched(finds):
    lease = await running_job(finds.runtime)
    artifact = await complete(finds.runtime, lease, records(4))
    sound = await completed_job(finds.runtime, records(4))
    path = finds.runtime.home.artifacts / artifact.folder / table.TABLE_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    page = await finds.call("SearchFeatures", query="dogs")
    assert {h.job_id for h in page.hits} == {sound}
    assert list(page.unsearched_job_ids) == [lease.job_id]
    assert (await refused(finds.call("SearchFeatures", query="dogs", job_id=lease.job_id)))[0] == "ARTIFACT_CORRUPT"


async def test_a_watch_sees_features_while_the_job_runs_and_the_rest_when_it_completes(finds):
    lease = await running_job(finds.runtime)
    kept = finds.runtime.home.scratch / lease.job_id / "kept"
    kept.mkdir(parents=True)
    spool = RecordSpool(kept / "features.1.spool")
    stream = finds.stream("WatchFeatures", job_id=lease.job_id)
    for record in records(3):
        spool.add(record)
    spool.note()
    early = [(await stream.read()).event for _ in range(3)]
    assert [(e.sequence, e.feature.feature_id) for e in early] == [(1, 0), (2, 1), (3, 2)]
    spool.close()
    await complete(finds.runtime, lease, records(40))
    rest = []
    while (response := await stream.read()) is not grpc.aio.EOF:
        rest.append(response.event)
    assert [e.feature.feature_id for e in rest[:-1]] == list(range(3, 40))
    assert rest[-1].end.total_features == 40


async def test_a_watch_goes_on_after_a_sequence_and_refuses_one_that_never_was(finds):
    job = await completed_job(finds.runtime, records(20))
    events = [r.event async for r in finds.stream("WatchFeatures", job_id=job, after_sequence=18)]
    assert [e.sequence for e in events] == [19, 20, 0]
    events = [r.event async for r in finds.stream("WatchFeatures", job_id=job, after_sequence=20)]
    assert [e.WhichOneof("event") for e in events] == ["end"]
    reason, message = await refused(finds.stream("WatchFeatures", job_id=job, after_sequence=21).read())
    assert (reason, "0 to 20" in message) == ("SEQUENCE_OUT_OF_RANGE", True)


async def test_a_watch_of_a_job_that_fails_ends_with_its_error(finds):
    lease = await running_job(finds.runtime)
    stream = finds.stream("WatchFeatures", job_id=lease.job_id)
    reading = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0.1)
    error = ErrorRecord(reason=Failed.default_reason, message="it broke", facts={})
    await finds.runtime.worker_jobs.finish(lease, Outcome(error=error))
    assert "it broke" in (await refused(reading))[1]


async def test_leaving_a_watch_leaves_the_job(finds):
    lease = await running_job(finds.runtime)
    stream = finds.stream("WatchFeatures", job_id=lease.job_id)
    await asyncio.sleep(0.1)
    stream.cancel()
    await asyncio.sleep(0.1)
    job = await finds.runtime.queries.get(lease.job_id)
    assert (job.status, job.cancel_requested) == ("running", False)
