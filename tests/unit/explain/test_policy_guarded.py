"""An engine with the whole policy around it, against real servers: retries, breaker, places, budget, cache."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from mistudio_explain.chat_explainer import readable
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.base import ChatRequest, Failure, Reply
from mistudio_explain.engines.settings import Engines
from mistudio_explain.policy.pool import EnginePool
from tests.support.chatservers import GOOD, running
from tests.unit.explain.engine_tables import settings_for

REQUEST = ChatRequest(prompt="What?", max_output_tokens=50)


@pytest.fixture(params=["openai_compatible", "anthropic", "ollama"])
def kind(request):
    return request.param


@pytest.fixture
def server(kind):
    with running("openai" if kind.startswith("openai") else kind) as server:
        yield server


@pytest.fixture
def settings(kind, server, tmp_path):
    return settings_for(kind, server.url, tmp_path)


@asynccontextmanager
async def pooled(settings, tmp_path, **config):
    pool = EnginePool(
        Engines.of(settings), ExplainConfig(**config), kept=tmp_path, cache_folder=tmp_path / "cache", readable=readable
    )
    try:
        yield pool
    finally:
        await pool.close()


@pytest.mark.parametrize("kind", ["openai_compatible", "ollama"], indirect=True)
async def test_passing_faults_are_asked_again(server, settings, tmp_path):
    table = replace(settings, attempts=4)
    async with pooled(table, tmp_path) as pool:
        for fault in ("500", "429", "cut", "garbage", "reset", "error_inside"):
            server.mode = [fault, fault, "good"]
            outcome = await pool.get(table.name).chat(replace(REQUEST, prompt=fault))
            assert isinstance(outcome, Reply), (fault, outcome)
        server.seen.clear()
        for fault in ("401", "404", "redirect", "length"):
            server.mode = fault
            assert isinstance(await pool.get(table.name).chat(REQUEST), Failure)
    assert len(server.chats) == 4


@pytest.mark.parametrize("kind", ["openai_compatible"], indirect=True)
async def test_a_wait_beyond_the_deadline_is_not_begun(server, settings, tmp_path):
    """Waiting as asked would outlast the test."""
    server.mode, server.retry_after = "429", "86400"
    async with pooled(settings, tmp_path) as pool:
        failure = await pool.get(settings.name).chat(REQUEST)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.retry_after_seconds) == ("rate_limited", 86400)


@pytest.mark.parametrize("kind", ["openai_compatible"], indirect=True)
async def test_the_breaker_opens_spares_the_server_and_closes(server, settings, tmp_path):
    table = replace(settings, attempts=1, breaker_failures=3, breaker_seconds=0.5)
    async with pooled(table, tmp_path) as pool:
        engine, guards = pool.get(table.name), pool.guards(table.name)
        guards.patient = False
        server.mode = "500"
        kinds = [(await engine.chat(REQUEST)).kind for _ in range(3)]
        assert kinds == ["server_error"] * 3
        guards.breaker._until += 3600  # however slow this machine is
        assert [(await engine.chat(REQUEST)).kind for _ in range(5)] == ["breaker_open"] * 5
        assert len(server.chats) == 3
        guards.breaker._until -= 3600
        guards.patient = True
        server.mode = "good"
        outcomes = await asyncio.gather(*(engine.chat(replace(REQUEST, seed=n)) for n in range(8)))
        assert all(isinstance(o, Reply) for o in outcomes)  # they waited for it
        assert guards.breaker.state == "closed"


@pytest.mark.parametrize("kind", ["openai_compatible"], indirect=True)
async def test_never_more_at_a_time_than_allowed(server, settings, tmp_path):
    server.pause = 0.001
    async with pooled(replace(settings, concurrency=3), tmp_path, concurrency=64) as pool:
        engine = pool.get(settings.name)
        await asyncio.gather(*(engine.chat(replace(REQUEST, seed=n)) for n in range(20)))
    assert 1 < server.most_in_flight <= 3


async def test_an_answer_is_asked_for_once(server, settings, tmp_path):
    async with pooled(settings, tmp_path, budget_usd=5.0) as pool:
        first = await pool.get(settings.name).chat(REQUEST)
    async with pooled(settings, tmp_path, budget_usd=5.0) as pool:
        second = await pool.get(settings.name).chat(REQUEST)
        assert len(server.chats) == 1
        await pool.get(settings.name).chat(replace(REQUEST, seed=1))
    async with pooled(settings, tmp_path, budget_usd=5.0, use_cache=False) as pool:
        await pool.get(settings.name).chat(REQUEST)
    assert len(server.chats) == 3
    assert (first.text, first.cached, second.text, second.cached) == (GOOD, False, GOOD, True)


@pytest.mark.parametrize("kind", ["openai_compatible"], indirect=True)
async def test_what_cannot_be_read_is_not_kept(server, settings, tmp_path):
    async with pooled(settings, tmp_path) as pool:
        server.mode = ["wrong_schema", "good"]
        await pool.get(settings.name).chat(REQUEST)
        assert (await pool.get(settings.name).chat(REQUEST)).text == GOOD


@pytest.mark.parametrize("kind", ["anthropic"], indirect=True)
async def test_64_callers_never_bill_more_than_the_budget(server, settings, tmp_path):
    """Every request that reaches the provider may be billed, whatever becomes of its answer."""
    table = replace(settings, usd_per_million_input=100.0, usd_per_million_output=1000.0, attempts=3)
    modes = ("good", "cut", "500", "429", "garbage")
    server.mode = [modes[n % 5] for n in range(500)]
    async with pooled(table, tmp_path, budget_usd=2.0, concurrency=64, use_cache=False) as pool:
        engine = pool.get(table.name)
        outcomes = await asyncio.gather(*(engine.chat(replace(REQUEST, seed=n)) for n in range(64)))
        spent = pool.budget.spent_usd
        assert pool.budget.reserved == 0
    asked = len(server.chats)
    good = (7 * 100 + 3 * 1000) / 1e6
    worst = (5 + 512) * 100 / 1e6 + 50 * 1000 / 1e6
    billed = sum(good if m == "good" else 0 if m == "429" else worst for m in (modes[n % 5] for n in range(asked)))
    assert billed <= 2.0
    assert spent == pytest.approx(billed, abs=1e-6)
    assert sum(o.cost_usd for o in outcomes) == pytest.approx(spent, abs=1e-6)
    assert {o.kind for o in outcomes if isinstance(o, Failure)} >= {"over_budget"}
    assert any(isinstance(o, Reply) for o in outcomes)


@pytest.mark.parametrize("kind", ["anthropic"], indirect=True)
async def test_a_cancelled_call_counts_at_its_worst(server, settings, tmp_path):
    table = replace(settings, usd_per_million_input=100.0, usd_per_million_output=1000.0)
    server.mode = "silent"
    async with pooled(table, tmp_path, budget_usd=2.0) as pool:
        asking = asyncio.create_task(pool.get(table.name).chat(REQUEST))
        while not server.chats:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert pool.budget.spent_usd > 0.1
        assert (pool.budget.reserved, pool.guards(table.name).breaker.state) == (0, "closed")


@pytest.mark.parametrize("kind", ["anthropic"], indirect=True)
async def test_a_stream_is_paid_for_too(server, settings, tmp_path):
    table = replace(settings, usd_per_million_input=100.0, usd_per_million_output=1000.0)
    async with pooled(table, tmp_path, budget_usd=0.2) as pool:
        engine = pool.get(table.name)
        pieces = [p async for p in engine.stream(REQUEST)]
        assert isinstance(pieces[-1], Reply)
        assert pool.budget.spent_usd == pytest.approx(0.0037)
        async for _ in engine.stream(REQUEST):
            break  # whoever goes away has been served
        last = [p async for p in engine.stream(REQUEST)][-1]
    assert isinstance(last, Failure)
    assert last.kind == "over_budget"
