"""Control processes with databases of their own that read each other's jobs and share the artifact folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from mistudio.peer.v1 import peer_service_pb2, peer_service_pb2_grpc

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import Conflict, InvalidInput, NotFound, Unavailable
from mistudio_core.home import Home
from mistudio_core.jobs.records import ErrorRecord, InputReference, JobRecord, NewJob
from mistudio_core.jobs.retention import Retention
from mistudio_rpc.channel import open_channel
from mistudio_rpc.peers import PeerConfig
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.server import ControlServer, ServerConfig, running
from tests.support.scratch import scratch_contract, scratch_entry

TOKEN = "0123456789abcdef" * 4


@dataclass
class Neighbours:
    """`scratch` runs in one process, nothing but reads in the other."""

    owner: ControlServer
    reader: ControlServer
    owner_home: Home


def other_entry() -> ServiceEntry:
    """A second service for tests: its name is all that is needed of it."""
    entry = scratch_entry()
    return ServiceEntry(
        name="other", grpc_service=entry.grpc_service, servicer=entry.servicer, worker=entry.worker, preload=()
    )


@pytest.fixture
async def neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Neighbours]:
    monkeypatch.setenv("MISTUDIO_DEVICE_DIR", str(tmp_path / "devices"))
    monkeypatch.setenv("MISTUDIO_ARTIFACTS", str(tmp_path / "shared"))
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    monkeypatch.setenv("MISTUDIO_TOKEN_FILE", str(token))
    one, two = Home.at(tmp_path / "one"), Home.at(tmp_path / "two")

    def config(home: Home, name: str, other: Home) -> ServerConfig:
        return ServerConfig(
            home=home, contract=scratch_contract(), peers=PeerConfig(targets={name: other.control_target})
        )

    async with (
        running(config(one, "other", two), [scratch_entry()]) as owner,
        running(config(two, "scratch", one), [other_entry()]) as reader,
    ):
        yield Neighbours(owner, reader, one)


async def ended_job(server: ControlServer, service: str, **fields: object) -> JobRecord:
    job, _ = await server.runtime.jobs.start(
        NewJob(service=service, request=b"asked", model_name="tiny", start_after="scratch_waits", **fields)
    )
    error = ErrorRecord(reason="INTERNAL", message="as the test wants it")
    return await server.runtime.jobs.fail(job.job_id, error) or await server.runtime.queries.get(job.job_id)


def sealed(server: ControlServer, uri: str, job_id: str = "") -> ArtifactRecord:
    writer = server.runtime.artifacts.stage(uri, "corpus", job_id=job_id, attempt=1 if job_id else 0)
    writer.write("corpus.txt", b"text\n")
    return writer.seal()


async def test_a_foreign_job_reads_as_one_of_its_own(neighbours: Neighbours):
    job = await ended_job(neighbours.owner, "scratch")
    found = await neighbours.reader.runtime.queries.get(job.job_id, "scratch")
    assert (found.status, found.model_name, found.request) == ("failed", "tiny", b"asked")
    assert found.error is not None and found.error.message == "as the test wants it"
    assert found.created_at == job.created_at.replace(microsecond=job.created_at.microsecond // 1000 * 1000)
    with pytest.raises(NotFound, match="belongs to scratch"):
        await neighbours.reader.runtime.queries.get(job.job_id, "other")
    with pytest.raises(NotFound, match="not found"):
        await neighbours.reader.runtime.queries.get("scratch_20250101_000000_00000000")


async def test_a_foreign_artifact_is_opened_from_the_shared_folder(neighbours: Neighbours):
    owner, reader = neighbours.owner.runtime, neighbours.reader.runtime
    job_id = "scratch_20250101_000000_00000000"
    record = sealed(neighbours.owner, f"/data/samples/{job_id}/x", job_id)
    assert record.folder.startswith("scratch/corpus/")
    own = sealed(neighbours.reader, "/data/find/other_20250101_000000_00000000/x")
    assert own.folder.startswith("other/corpus/")
    await owner.jobs.add_upload(record)
    found = await reader.queries.artifacts_of(job_id, "corpus")
    assert found == [record]
    assert reader.artifacts.open(found[0]).read_bytes("corpus.txt") == b"text\n"
    assert await reader.queries.artifacts_of(job_id, "sae") == []


async def test_a_restart_removes_nothing_that_a_neighbour_wrote(neighbours: Neighbours):
    theirs, mine = (sealed(server, "/data/samples/x") for server in (neighbours.reader, neighbours.owner))
    staged = neighbours.reader.runtime.artifacts.stage("/data/samples/y", "corpus")
    await neighbours.owner.stop()
    config = ServerConfig(home=neighbours.owner_home, contract=scratch_contract())
    async with running(config, [scratch_entry()]):
        root = neighbours.reader.runtime.artifacts.root
        assert (root / theirs.folder).is_dir()
        assert staged.folder.is_dir()
        assert not (root / mine.folder).exists()


async def test_what_a_neighbour_builds_on_is_kept(neighbours: Neighbours):
    owner, reader = neighbours.owner.runtime, neighbours.reader.runtime
    job = await ended_job(neighbours.owner, "scratch")
    await owner.jobs.add_upload(sealed(neighbours.owner, "/data/samples/x", job.job_id))
    await owner.jobs.add_upload(sealed(neighbours.owner, "/data/samples/free"))
    inputs = {"a": InputReference(job_id=job.job_id, kind="corpus"), "b": InputReference(uri="/data/samples/free")}
    user, _ = await reader.jobs.start(
        NewJob(service="other", request=b"", inputs=inputs, start_after="scratch_20250101_000000_00000000")
    )
    removal = await Retention(owner.database, owner.users_elsewhere).remove([job.job_id], most=10, dry_run=False)
    assert removal[job.job_id].used_by == [user.job_id]
    assert await owner.queries.artifacts_of(job.job_id)
    with pytest.raises(Conflict, match=user.job_id):
        await owner.jobs.remove_upload("/data/samples/free")
    await reader.jobs.cancel(user.job_id)
    assert await owner.jobs.remove_upload("/data/samples/free")


async def test_a_neighbour_that_is_gone_is_unavailable_and_its_jobs_are_waited_for(neighbours: Neighbours):
    reader = neighbours.reader.runtime
    gone = "scratch_20250101_000000_00000000"
    await neighbours.owner.stop()
    with pytest.raises(Unavailable, match="scratch service does not answer"):
        await reader.queries.get(gone)
    waiting, _ = await reader.jobs.start(NewJob(service="other", request=b"", start_after=gone))
    inputs = {"a": InputReference(job_id=gone, kind="corpus")}
    reading, _ = await reader.jobs.start(NewJob(service="other", request=b"", inputs=inputs))
    reasons = {
        waiting.job_id: f"waits for {gone}, whose service does not answer",
        reading.job_id: "waits for a service that keeps its input and does not answer",
    }
    async with asyncio.timeout(20):
        while reasons:
            for job_id, reason in list(reasons.items()):
                job = await reader.queries.get(job_id)
                assert job.status == "queued"
                if job.queue_reason == reason:
                    del reasons[job_id]
            await asyncio.sleep(0.05)


async def test_only_who_has_the_token_may_ask(neighbours: Neighbours):
    request = peer_service_pb2.ReadJobRequest(job_id="scratch_20250101_000000_00000000")
    async with open_channel(neighbours.owner_home.control_target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer_service_pb2_grpc.PeerServiceStub(channel).ReadJob(request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_never_travels_to_an_open_address_in_clear():
    PeerConfig(targets={"train": "127.0.0.1:1", "find": "unix:/run/find.sock"})
    with pytest.raises(InvalidInput, match="--tls-cert"):
        PeerConfig(targets={"train": "train:50051"})


def test_a_named_token_file_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = Home.at(tmp_path / "home")
    monkeypatch.setenv("MISTUDIO_TOKEN_FILE", str(tmp_path / "token"))
    for text in (None, "", "short"):
        with contextlib.suppress(TypeError):
            (tmp_path / "token").write_text(text)
        with pytest.raises(InvalidInput, match="at least 32 characters"):
            home.token()
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert home.token().reveal() == TOKEN
