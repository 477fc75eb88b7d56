"""One explanation while it is written, over gRPC: pieces, the whole, a caller that leaves, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
from mistudio.explain.v1 import explanation_pb2
from mistudio.find.v1 import find_service_pb2

from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.local import LocalContext
from mistudio_core.jobs.records import NewJob
from mistudio_core.jobs.worker_store import Lease, Outcome
from mistudio_find import job as find
from mistudio_find.config import FindConfig
from mistudio_rpc.status import from_rpc_error
from tests.support import chatservers
from tests.support.explains import Explains, serving_explains
from tests.unit.find.stores import D_SAE, WORD, Folder, write_store


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of an analysis."""
    folder = tmp_path_factory.mktemp("find")
    context = LocalContext(folder / "find", inputs={"codes": Folder(write_store(folder / "codes"))})
    find.run(FindConfig(training_job_id="train_1"), context)
    return context.reader("analysis").path("features.jsonl").parent


@pytest.fixture
def server(home) -> Iterator[chatservers.ChatServer]:
    with chatservers.running("openai") as running:
        engines = {"chat": ["openai_compatible", ""], "paid": ["openai_compatible", "usd_per_million_input = 1.0"]}
        tables = [
            f'[engines.{name}]\nkind = "{kind}"\nbase_url = "{running.url}"\nmodel = "m"\n{more}\n'
            + ("usd_per_million_output = 2.0\n" if more else "")
            for name, (kind, more) in engines.items()
        ]
        home.engines_file.write_text("".join(tables))
        yield running


@pytest.fixture
async def explains(home) -> AsyncIterator[Explains]:
    async with serving_explains(home) as running:
        yield running


@pytest.fixture
async def find_job(explains, analysis) -> str:
    """A completed Find job."""
    runtime = explains.runtime
    request = find_service_pb2.StartFindRequest(training_job_id="train_1").SerializeToString()
    job, _ = await runtime.jobs.start(NewJob(service="find", request=request, model_name="toy"))
    claim = await runtime.jobs.claim(job.job_id, "cpu:0")
    await runtime.jobs.set_process(job.job_id, claim.job.attempt, os.getpid(), 0)
    lease = Lease(job_id=job.job_id, attempt=claim.job.attempt, token=claim.token)
    uri = artifact_uri(job.job_id, "features", "analysis")
    writer = runtime.artifacts.stage(uri, "features", job_id=job.job_id, attempt=lease.attempt)
    for file in analysis.iterdir():
        if file.name != "manifest.json":
            shutil.copy(file, writer.folder)
    await runtime.worker_jobs.commit_artifact(lease, writer.seal())
    await runtime.worker_jobs.finish(lease, Outcome(result=b""))
    return job.job_id


async def parts(explains, find_job, **more):
    asked = {"find_job_id": find_job, "feature_id": WORD} | more
    return [part async for part in explains.stream("ExplainFeature", **asked)]


async def refused(explains, find_job, **more):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await parts(explains, find_job, **more)
    return from_rpc_error(caught.value)


async def test_the_lexical_engine_gives_its_words_then_the_whole(explains, find_job):
    *pieces, last = await parts(explains, find_job)
    assert len(pieces) > 5
    assert "".join(p.text for p in pieces).strip() == last.explanation.explanation
    assert last.explanation.engine == "lexical" and last.explanation.quality_parts.accuracy == 1.0
    assert await explains.runtime.queries.page("explain") == ([], "", 0)


async def test_a_model_is_shown_as_it_writes_without_its_json(explains, find_job, server):
    said = 'Fires on "token" \\ or 中文 \U0001f600.\nIt stands anywhere.'
    server.text = json.dumps({"explanation": said, "keywords": ["token"]})
    *pieces, last = await parts(explains, find_job, engine="chat", seed=3)
    assert "".join(p.text for p in pieces) == said and len(pieces) > 3
    assert (last.explanation.engine, last.explanation.model) == ("chat", "m")
    assert last.explanation.quality_parts.accuracy_method.startswith("lexical")
    assert last.explanation.prompt_tokens == 7 and last.explanation.strategy == "top_and_contrast"
    assert server.chats[0]["seed"] == 3


async def test_strategy_and_audience_reach_the_prompt(explains, find_job, server):
    for strategy, audience in ((1, 1), (2, 1), (1, 3)):
        await parts(explains, find_job, engine="chat", strategy=strategy, audience=audience, model="m")
    prompts = [json.dumps(c["messages"]) for c in server.chats]
    assert len(set(prompts)) == 3


async def test_the_engine_stops_when_the_caller_leaves(explains, find_job, server):
    server.mode = "drip"
    server.text = json.dumps({"explanation": "word " * 50, "keywords": []})
    call = explains.stream("ExplainFeature", find_job_id=find_job, feature_id=WORD, engine="chat")
    task = asyncio.create_task(call.read())
    while not server.in_flight:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        while server.in_flight:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("401", "ENGINE_UNAVAILABLE"), ("cut", "ENGINE_UNAVAILABLE"), ("not_json", "ENGINE_UNAVAILABLE")],
)
async def test_a_failing_engine_is_an_error_free_of_its_words(explains, find_job, server, mode, reason):
    server.mode = mode
    error = await refused(explains, find_job, engine="chat")
    assert error.reason == reason and "canary" not in error.message


async def test_what_cannot_be_is_refused_before_any_work(explains, find_job, server):
    assert (await refused(explains, find_job, feature_id=D_SAE)).reason == "FEATURE_NOT_FOUND"
    assert (await refused(explains, find_job, engine="nobody")).reason == "ENGINE_NOT_FOUND"
    assert (await refused(explains, find_job, model="m")).reason == "UNSUPPORTED"
    paid = await refused(explains, find_job, engine="paid")
    assert paid.reason == "INVALID_FIELD" and "budget_usd" in paid.message
    assert (await refused(explains, "find_20250101_000000_00000000")).reason == "JOB_NOT_FOUND"
    assert server.chats == []


async def test_a_budget_lets_a_paid_engine_answer_once_it_suffices(explains, find_job, server):
    poor = await refused(explains, find_job, engine="paid", budget_usd=1e-7)
    assert poor.reason == "LIMIT_REACHED" and server.chats == []
    *_, last = await parts(explains, find_job, engine="paid", budget_usd=1.0)
    assert last.explanation.pattern_verification == explanation_pb2.PATTERN_VERIFICATION_CONFIRMED
