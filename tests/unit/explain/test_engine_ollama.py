"""Ollama: where it is looked for, chat with a schema, models, pulling, loading, unloading."""

from __future__ import annotations

import pytest

from mistudio_core.errors import InvalidInput, NotFound, Unavailable
from mistudio_explain.engines.base import ChatRequest
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.engines.ollama_settings import OllamaSettings
from mistudio_explain.engines.settings import load_engines
from mistudio_explain.prompting import ANSWER_SCHEMA
from tests.support.chatservers import CANARY, running
from tests.unit.explain.engine_tables import settings_for

REQUEST = ChatRequest(system="Explain.", prompt="What?", schema=ANSWER_SCHEMA, seed=5, max_output_tokens=50)


@pytest.fixture
def server():
    with running("ollama") as server:
        server.context = 4096
        yield server


@pytest.fixture
async def engine(server, tmp_path):
    engine = create_engine(settings_for("ollama", server.url, tmp_path, keep_alive_minutes=7.0))
    yield engine
    await engine.close()


def test_the_cluster_s_own_name_is_where_it_is_looked_for(tmp_path):
    path = tmp_path / "engines.toml"
    path.write_text('[engines.o]\nkind = "ollama"\n')
    settings = load_engines(path)["o"]
    assert isinstance(settings, OllamaSettings)
    assert settings.url == "http://ollama.mistudio-services.svc:11434"
    path.write_text('[engines.o]\nkind = "ollama"\nkeep_alive_minutes = -1.0\n')
    with pytest.raises(InvalidInput, match=r"engines\.o\.keep_alive_minutes"):
        load_engines(path)


async def test_what_is_sent(server, engine):
    await engine.check()
    await engine.chat(REQUEST)
    body = server.chats[0]
    assert body["model"] == "m:latest"
    assert body["format"] == ANSWER_SCHEMA
    assert body["options"] == {"seed": 5, "temperature": 0.0, "num_predict": 50, "num_ctx": 4096}
    assert (body["keep_alive"], body["truncate"]) == ("7m", False)
    assert "tools" not in body


async def test_models_load_and_unload(server, engine):
    assert [(m.name, m.loaded, m.size_bytes) for m in await engine.models()] == [("m:latest", False, 42)]
    assert [p.activity async for p in engine.load("m")] == ["loading"]
    assert [m.loaded for m in await engine.models()] == [True]
    await engine.unload("m")
    await engine.unload("m")
    assert [m.loaded for m in await engine.models()] == [False]
    await engine.unload("none-such")


async def test_a_missing_model_is_pulled_with_progress(server, engine):
    steps = [(p.activity, p.done_bytes, p.total_bytes) async for p in engine.load("new:1b")]
    assert steps == [
        ("pulling manifest", 0, 0),
        ("pulling", 10, 100),
        ("pulling", 100, 100),
        ("success", 0, 0),
        ("loading", 0, 0),
    ]
    assert [m["name"] for m in server.loaded] == ["new:1b"]


async def test_a_model_that_is_nowhere(server, engine, tmp_path):
    with pytest.raises(NotFound, match="There are: m:latest") as missing:
        [p async for p in engine.load("missing")]
    assert missing.value.reason == "MODEL_NOT_FOUND"
    assert CANARY not in str(missing.value)
    other = create_engine(settings_for("ollama", server.url, tmp_path, model="other"))
    with pytest.raises(NotFound, match="mistudio engines load"):
        await other.check()
    await other.close()


async def test_nobody_there(tmp_path):
    engine = create_engine(settings_for("ollama", "http://127.0.0.1:9", tmp_path))
    for call in (engine.models(), engine.unload("m"), anext(aiter(engine.load("m")))):
        with pytest.raises(Unavailable, match="Start it"):
            await call
    await engine.close()
