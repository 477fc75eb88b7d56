"""Anthropic: what is sent, and what it says besides text."""

from __future__ import annotations

import pytest

from mistudio_core.errors import NotFound
from mistudio_explain.engines.base import ChatRequest, Reply
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.prompting import ANSWER_SCHEMA
from tests.support.chatservers import CANARY, running
from tests.unit.explain.engine_tables import settings_for

REQUEST = ChatRequest(system="Explain.", prompt="What?", schema=ANSWER_SCHEMA, seed=5, max_output_tokens=50)


@pytest.fixture
def server():
    with running("anthropic") as server:
        yield server


@pytest.fixture
async def engine(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another")
    engine = create_engine(settings_for("anthropic", server.url, tmp_path))
    yield engine
    await engine.close()


async def test_what_is_sent(server, engine):
    await engine.chat(REQUEST)
    path, headers, body = server.seen[0]
    assert path == "/v1/messages"
    assert any(CANARY in value for value in headers.values())
    assert not any("another" in value for value in headers.values())
    assert body["messages"] == [{"role": "user", "content": "What?"}]
    assert (body["system"], body["max_tokens"]) == ("Explain.", 50)
    sent = body["output_config"]["format"]
    assert sent["type"] == "json_schema"
    assert "maxLength" not in repr(sent)
    assert "tools" not in body


async def test_a_model_that_always_thinks(server, engine):
    server.refused = "thinking"
    assert isinstance(await engine.chat(REQUEST), Reply)
    assert ["thinking" in body for body in server.chats] == [True, False]


async def test_check(server, engine, tmp_path):
    await engine.check()
    other = create_engine(settings_for("anthropic", server.url, tmp_path, model="other"))
    with pytest.raises(NotFound, match="There are: m"):
        await other.check()
    await other.close()
    assert server.chats == []
