"""Breaker, places, batches, cache and routing, each alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mistudio_explain.engines.base import ChatRequest, Reply
from mistudio_explain.policy.breaker import Breaker
from mistudio_explain.policy.cache import FILE, AnswerCache, answer_key
from mistudio_explain.policy.routing import Routing
from mistudio_explain.policy.window import LEAST_BATCH, MOST_BATCH, Batches, Window
from tests.unit.explain.engine_tables import settings_for


def test_the_breaker_opens_lets_one_try_and_closes():
    time = [0.0]
    breaker = Breaker(failures=3, seconds=10, now=lambda: time[0])
    for kind in ("timeout", "server_error", None, "timeout", "server_error"):
        assert breaker.enter() == 0
        breaker.leave(kind)
    assert breaker.state == "closed"
    assert breaker.enter() == 0
    breaker.leave("unreachable")
    assert (breaker.state, breaker.enter()) == ("open", 10)
    time[0] = 10.0
    assert breaker.state == "half_open"
    assert breaker.enter() == 0
    assert breaker.enter() > 0  # only one tries
    breaker.leave("timeout")
    assert breaker.enter() == 20  # twice as long
    time[0] = 30.0
    assert breaker.enter() == 0
    breaker.leave(None, known=False)  # cancelled: the next one tries
    assert breaker.enter() == 0
    breaker.leave(None)
    assert breaker.state == "closed"
    assert breaker.enter() == 0


def test_an_answer_that_turns_a_request_away_is_no_fault():
    breaker = Breaker(failures=1, seconds=10)
    for kind in ("refused", "rate_limited", "model_missing", "context_too_small", "wrong_schema"):
        breaker.enter()
        breaker.leave(kind)
    assert breaker.state == "closed"


async def test_places_are_given_in_order_and_never_too_many():
    window, inside, most, order = Window(3), 0, 0, []

    async def visit(name):
        nonlocal inside, most
        await window.enter()
        order.append(name)
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        window.leave()

    tasks = [asyncio.create_task(visit(n)) for n in range(20)]
    await asyncio.sleep(0)
    tasks[5].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert order == [n for n in range(20) if n != 5]
    assert await asyncio.wait_for(window.enter(), 5) == 20


async def test_the_window_halves_on_trouble_and_grows_again():
    window = Window(16)
    under_way = [await window.enter() for _ in range(8)]
    for number in under_way:
        window.heard(number, "rate_limited")
        window.leave()
    assert window.size == 8  # once for all that were under way
    for _ in range(8 + 9):
        window.heard(await window.enter(), None)
        window.leave()
    assert window.size == 10
    for _ in range(9):
        window.heard(await window.enter(), "timeout")
        window.leave()
    assert window.size == 1
    assert window.troubled


def test_batches_stay_between_ten_and_twenty():
    batches = Batches()
    assert [batches.next(trouble) for trouble in (False, True, True, False, False)] == [20, 10, 10, 11, 12]
    assert {batches.next(False) for _ in range(20)} <= set(range(LEAST_BATCH, MOST_BATCH + 1))


def test_everything_that_matters_is_in_the_key(tmp_path):
    settings = settings_for("openai_compatible", "http://127.0.0.1:1", tmp_path)
    request = ChatRequest(prompt="a", system="s", schema={"type": "object"})
    key = answer_key(settings, "m", request)
    assert key == answer_key(settings, "m", ChatRequest(prompt="a", system="s", schema={"type": "object"}))
    others = [
        answer_key(settings, "m", replace(request, **change))
        for change in (
            {"prompt": "b"},
            {"system": ""},
            {"schema": None},
            {"seed": 1},
            {"temperature": 0.5},
            {"max_output_tokens": 9},
        )
    ]
    others.append(answer_key(settings, "n", request))
    others.append(answer_key(replace(settings, base_url="http://127.0.0.1:2"), "m", request))
    others.append(answer_key(replace(settings, name="b"), "m", request))
    assert len({key, *others}) == 10


def test_the_cache_keeps_to_its_size_and_survives_damage(tmp_path):
    reply = Reply(text="x" * 1000, model="m", prompt_tokens=3, cost_usd=1.0)
    cache = AnswerCache(tmp_path, most_bytes=50_000)
    for n in range(200):
        cache.put(b"%d" % n, reply)
    assert cache.get(b"199") == Reply(text="x" * 1000, model="m", prompt_tokens=3, cached=True)
    kept = sum(cache.get(b"%d" % n) is not None for n in range(200))
    assert 30 < kept <= 50
    cache.close()
    assert AnswerCache(tmp_path).get(b"199") is not None
    (tmp_path / FILE).write_bytes(b"no database at all" * 1000)
    fresh = AnswerCache(tmp_path)
    assert fresh.get(b"199") is None
    fresh.put(b"1", reply)
    assert fresh.get(b"1") is not None
    fresh.close()
    assert fresh.get(b"1") is None


@pytest.mark.parametrize(
    ("category", "complexity", "model"),
    [
        ("technical", "high", "codellama:13b"),
        ("technical", "low", "llama3.1:8b"),
        ("behavioral", "low", "llama3.1:70b"),
        ("temporal", "high", "llama3.1:70b"),
        ("general", "medium", "llama3.1:8b"),
    ],
)
def test_the_published_routing_table(category, complexity, model):
    routing = Routing()
    everything = ["codellama:13b", "llama3.1:70b", "llama3.1:8b", "mistral:7b"]
    assert routing.model(routing.role(category, complexity), everything) == model
    assert routing.model(routing.role(category, complexity), ["other", "mistral:7b"]) == "mistral:7b"
    assert routing.model(routing.role(category, complexity), ["other"]) == "other"


def test_a_routing_table_of_one_s_own():
    body = {"rules": [{"role": "code", "categories": ["temporal"]}, {"role": "mine"}], "models": {"mine": "x:1"}}
    routing = Routing.parse(body)
    assert routing.model(routing.role("temporal", "low"), ["codellama:13b", "x:1"]) == "codellama:13b"
    assert routing.model(routing.role("technical", "high"), ["codellama:13b", "x:1"]) == "x:1"
