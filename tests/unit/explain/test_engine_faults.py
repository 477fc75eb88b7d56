"""Engines against servers that follow the published API and misbehave: a typed Failure, no secret told.

A server that is slow, silent or dripping goes on until the test ends: a client without a deadline would never return.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from mistudio_core.errors import Unavailable
from mistudio_explain.engines.base import ChatRequest, Failure, Reply
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.prompting import ANSWER_SCHEMA
from tests.support.chatservers import CANARY, GOOD, running
from tests.unit.explain.engine_tables import IMPATIENT, settings_for

KINDS = ("openai_compatible", "openai", "anthropic", "ollama")
REQUEST = ChatRequest(system="Explain.", prompt="What?", schema=ANSWER_SCHEMA, seed=5, max_output_tokens=50)
EXPECTED = {
    "slow": "timeout",
    "silent": "timeout",
    "drip": "timeout",
    "429": "rate_limited",
    "500": "server_error",
    "garbage": "not_json",
    "cut": "cut_off",
    "cut_clean": "cut_off",
    "endless": "too_large",
    "length": "cut_off",
    "redirect": "refused",
    "huge": "too_large",
    "html": "not_json",
    "gzip": "cut_off",
    "401": "refused",
    "404": "model_missing",
    "reset": "cut_off",
    "error_inside": "server_error",
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def server(kind):
    with running("openai" if kind.startswith("openai") else kind) as server:
        yield server


@pytest.fixture
def settings(kind, server, tmp_path):
    return settings_for(kind, server.url, tmp_path)


async def ask(settings, request=REQUEST):
    engine = create_engine(settings)
    try:
        return await engine.chat(request)
    finally:
        await engine.close()


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_good_answer_comes_whole_with_its_tokens(server, settings, streaming):
    server.whole = not streaming
    reply = await ask(replace(settings, streaming=streaming))
    assert isinstance(reply, Reply), reply
    assert reply.text == GOOD
    assert (reply.prompt_tokens, reply.completion_tokens, reply.model) == (7, 3, server.models[0])
    assert 0 < reply.first_token_seconds <= reply.latency_seconds


@pytest.mark.parametrize("mode", EXPECTED)
async def test_every_misbehaviour_is_a_typed_failure_in_time(server, settings, mode):
    server.mode = mode
    failure = await ask(replace(settings, **IMPATIENT.get(mode, {})))
    assert isinstance(failure, Failure), failure
    assert failure.kind == EXPECTED[mode], failure
    assert CANARY not in repr(failure)
    assert len(server.chats) == 1


async def test_a_refused_key_and_an_absent_server_say_what_to_do(server, settings):
    server.mode = "401"
    engine = create_engine(settings)
    with pytest.raises(Unavailable, match="api_key_file") as refused:
        await engine.check()
    await engine.close()
    assert CANARY not in str(refused.value) + repr(refused.value.facts)
    gone = create_engine(replace(settings, base_url="http://127.0.0.1:9"))
    with pytest.raises(Unavailable, match="Start it"):
        await gone.check()
    failure = await gone.chat(REQUEST)
    await gone.close()
    assert isinstance(failure, Failure)
    assert failure.kind == "unreachable"


async def test_a_stream_gives_its_pieces_before_the_end(server, settings):
    engine = create_engine(settings)
    pieces = [piece async for piece in engine.stream(REQUEST)]
    await engine.close()
    assert "".join(p for p in pieces if isinstance(p, str)) == GOOD
    assert len(pieces) > 5
    assert isinstance(pieces[-1], Reply)
