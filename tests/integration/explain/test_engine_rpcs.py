"""Managed engines through the service and the command line, with stand-ins for vLLM's server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from mistudio.explain.v1 import explain_service_pb2 as pb
from mistudio.explain.v1 import explanation_pb2

from mistudio_cli.__main__ import run_command
from mistudio_core.engine_records import read_records
from mistudio_core.errors import InvalidInput, LimitReached, MistudioError, NotFound, Unsupported
from mistudio_core.home import Home
from mistudio_core.processes import process_start_of
from mistudio_rpc.client import Client
from tests.support.processes import ControlProcess, control_process
from tests.support.vllm_standin import behave, standin_python

READY, STOPPED, FAILED = (
    explanation_pb2.EngineState.Value(f"ENGINE_STATE_{n}") for n in ("READY", "STOPPED", "FAILED")
)


@pytest.fixture
def standin(home: Home, tmp_path: Path) -> Path:
    """The folder of a stand-in that engines.toml names beside engines of other kinds."""
    folder = tmp_path / "standin"
    python = standin_python(folder)
    for name in ("tiny", "other"):
        (home.models / name).mkdir(parents=True)
        (home.models / name / "config.json").write_text('{"hidden_size": 8}')
    home.engines_file.write_text(
        f'[engines.local]\nkind = "vllm"\nmodel = "tiny"\ndevices = ["cpu:0", "cpu:1"]\npython = "{python}"\n'
        "kv_cache_gb = 0.01\n"
        '[engines.dear]\nkind = "openai"\nmodel = "m"\napi_key_file = "/nowhere"\nusd_per_million_input = 1.0\n'
        "usd_per_million_output = 2.0\n"
    )
    return folder


@pytest.fixture
def control(home: Home, standin: Path) -> Iterator[ControlProcess]:
    with control_process(home, "explain") as running:
        yield running


@pytest.fixture
def client(control: ControlProcess) -> Iterator[Client]:
    with Client(control.home.control_target, control.home.token()) as connected:
        yield connected


def engine(client: Client, name: str = "local") -> explanation_pb2.Engine:
    found = client.explain.ListEngines(pb.ListEnginesRequest()).engines
    return next(e for e in found if e.name == name)


def wait_for(met: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < ends
        time.sleep(0.02)


def start(client: Client) -> explanation_pb2.Engine:
    client.explain.StartEngine(pb.StartEngineRequest(engine="local"))
    wait_for(lambda: engine(client).state == READY)
    return engine(client)


def test_engines_are_listed_started_watched_switched_and_stopped(client: Client):
    before = {e.name: e for e in client.explain.ListEngines(pb.ListEnginesRequest()).engines}
    assert sorted(before) == ["dear", "lexical", "local"]
    assert (before["local"].state, before["lexical"].state, before["dear"].costs_money) == (STOPPED, READY, True)
    assert [m.name for m in before["local"].models] == ["other", "tiny"]
    watching = client.explain.WatchEngines(pb.WatchEnginesRequest(engine="local"))
    assert next(watching).engine.state == STOPPED
    started = client.explain.StartEngine(pb.StartEngineRequest(engine="local")).engine
    assert {p.device for p in started.processes} == {"cpu:0", "cpu:1"}
    seen = next(r.engine for r in watching if r.engine.state == READY)
    watching.cancel()
    assert all(p.pid and p.port and p.log_file and not p.restarts for p in seen.processes)
    assert [m.name for m in seen.models if m.loaded] == ["tiny"]
    client.explain.LoadModel(pb.LoadModelRequest(engine="local", model="other"))
    wait_for(lambda: [m.name for m in engine(client).models if m.loaded] == ["other"])
    with pytest.raises(NotFound, match="serves other"):
        client.explain.UnloadModel(pb.UnloadModelRequest(engine="local", model="tiny"))
    client.explain.StopEngine(pb.StopEngineRequest(engine="local", drain_seconds=0))
    wait_for(lambda: engine(client).state == STOPPED)
    assert "engines start local" in engine(client).message


def test_what_cannot_be_done_is_refused_with_what_to_do(client: Client, home: Home):
    cases: list[tuple[Callable[[], object], type[MistudioError], str]] = [
        (lambda: client.explain.StartEngine(pb.StartEngineRequest(engine="nobody")), NotFound, "dear, lexical, local"),
        (lambda: client.explain.StartEngine(pb.StartEngineRequest(engine="lexical")), Unsupported, "only vllm engines"),
        (lambda: client.explain.LoadModel(pb.LoadModelRequest(engine="dear", model="x")), Unsupported, "ollama"),
        (lambda: client.explain.LoadModel(pb.LoadModelRequest(engine="local", model="x")), NotFound, "other, tiny"),
        (lambda: client.explain.LoadModel(pb.LoadModelRequest(engine="local", model="/etc")), InvalidInput, "model"),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words):
            call()
    text = home.engines_file.read_text()
    home.engines_file.write_text(text.replace("kv_cache_gb = 0.01", "kv_cache_gb = 9000"))
    with pytest.raises(LimitReached, match="needs about 9001"):
        client.explain.StartEngine(pb.StartEngineRequest(engine="local"))


def test_a_killed_service_finds_its_engines_again_and_down_ends_them(control: ControlProcess, standin: Path):
    with Client(control.home.control_target, control.home.token()) as client:
        before = {p.device: p.pid for p in start(client).processes}
    control.kill9()
    assert all(process_start_of(pid) for pid in before.values())
    os.kill(before["cpu:1"], signal.SIGKILL)
    control.start()
    with Client(control.home.control_target, control.home.token()) as client:
        wait_for(lambda: [p.state for p in engine(client).processes] == [READY, READY])
        after = {p.device: p.pid for p in engine(client).processes}
    assert after["cpu:0"] == before["cpu:0"]
    assert after["cpu:1"] != before["cpu:1"]
    control.kill9()
    assert run_command(["down", "--home", str(control.home.root)]) == 0
    assert not any(process_start_of(pid) for pid in after.values())
    assert read_records(control.home) == []


def test_a_service_that_stops_ends_its_engines(control: ControlProcess):
    with Client(control.home.control_target, control.home.token()) as client:
        found = [p.pid for p in start(client).processes]
        watching = client.explain.WatchEngines(pb.WatchEnginesRequest())
        next(watching)
        control.stop()
        with pytest.raises(grpc.RpcError):
            list(watching)
    assert not any(process_start_of(pid) for pid in found)


def test_the_command_line_starts_shows_and_stops(client: Client, home: Home, standin: Path, capsys):
    at = ["--home", str(home.root), "--address", home.control_target]
    os.environ["MISTUDIO_TOKEN"] = home.token().reveal()
    try:
        assert run_command(["engines", "start", "local", *at]) == 0
        assert "local cpu:0: ready  tiny" in capsys.readouterr().out
        assert run_command(["engines", "list", *at]) == 0
        shown = capsys.readouterr().out
        assert "lexical (default)" in shown
        assert "costs money" in shown
        assert run_command(["engines", "load", "local", "other", "--json", *at]) == 0
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert [m["name"] for m in last["models"] if m.get("loaded")] == ["other"]
        assert run_command(["engines", "unload", "local", "other", *at]) == 0
        behave(standin, die_at_start="out of luck")
        wait_for(lambda: engine(client).state == STOPPED)
        assert run_command(["engines", "start", "local", *at]) == 1
        assert "out of luck" in capsys.readouterr().err
        assert run_command(["engines", "stop", "local", *at]) == 0
    finally:
        del os.environ["MISTUDIO_TOKEN"]
