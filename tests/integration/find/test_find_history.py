"""History, comparison and retention over gRPC, on analyses that were published as Find does."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from mistudio.find.v1 import find_service_pb2, finding_pb2

from mistudio_cli.__main__ import run_command
from mistudio_core import clock
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.records import InputReference, NewJob
from mistudio_core.jobs.worker_store import Lease, Outcome
from mistudio_find import service_history
from mistudio_find.history import Only, Past, Policy
from mistudio_rpc.status import from_rpc_error
from tests.support.analyses import Finds, feature, publish, serving_finds
from tests.unit.find.saes import write_decoder

ROWS = np.random.default_rng(0).standard_normal((30, 48)).astype(np.float32)
ORDER = np.random.default_rng(1).permutation(30)


@pytest.fixture
async def finds(home) -> AsyncIterator[Finds]:
    async with serving_finds(home) as running:
        yield running


class Analysis:
    """A completed Find job that made its own SAE artifact, as an import does."""

    def __init__(self, finds: Finds, job_id: str) -> None:
        self.finds, self.job_id = finds, job_id

    async def artifacts(self) -> list[ArtifactRecord]:
        return await self.finds.runtime.queries.artifacts_of(self.job_id)

    def folders(self, records: list[ArtifactRecord]) -> list[Path]:
        return [p for r in records if (p := self.finds.runtime.artifacts.root / r.folder).exists()]


async def analysis(finds: Finds, rows: np.ndarray = ROWS, sha: str = "aa", **lineage: Any) -> Analysis:
    runtime = finds.runtime
    request = find_service_pb2.StartFindRequest(sae_uri="x", model_name="toy", corpus_file="c.txt", top_texts=7)
    job, _ = await runtime.jobs.start(NewJob(service="find", request=request.SerializeToString(), model_name="toy"))
    claim = await runtime.jobs.claim(job.job_id, "cpu:0")
    await runtime.jobs.set_process(job.job_id, claim.job.attempt, os.getpid(), 0)
    lease = Lease(job_id=job.job_id, attempt=claim.job.attempt, token=claim.token)
    runtime.home.scratch.mkdir(parents=True, exist_ok=True)
    for kind, name in (("sae", "sae"), ("features", "analysis")):
        uri = artifact_uri(job.job_id, kind, name)
        writer = runtime.artifacts.stage(uri, kind, job_id=job.job_id, attempt=lease.attempt)
        if kind == "sae":
            write_decoder(writer.folder, rows)
        else:
            publish(writer, (feature(i, sae_sha256=sha * 32) for i in range(len(rows))), runtime.home.scratch)
        await runtime.worker_jobs.commit_artifact(lease, writer.seal())
    where = {
        "model_name": "toy",
        "sae_sha256": sha * 32,
        "corpus_file": "c.txt",
        "corpus_sha256": "cd" * 32,
        "layer": 3,
    }
    result = find_service_pb2.GetFindResultResponse(
        total_features=len(rows),
        live_features=len(rows),
        lineage=finding_pb2.Lineage(**(where | lineage)),
        versions=[finding_pb2.MethodVersion(name="coherence", version="coherence/1")],
    )
    await runtime.worker_jobs.finish(lease, Outcome(result=result.SerializeToString()))
    return Analysis(finds, job.job_id)


async def refused(awaitable) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    error = from_rpc_error(caught.value)
    return error.reason, error.message


async def test_a_planted_permutation_is_found_and_pages_hold_every_row_once(finds):
    one = await analysis(finds)
    other = await analysis(finds, ROWS[ORDER][:25], "bb")
    matches, vanished, token = {}, [], ""
    while True:
        page = await finds.call("CompareFinds", job_id=one.job_id, other=other.job_id, page_size=7, page_token=token)
        assert len(page.matches) + len(page.appeared) + len(page.vanished) <= 7 and page.total_rows == 30
        matches |= {m.feature_id: m.other_feature_id for m in page.matches}
        vanished += [lone.feature.feature_id for lone in page.vanished]
        token = page.next_page_token
        if not token:
            break
    assert matches == {int(own): at for at, own in enumerate(ORDER[:25])}
    assert sorted(vanished) == sorted(ORDER[25:].tolist())
    summary = page.comparisons[0]
    assert (summary.other_job_id, summary.matched, summary.vanished) == (other.job_id, 25, 5)
    assert summary.method == finding_pb2.MATCH_METHOD_DECODER and summary.min_similarity == pytest.approx(0.7)
    first = (await finds.call("CompareFinds", job_id=one.job_id, other=other.job_id, page_size=1)).matches[0]
    assert first.mutual and first.feature.coherence_score == pytest.approx(1 / (1 + first.feature_id / 10), abs=1e-4)
    assert (first.other_job_id, first.similarity) == (other.job_id, pytest.approx(1, abs=1e-5))


async def test_one_is_compared_with_several_and_made_once(finds):
    one, same, third = await analysis(finds), await analysis(finds), await analysis(finds, -ROWS, "cc")
    asked = {"job_id": one.job_id, "other": same.job_id, "more": [third.job_id]}
    page = await finds.call("CompareFinds", **asked)
    assert [c.method for c in page.comparisons] == [finding_pb2.MATCH_METHOD_IDENTITY, finding_pb2.MATCH_METHOD_DECODER]
    assert page.total_rows == 30 + 60 and {m.other_job_id for m in page.matches} == {same.job_id}
    assert page.comparisons[1].matched == 0 and len(page.appeared) == len(page.vanished) == 30
    assert {lone.other_job_id for lone in page.appeared} == {third.job_id}
    again = await finds.call("CompareFinds", **asked)
    assert again == page
    assert sum(record.kind == "export" for record in await one.artifacts()) == 2
    strict = await finds.call("CompareFinds", **asked, method=2, min_similarity=1.0)
    assert strict.comparisons[0].method == finding_pb2.MATCH_METHOD_DECODER
    token = (await finds.call("CompareFinds", **asked, page_size=2)).next_page_token
    other = {"job_id": one.job_id, "other": third.job_id, "page_token": token}
    assert (await refused(finds.call("CompareFinds", **other)))[0] == "INVALID_FIELD"


async def test_what_cannot_be_compared_is_refused_by_name(finds):
    one, other = await analysis(finds), await analysis(finds, ROWS[:, :8].copy(), "bb")
    reason, message = await refused(finds.call("CompareFinds", job_id=one.job_id, other=other.job_id))
    assert (reason, "activations behind" in message) == ("UNSUPPORTED", True)
    for wrong in ({"other": one.job_id}, {"other": other.job_id, "more": [other.job_id]}):
        assert (await refused(finds.call("CompareFinds", job_id=one.job_id, **wrong)))[0] == "INVALID_FIELD"
    missing = {"job_id": one.job_id, "other": "find_20250101_000000_00000000"}
    assert (await refused(finds.call("CompareFinds", **missing)))[0] == "JOB_NOT_FOUND"


async def test_the_history_has_lineage_filters_and_pages(finds):
    made = [await analysis(finds, sha="aa" if n % 2 else "bb", corpus_file=f"{n}.txt") for n in range(5)]
    whole = await finds.call("ListFindHistory")
    assert [a.job_id for a in whole.analyses] == [a.job_id for a in reversed(made)] == [j.job_id for j in whole.jobs]
    first = whole.analyses[0]
    assert (first.lineage.corpus_file, first.lineage.sae_sha256, first.lineage.layer) == ("4.txt", "bb" * 32, 3)
    assert (first.request.top_texts, first.total_features, first.versions[0].name) == (7, 30, "coherence")
    assert first.size_bytes > 1000 and not first.pruned
    for only, count in (
        ({"sae_sha256": "aa" * 32}, 2),
        ({"corpus_file": "3.txt"}, 1),
        ({"model_name": "other"}, 0),
        ({"model_name": "toy", "sae_sha256": "bb" * 32}, 3),
    ):
        assert (await finds.call("ListFindHistory", **only)).total_analyses == count
    ids, token = [], ""
    while True:
        page = await finds.call("ListFindHistory", page_size=2, page_token=token)
        ids += [a.job_id for a in page.analyses]
        token = page.next_page_token
        if not token:
            break
    assert ids == [a.job_id for a in whole.analyses]
    token = (await finds.call("ListFindHistory", page_size=2)).next_page_token
    assert (await refused(finds.call("ListFindHistory", model_name="toy", page_token=token)))[0] == "INVALID_FIELD"


async def test_pruning_says_what_would_go_and_takes_it_but_for_what_others_read(finds):
    old, used, source, newest = [await analysis(finds) for _ in range(4)]
    reads = {"features": InputReference(job_id=used.job_id, kind="features")}
    explain, _ = await finds.runtime.jobs.start(NewJob(service="explain", request=b"", inputs=reads))
    sae = next(record for record in await source.artifacts() if record.kind == "sae")
    imports = {"origin": InputReference(uri=sae.uri, sha256=sae.sha256)}
    again, _ = await finds.runtime.jobs.start(NewJob(service="find", request=b"", inputs=imports))
    records = await old.artifacts()
    for dry_run in (True, False):
        gone = await finds.call("PruneFindHistory", keep_newest=1, dry_run=dry_run)
        assert [a.job_id for a in gone.removed] == [old.job_id] and gone.dry_run == dry_run and not gone.more
        assert gone.size_bytes == gone.removed[0].size_bytes == sum(record.size_bytes for record in records)
        in_use = {a.job_id: list(a.used_by) for a in gone.in_use}
        assert in_use == {used.job_id: [explain.job_id], source.job_id: [again.job_id]}
        assert bool(old.folders(records)) == dry_run
    assert (await finds.call("PruneFindHistory", keep_newest=1)).size_bytes == 0
    listed = (await finds.call("ListFindHistory")).analyses
    assert {a.job_id: a.pruned for a in listed}[old.job_id] and sum(a.pruned for a in listed) == 1
    reason, message = await refused(finds.call("CompareFinds", job_id=newest.job_id, other=old.job_id))
    assert (reason, "removed from the history" in message) == ("ARTIFACT_NOT_FOUND", True)
    await finds.runtime.jobs.cancel(explain.job_id)
    assert [a.job_id for a in (await finds.call("PruneFindHistory", keep_newest=1)).removed] == [used.job_id]


async def test_nothing_goes_without_a_policy_and_age_and_number_both_count(finds):
    made = [await analysis(finds) for _ in range(3)]
    assert len((await finds.call("PruneFindHistory")).removed) == 0
    assert len((await finds.call("PruneFindHistory", older_than_days=1)).removed) == 0
    both = await finds.call("PruneFindHistory", older_than_days=0, keep_newest=2, dry_run=True)
    assert [a.job_id for a in both.removed] == [made[0].job_id]
    assert len((await finds.call("PruneFindHistory", older_than_days=0, model_name="other")).removed) == 0
    assert len((await finds.call("PruneFindHistory", older_than_days=0)).removed) == 3


async def test_each_corpus_and_sae_keeps_its_own_newest(finds):
    jobs = [(await finds.runtime.queries.get((await analysis(finds)).job_id)) for _ in range(4)]
    groups = [("c1", "s1"), ("c1", "s2"), ("c1", "s1"), ("c2", "s1")]
    pasts = [
        Past(job=job, model_name="m", sae_sha256=sae, corpus_file="c", corpus_sha256=corpus)
        for job, (corpus, sae) in zip(jobs, groups, strict=True)
    ]
    assert Policy(keep_newest=1).lets_go(pasts, clock.now()) == [pasts[0]]
    assert [Only(sae_sha256="s2").has(past) for past in pasts] == [False, True, False, False]
    assert service_history._after("", "x") == ""


async def test_the_command_line_lists_compares_and_asks_before_it_removes(finds, monkeypatch, capsys):
    monkeypatch.setenv("MISTUDIO_ADDRESS", finds.target)

    async def run(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run_command, list(arguments))
        return code, capsys.readouterr().out

    one, other = await analysis(finds), await analysis(finds, ROWS[ORDER][:25], "bb")
    code, out = await run("find-history", "list", "--sae", "bb" * 32)
    assert (code, other.job_id in out, one.job_id in out) == (0, True, False)
    code, out = await run("compare", one.job_id, other.job_id, "--limit", "28")
    assert (code, "25, 25 of them both ways" in out, "2 more rows; show them with --limit 30" in out) == (0, True, True)
    code, out = await run("compare", one.job_id, other.job_id, "--json", "--limit", "30")
    assert (code, len(json.loads(out)["matches"])) == (0, 25)
    for yes in ([], ["--yes"]):
        code, out = await run("find-history", "prune", "--keep-newest", "0", *yes)
        assert (code, "2 analyses" in out, ("would go" in out) != bool(yes)) == (0, True, True)
        assert any(a.kind == "features" for a in await one.artifacts()) != bool(yes)
    assert (await run("compare", one.job_id, other.job_id, "--method", "guess"))[0] == 1
