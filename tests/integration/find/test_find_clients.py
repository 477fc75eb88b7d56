"""Features over HTTP and on the command line, through a gateway in front of Find."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.config import GatewayConfig, Limits
from gateway.server import Gateway
from mistudio_cli.__main__ import run_command
from mistudio_rpc.contract import installed
from tests.support.analyses import Finds, completed_job, feature, serving_finds

RECORDS = [
    feature(0, ["cats and dogs"], semantic_tags=["pets"], pattern_keywords=["cats"]),
    feature(1, ["\x1b[31mred\u202e dogs\x07"], behavioral_indicators=[{"name": "refusal", "score": 0.7}]),
    feature(2, [], dead=True),
]


@pytest.fixture
async def finds(home) -> AsyncIterator[Finds]:
    async with serving_finds(home) as running:
        yield running


@pytest.fixture
async def job(finds: Finds) -> str:
    return await completed_job(finds.runtime, RECORDS)


@pytest.fixture
async def http(finds: Finds) -> AsyncIterator[httpx.AsyncClient]:
    config = GatewayConfig(
        limits=Limits(drain_seconds=1.0),
        http_address="127.0.0.1:0",
        grpc_address="127.0.0.1:0",
        backends={"*": finds.target},
    )
    gateway = Gateway(installed(), config)
    await gateway.start()
    token = {"authorization": f"Bearer {finds.runtime.home.token().reveal()}"}
    async with httpx.AsyncClient(base_url=f"http://{gateway.http_address}", headers=token, trust_env=False) as client:
        yield client
    await gateway.stop()


def events(body: str) -> list[dict[str, str]]:
    blocks = [block for block in body.split("\n\n") if "data:" in block]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


async def test_lists_and_searches_over_http(http, job):
    listed = (
        await http.get(f"/api/v1/find/{job}/features", params={"filter": "dogs", "order_by": "feature_id desc"})
    ).json()
    assert [f["feature_id"] for f in listed["features"]] == [1, 0]
    assert listed["total_features"] == 2
    found = (await http.get("/api/v1/find/search", params={"query": "cats"})).json()
    assert found["hits"][0]["job_id"] == job
    assert found["hits"][0]["snippet"] == "cats and dogs"
    assert found["features"][0]["semantic_tags"] == ["pets"]
    wrong = await http.get(f"/api/v1/find/{job}/features", params={"filter": "nope = 1"})
    assert wrong.status_code == 400
    assert "coherence_score" in wrong.json()["detail"]


async def test_a_watch_is_a_stream_of_events_that_goes_on_where_it_broke(http, job):
    path = f"/api/v1/find/{job}/features/events"
    first = events((await http.get(path)).text)
    assert [e["event"] for e in first] == ["feature", "feature", "feature", "end"]
    assert [e.get("id") for e in first] == ["1", "2", "3", None]
    assert json.loads(first[1]["data"])["feature"]["feature_id"] == 1
    again = events((await http.get(path, headers={"last-event-id": "2"})).text)
    assert [e.get("id") for e in again] == ["3", None]


@pytest.fixture
def mistudio(finds: Finds, monkeypatch: pytest.MonkeyPatch, capsys) -> Any:
    """Runs a command against the service; (exit code, stdout, stderr)."""
    monkeypatch.setenv("MISTUDIO_TOKEN", finds.runtime.home.token().reveal())
    monkeypatch.setenv("MISTUDIO_ADDRESS", finds.target)

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run_command, ["features", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


async def test_tables_for_people(mistudio, job):
    code, out, _ = await mistudio("list", job, "--filter", "NOT dead = true", "--limit", "1")
    assert (code, "cats and dogs" in out, "1 of 2 features" in out) == (0, True, True)
    code, out, _ = await mistudio("show", job, "1")
    assert code == 0
    assert "refusal 0.70" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    code, out, _ = await mistudio("search", "dogs")
    assert (code, job in out, "2 of 2 hits" in out) == (0, True, True)
    code, out, _ = await mistudio("watch", job)
    assert (code, len(out.splitlines())) == (0, 3)
    code, out, _ = await mistudio("list", job, "--filter", "coherence_score > 5")
    assert (code, out) == (0, "0 of 0 features.\n")


async def test_lines_for_programs(mistudio, job):
    code, out, _ = await mistudio("list", job, "--order-by", "feature_id", "--json")
    assert (code, [json.loads(line)["feature_id"] for line in out.splitlines()]) == (0, [0, 1, 2])
    _, out, _ = await mistudio("search", "dogs", "cats", "--job", job, "--json")
    assert json.loads(out)["feature"]["feature_id"] == 0
    _, out, _ = await mistudio("search", "dogs cats", "--job", job, "--json")
    assert out == ""  # an argument with a blank is a phrase
    _, out, _ = await mistudio("watch", job, "--after", "2", "--json")
    assert json.loads(out)["feature_id"] == 2
    code, out, _ = await mistudio("show", job, "9", "--json")
    assert (code, json.loads(out)["error"]["reason"]) == (1, "FEATURE_NOT_FOUND")


async def test_errors_say_what_is_valid(mistudio, job):
    code, _, shown = await mistudio("list", job, "--filter", "quality_level = best")
    assert code == 1
    assert "excellent, good, fair, poor" in shown
