"""A start removes what processes that died left behind, and nothing that a job still needs."""

from __future__ import annotations

from pathlib import Path

from mistudio_core.artifacts import ArtifactStore
from mistudio_core.home import Home
from mistudio_core.jobs.records import NewJob
from mistudio_core.secret import Secret, write_sealed
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.server import ServerConfig, running
from tests.support.scratch import scratch_contract, scratch_entry


async def test_leftovers_go_and_what_is_needed_stays(home: Home):
    runtime = await Runtime.open(home, services=["scratch"])
    kept, _ = await runtime.jobs.start(NewJob(service="scratch", request=b"", start_after="scratch_waits"))
    done, _ = await runtime.jobs.start(NewJob(service="scratch", request=b""))
    await runtime.jobs.cancel(done.job_id)
    store = ArtifactStore(home.artifacts)
    with_row, without_row = [_artifact(store, name) for name in ("kept", "orphan")]
    await runtime.jobs.add_upload(with_row)
    await runtime.close()
    for job_id in (kept.job_id, done.job_id, "scratch_20250101_000000_00000000"):
        write_sealed(home.secrets / f"{job_id}.json", Secret("{}"))
        (home.scratch / job_id / "1").mkdir(parents=True)
    token = home.token().reveal()
    (home.artifacts / "staging" / "torn").mkdir(parents=True)
    async with running(ServerConfig(home=home, contract=scratch_contract()), [scratch_entry()]):
        assert [p.stem for p in home.secrets.glob("scratch_*")] == [kept.job_id]
        assert [p.name for p in home.scratch.glob("*")] == [kept.job_id]
        assert (home.artifacts / with_row.folder).is_dir()
        assert not (home.artifacts / without_row.folder).exists()
        assert not (home.artifacts / "staging" / "torn").exists()
    assert home.token().reveal() == token


def _artifact(store: ArtifactStore, name: str):
    writer = store.stage(f"/data/samples/{name}", "corpus")
    writer.write("corpus.txt", b"text\n")
    return writer.seal()


def test_a_folder_of_someone_else_is_no_home(tmp_path: Path, monkeypatch):
    import os

    import pytest

    from mistudio_core.errors import Forbidden

    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(Forbidden, match="another user"):
        Home.at(tmp_path / "home")
