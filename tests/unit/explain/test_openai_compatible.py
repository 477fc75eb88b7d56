"""The OpenAI-compatible engine against a real local server that misbehaves."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mistudio_core.errors import Unavailable
from mistudio_explain import job
from mistudio_explain.config import ExplainConfig
from mistudio_explain.engines.base import Draft, Failure
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.engines.settings import EngineSettings, load_engines
from mistudio_explain.evidence import FindEvidence
from tests.unit.find.stores import WORD

KEY = "sk-canary-123"
GOOD = json.dumps({"explanation": 'Fires on the word "token". It stands anywhere in a text.', "keywords": ["token"]})


def chunk(text=None, finish=None, usage=None):
    choices = [] if usage else [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]
    body = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": choices,
        "usage": usage,
    }
    return f"data: {json.dumps(body)}\n\n".encode()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(401 if self.server.mode == "401" else 200, b'{"object": "list", "data": []}')

    def reply(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        server = self.server
        server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        mode = server.mode.pop(0) if isinstance(server.mode, list) else server.mode
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.misbehave(mode)

    def misbehave(self, mode):
        end = chunk(finish="stop") + chunk(usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
        end += b"data: [DONE]\n\n"
        pieces = b"".join(chunk(GOOD[i : i + 9]) for i in range(0, len(GOOD), 9))
        answers = {
            "good": pieces + end,
            "not_json": chunk("The feature is nice") + end,
            "wrong_schema": chunk('{"explanation": 3}') + end,
            "cut": pieces[: len(pieces) // 2],
            "length": pieces + chunk(finish="length") + b"data: [DONE]\n\n",
            "garbage": b"data: {]]\n\n",
        }
        if mode in ("500", "401", "429", "404"):
            self.reply(int(mode), b'{"error": {"message": "%s"}}' % KEY.encode())
        elif mode == "slow":
            time.sleep(1.5)
        elif mode in ("endless", "drip"):
            self.reply(200, b"", "text/event-stream")
            for _ in range(4000):
                self.wfile.write(chunk("x" * 100) if mode == "endless" else chunk("x"))
                time.sleep(0 if mode == "endless" else 0.05)
                self.wfile.flush()
        else:
            self.reply(200, answers[mode], "text/event-stream")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.mode, server.bodies = "good", []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(server, tmp_path):
    (tmp_path / "key").write_text(KEY)
    return EngineSettings(
        name="local",
        kind="openai_compatible",
        base_url=f"http://127.0.0.1:{server.server_address[1]}/v1",
        model="m",
        api_key_file=str(tmp_path / "key"),
        first_byte_seconds=0.5,
        total_seconds=2.0,
        max_response_bytes=100_000,
        attempts=2,
    )


async def ask(settings, features):
    evidence = FindEvidence(features).choose(feature_ids=(WORD,), min_coherence=0, max_features=1)[0]
    engine = create_engine(settings)
    try:
        return await engine.explain(evidence, seed=5)
    finally:
        await engine.close()


async def test_good_answer(server, settings, features):
    draft = await ask(settings, features)
    assert isinstance(draft, Draft)
    assert draft.explanation.startswith("Fires on")
    assert (draft.prompt_tokens, draft.completion_tokens, draft.prompt_version) == (7, 3, "top_and_contrast.v1")
    body = server.bodies[0]
    assert body["stream"]
    assert body["seed"] == 5
    assert body["response_format"]["type"] == "json_schema"
    assert "tools" not in body


@pytest.mark.parametrize(
    ("mode", "kind", "requests"),
    [
        ("500", "server_error", 2),
        ("429", "server_error", 2),
        ("404", "refused", 1),
        ("401", "refused", 1),
        ("not_json", "not_json", 1),
        ("wrong_schema", "wrong_schema", 1),
        ("cut", "cut_off", 2),
        ("length", "cut_off", 2),
        ("garbage", "not_json", 1),
        ("slow", "timeout", 1),
        ("endless", "too_large", 1),
        ("drip", "timeout", 1),
    ],
)
async def test_every_misbehaviour_is_a_typed_failure_in_time(server, settings, features, mode, kind, requests):
    server.mode = mode
    began = time.monotonic()
    failure = await ask(settings, features)
    assert isinstance(failure, Failure)
    assert (failure.kind, len(server.bodies)) == (kind, requests)
    assert time.monotonic() - began < 3.0
    assert KEY not in failure.message


async def test_a_passing_fault_is_retried(server, settings, features):
    server.mode = ["500", "good"]
    assert isinstance(await ask(settings, features), Draft)


def test_run_with_an_engine_counts_failures_and_goes_on(server, settings, make_context):
    server.mode = ["good", "not_json", "good", "good", "good"]
    engines = load_engines(None) | {"local": settings}
    config = ExplainConfig(engine="local", feature_ids=(0, 1, 2), concurrency=1)
    context = make_context()
    result = job.run(config, context, engines)
    assert result.summary_insights.failed == 1
    body = json.loads(context.reader("explanations").read_bytes(job.EXPLANATIONS_FILE))
    failed = [e for e in body["explanations"] if e["failure"]]
    assert len(failed) == 1
    assert failed[0]["explanation_quality"] == 0
    good = [e["explanation_quality"] for e in body["explanations"] if not e["failure"]]
    assert result.summary_insights.explanation_quality_average == pytest.approx(sum(good) / 2, abs=1e-3)
    for artifact in ("explanations", "report"):
        name = job.EXPLANATIONS_FILE if artifact == "explanations" else job.REPORT_FILE
        assert KEY.encode() not in context.reader(artifact).read_bytes(name)


def test_an_engine_that_is_down_is_an_error_unless_lexical_may_stand_in(server, settings, make_context):
    server.mode = "401"
    engines = load_engines(None) | {"local": settings}
    with pytest.raises(Unavailable, match="refuses the key") as refused:
        job.run(ExplainConfig(engine="local"), make_context(), engines)
    assert KEY not in str(refused.value)
    assert refused.value.reason == "ENGINE_UNAVAILABLE"
    context = make_context()
    job.run(ExplainConfig(engine="local", allow_lexical_fallback=True), context, engines)
    body = json.loads(context.reader("explanations").read_bytes(job.EXPLANATIONS_FILE))
    assert {e["engine"] for e in body["explanations"]} == {"lexical"}


def test_nothing_listens(make_context):
    engines = load_engines(None) | {
        "gone": EngineSettings(name="gone", kind="openai_compatible", base_url="http://127.0.0.1:9/v1", model="m")
    }
    with pytest.raises(Unavailable, match="Start it"):
        job.run(ExplainConfig(engine="gone"), make_context(), engines)
