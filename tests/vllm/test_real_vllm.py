"""The managed pool over a real vLLM: two pinned processes, one killed while 64 features go through both."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import replace

import pytest
from mistudio.explain.v1 import explain_service_pb2 as pb
from mistudio.explain.v1 import explanation_pb2
from mistudio.job.v1 import job_pb2

from mistudio_core.engine_records import read_records
from mistudio_core.processes import session_members
from mistudio_core.secret import Secret
from mistudio_explain.engines import vllm_process
from mistudio_explain.engines.base import ChatRequest, Failure, Reply
from mistudio_explain.engines.settings import load_engines
from mistudio_explain.engines.vllm import VllmEngine
from mistudio_explain.engines.vllm_settings import VllmSettings
from mistudio_explain.prompting import ANSWER_SCHEMA
from tests.vllm.conftest import FEATURES, READY, Real
from tests.vllm.tinychat import ANSWER

pytestmark = pytest.mark.timeout(900)


def engine(real: Real, model: str = "chat", **changes: object) -> VllmEngine:
    settings = load_engines(real.home.engines_file)["local"]
    assert isinstance(settings, VllmSettings)
    return VllmEngine(replace(settings, **changes), model=model, api_key=Secret(""), home=real.home)


def started(real: Real) -> None:
    real.client.explain.StartEngine(pb.StartEngineRequest(engine="local"))
    real.ready()


def explain(real: Real, **fields: object) -> str:
    given = {"concurrency": 16, "min_coherence": 0.0, "max_features": FEATURES, "use_cache": False, **fields}
    request = pb.StartExplainRequest(find_job_id=real.find_job_id, engine="local", **given)
    return str(real.client.explain.StartExplain(request).job_id)


def finished(real: Real, job_id: str) -> pb.GetExplainResultResponse:
    ends = time.monotonic() + 600
    while True:
        status = real.client.explain.GetExplainStatus(pb.GetExplainStatusRequest(job_id=job_id))
        assert not status.HasField("error"), status.error
        if status.status == job_pb2.JOB_STATUS_COMPLETED:
            break
        assert time.monotonic() < ends, status
        time.sleep(0.2)
    return real.client.explain.GetExplainResult(pb.GetExplainResultRequest(job_id=job_id))


def explanations(real: Real, job_id: str) -> list[object]:
    page = pb.ListExplanationsRequest(job_id=job_id, page_size=500)
    return list(real.client.explain.ListExplanations(page).explanations)


def test_two_processes_stand_on_a_core_each_and_start_when_a_job_asks(real: Real, capsys):
    began = time.monotonic()
    job_id = explain(real, max_features=4)
    found = real.ready()
    assert finished(real, job_id).summary_insights.failed == 0
    for process in found.processes:
        assert sorted(os.sched_getaffinity(process.pid)) == [int(process.device.split(":")[1])]
        assert all(os.sched_getaffinity(p) == os.sched_getaffinity(process.pid) for p in session_members(process.pid))
    real.wait_for(lambda e: all(p.memory_bytes > 200_000_000 for p in e.processes))
    with capsys.disabled():
        print(f"\nready {time.monotonic() - began:.1f} s after the job; {[p.message for p in found.processes]}")


async def test_answers_follow_the_schema_and_tokens_are_counted(real: Real):
    started(real)
    local = engine(real)
    await local.check()
    request = ChatRequest(system="Be short.", prompt="What is it?", schema=ANSWER_SCHEMA)
    for streaming in (False, True):
        asked = engine(real, streaming=streaming)
        found = await asked.chat(request)
        assert isinstance(found, Reply), found
        assert json.loads(found.text) == {"explanation": ANSWER, "keywords": [ANSWER]}
        assert 40 < found.completion_tokens < 70
        await asked.close()
    pieces = [p async for p in local.stream(request)]
    assert isinstance(pieces[-1], Reply)
    assert "".join(p for p in pieces if isinstance(p, str)) == pieces[-1].text
    counted = local.counter()
    assert counted
    assert await local.count_tokens("Some words to count.") == counted("Some words to count.") > 3
    assert [m.name for m in await local.models() if m.loaded] == ["chat"]
    assert local.limits.context_tokens == 4096
    await local.close()


async def test_a_prompt_beyond_the_context_and_a_cut_answer_are_told(real: Real):
    started(real)
    local = engine(real)
    long = await local.chat(ChatRequest(prompt="word " * 5000, schema=ANSWER_SCHEMA))
    assert isinstance(long, Failure)
    assert long.kind == "context_too_small"
    cut = await local.chat(ChatRequest(prompt="What?", schema=ANSWER_SCHEMA, max_output_tokens=5))
    assert isinstance(cut, Failure)
    assert cut.kind == "cut_off"
    await local.close()


async def test_equal_beginnings_of_prompts_are_computed_once(real: Real):
    started(real)
    record = next(r for r in read_records(real.home) if r.engine == "local")
    key = vllm_process.read_key(real.home, record.key_file)
    settings = replace(load_engines(real.home.engines_file)["local"], devices=(record.device,))
    local = VllmEngine(settings, model="chat", api_key=Secret(""), home=real.home)

    async def hits() -> float:
        _, body = await vllm_process.ask(record.port, "/metrics", key=key, seconds=10)
        lines = body.decode().splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith("vllm:prefix_cache_hits_total"))

    before = await hits()
    same = "The same long beginning. " * 40
    await asyncio.gather(*(local.chat(ChatRequest(prompt=f"{same}{i}", schema=ANSWER_SCHEMA)) for i in range(4)))
    await asyncio.gather(*(local.chat(ChatRequest(prompt=f"{same}{i}", schema=ANSWER_SCHEMA)) for i in range(4)))
    counted = local.counter()
    assert counted
    assert await hits() - before >= counted(same) - 64
    await local.close()


def test_64_features_go_through_both_while_one_is_killed(real: Real, capsys):
    started(real)
    before = {p.device: p for p in real.ready().processes}
    job_id = explain(real)
    victim = next(iter(before.values()))
    ends = time.monotonic() + 300
    while True:  # in the middle of the work
        done = real.client.explain.GetExplainStatus(pb.GetExplainStatusRequest(job_id=job_id)).features_done
        if done >= 8:
            break
        assert time.monotonic() < ends
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    killed = time.monotonic()
    result = finished(real, job_id)
    took = time.monotonic() - killed
    rows = explanations(real, job_id)
    assert result.total_features_processed == len(rows) == FEATURES
    assert all(bool(row.explanation) != bool(row.failure) for row in rows)
    assert result.summary_insights.failed == sum(bool(row.failure) for row in rows)
    again = {p.device: p for p in real.ready().processes}
    assert again[victim.device].pid not in (0, victim.pid)
    assert again[victim.device].restarts == 1
    assert session_members(victim.pid) == []
    back = time.monotonic() - killed
    with capsys.disabled():
        print(
            f"\nkilled after {done} of {FEATURES}; {result.summary_insights.failed} failed; over {took:.1f} s later, "
            f"engine back {back:.1f} s after the kill; {result.processing_time_seconds:.1f} s in all"
        )


def test_a_killed_service_finds_its_engines_again(real: Real):
    started(real)
    before = {p.device: p.pid for p in real.ready().processes}
    real.control.kill9()
    real.control.start()
    after = {p.device: p.pid for p in real.ready().processes}
    assert after == before


def test_a_model_without_a_template_is_switched_to_and_answers(real: Real, capsys):
    started(real)
    began = time.monotonic()
    real.client.explain.LoadModel(pb.LoadModelRequest(engine="local", model="plain"))
    found = real.ready("plain")
    with capsys.disabled():
        print(f"\nswitched in {time.monotonic() - began:.1f} s: {found.processes[0].message}")
    result = finished(real, explain(real, model="plain", max_features=4))
    assert (result.total_features_processed, result.summary_insights.failed) == (4, 0)
    real.client.explain.StopEngine(pb.StopEngineRequest(engine="local"))
    real.wait_for(lambda e: e.state == explanation_pb2.ENGINE_STATE_STOPPED)
    assert READY not in {p.state for p in real.engine().processes}
