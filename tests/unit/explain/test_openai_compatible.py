"""The OpenAI-compatible engine and OpenAI's own: what they send, what they find out, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mistudio_core.errors import NotFound, Unavailable, Unsupported
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.base import ChatRequest, Failure, Reply
from mistudio_explain.engines.factory import create_engine, create_explainer
from mistudio_explain.evidence import FindEvidence
from mistudio_explain.explainer import Draft
from mistudio_explain.prompting import ANSWER_SCHEMA, VERSIONS
from tests.support.chatservers import CANARY, running
from tests.unit.explain.engine_tables import settings_for
from tests.unit.find.stores import WORD

REQUEST = ChatRequest(system="Explain.", prompt="What?", schema=ANSWER_SCHEMA, seed=5, max_output_tokens=50)


@pytest.fixture
def server():
    with running("openai") as server:
        yield server


@pytest.fixture
def settings(server, tmp_path):
    return settings_for("openai_compatible", server.url, tmp_path)


async def ask(settings, request=REQUEST):
    engine = create_engine(settings)
    try:
        return await engine.chat(request)
    finally:
        await engine.close()


async def test_what_is_sent(server, settings):
    await ask(settings)
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {CANARY}"
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert (body["seed"], body["temperature"], body["max_tokens"], body["stream"]) == (5, 0.0, 50, True)
    assert body["response_format"]["json_schema"]["schema"] == ANSWER_SCHEMA
    assert "tools" not in body


async def test_openai_itself_gets_its_own_words_and_a_schema_without_bounds(server, tmp_path):
    await ask(settings_for("openai", server.url, tmp_path))
    body = server.chats[0]
    assert body["max_completion_tokens"] == 50
    assert "max_tokens" not in body
    assert body["store"] is False
    sent = body["response_format"]["json_schema"]["schema"]
    assert "maxLength" not in repr(sent)
    assert list(sent["properties"]) == list(ANSWER_SCHEMA["properties"])


async def test_connections_serve_again(server, settings):
    engine = create_engine(settings)
    await engine.chat(REQUEST)
    await engine.chat(REQUEST)
    await engine.close()
    assert len(server.ports) == 1


async def test_a_refused_parameter_is_left_out_from_then_on(server, settings):
    server.refused = "temperature"
    engine = create_engine(settings)
    assert isinstance(await engine.chat(REQUEST), Reply)
    assert isinstance(await engine.chat(REQUEST), Reply)
    await engine.close()
    assert ["temperature" in body for body in server.chats] == [True, False, False]


async def test_a_draft_from_evidence_and_a_typed_failure_from_another_form(server, settings, features):
    evidence = FindEvidence(features).choose(feature_ids=(WORD,), min_coherence=0, max_features=1)[0]
    explainer = create_explainer(settings, ExplainConfig())
    draft = await explainer.explain(evidence, strategy="top_and_contrast", seed=5)
    assert isinstance(draft, Draft)
    assert draft.prompt_version == VERSIONS["top_and_contrast"]
    kinds = []
    for mode in ("not_json", "wrong_schema"):
        server.mode = mode
        failure = await explainer.explain(evidence, strategy="top_and_contrast", seed=5)
        assert isinstance(failure, Failure)
        kinds.append((failure.kind, failure.prompt_tokens))
    await explainer.close()
    assert kinds == [("not_json", 7), ("wrong_schema", 7)]


async def test_check_finds_the_context_and_a_missing_model(server, settings):
    server.context = 4096
    engine = create_engine(settings)
    await engine.check()
    assert engine.limits.context_tokens == 4096
    await engine.close()
    server.mode = "404"
    missing = create_engine(settings, model="other")
    with pytest.raises(NotFound, match="There are: m") as found:
        await missing.check()
    await missing.close()
    assert found.value.reason == "MODEL_NOT_FOUND"


async def test_a_server_that_lists_other_names_than_it_takes_is_asked(server, settings):
    engine = create_engine(settings, model="alias")
    await engine.check()
    await engine.close()
    assert server.chats[0]["model"] == "alias"


async def test_a_context_too_small_for_one_example(server, settings, features):
    server.context = 300
    explainer = create_explainer(replace(settings, max_output_tokens=400), ExplainConfig())
    with pytest.raises(Unsupported, match="300 tokens"):
        await explainer.check()
    await explainer.close()
    evidence = FindEvidence(features).choose(feature_ids=(WORD,), min_coherence=0, max_features=1)[0]
    explainer = create_explainer(replace(settings, max_output_tokens=200), ExplainConfig())
    await explainer.check()
    failure = await explainer.explain(evidence, strategy="top_and_contrast", seed=0)
    await explainer.close()
    assert isinstance(failure, Failure)
    assert failure.kind == "context_too_small"
    assert server.chats == []


async def test_what_the_protocol_has_no_call_for(settings):
    engine = create_engine(settings)
    with pytest.raises(Unsupported, match="vllm or ollama"):
        await anext(aiter(engine.load("m")))
    with pytest.raises(Unsupported):
        await engine.unload("m")
    await engine.close()


def test_a_missing_key(settings, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(Unavailable, match="api_key_file"):
            create_engine(replace(settings, api_key_file=str(path)))
