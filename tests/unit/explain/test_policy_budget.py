"""The budget: reserved at its worst, settled after, never overspent by any number of callers or by a kill."""

from __future__ import annotations

import asyncio
import random

import pytest

from mistudio_explain.engines.base import ChatRequest, Failure, Reply
from mistudio_explain.policy.budget import NANO, Budget, cost, real_cost, worst_cost
from tests.unit.explain.engine_tables import settings_for


@pytest.fixture
def settings(tmp_path):
    return settings_for("openai", "http://127.0.0.1:1", tmp_path)


async def test_64_callers_spend_no_more_than_there_is():
    """A provider of $0.10 a call, a sixth of whose calls are worked on and then lost."""
    budget, billed, rng = Budget(1.0), 0, random.Random(0)

    async def caller():
        nonlocal billed
        call = await budget.reserve(NANO // 10)
        if call is None:
            return False
        await asyncio.sleep(rng.random() / 1000)
        billed += NANO // 10
        budget.settle(call, NANO // 10, NANO // 10)
        return True

    done = await asyncio.gather(*(caller() for _ in range(64)))
    assert billed == NANO
    assert done.count(True) == 10
    assert (budget.spent, budget.reserved) == (NANO, 0)


async def test_what_calls_give_back_is_waited_for():
    """Each call may cost 0.4 and costs 0.1: ten of them fit, though only two at a time."""
    budget, most = Budget(1.0), 0

    async def caller():
        nonlocal most
        call = await budget.reserve(4 * NANO // 10)
        if call is None:
            return False
        most = max(most, budget.reserved + budget.spent)
        await asyncio.sleep(0)
        budget.settle(call, 4 * NANO // 10, NANO // 10)
        return True

    done = await asyncio.gather(*(caller() for _ in range(64)))
    assert done.count(True) == 7
    assert most <= NANO
    assert budget.spent == 7 * NANO // 10


async def test_a_killed_call_counts_at_its_worst(tmp_path):
    journal = tmp_path / "journal"
    first = Budget(1.0, journal)
    paid, lost = await first.reserve(300), await first.reserve(500)
    first.settle(paid, 300, 100)
    assert lost is not None
    first.close()
    with journal.open("ab") as handle:
        handle.write(b"3 70")  # cut by the kill
    again = Budget(1.0, journal)
    assert again.spent == 100 + 500 + 70
    assert await again.reserve(NANO) is None
    again.close()
    assert Budget(1.0, journal).spent == 670


async def test_a_caller_that_is_cancelled_while_it_waits():
    budget = Budget(1.0)
    call = await budget.reserve(NANO)
    waiting = asyncio.create_task(budget.reserve(NANO))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    budget.settle(call, NANO, 0)
    assert await budget.reserve(NANO) is not None


def test_prices_are_rounded_up_and_unknown_outcomes_cost_their_worst(settings):
    request = ChatRequest(prompt="ä" * 100, max_output_tokens=50)
    worst = worst_cost(settings, request)
    assert worst >= cost(settings, 200, 50) == 200 * 1000 + 50 * 4000
    reply = Reply(text="x", model="m", prompt_tokens=10, completion_tokens=2)
    assert real_cost(settings, reply, worst) == 18_000
    assert real_cost(settings, Reply(text="x", model="m"), worst) == worst
    for kind, expected in (("timeout", worst), ("cut_off", worst), ("server_error", worst), ("rate_limited", 0)):
        assert real_cost(settings, Failure(kind=kind, message=""), worst) == expected
