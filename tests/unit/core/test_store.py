"""The job store: fencing, idempotence, group commit, exactly one end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mistudio_core.artifacts import ArtifactRecord, ArtifactStore
from mistudio_core.errors import Conflict, Corrupt, InvalidInput, StaleAttempt
from mistudio_core.jobs.database import Database, Transaction
from mistudio_core.jobs.migrations import migrate
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import ErrorRecord, LogWritten, NewJob, ProgressRecord
from mistudio_core.jobs.store import JobStore
from mistudio_core.jobs.worker_store import Lease, Outcome, WorkerStore


class Store:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs, self.worker, self.queries = JobStore(database), WorkerStore(database), JobQueries(database)

    async def running(self, request_id: str = "") -> Lease:
        job, _ = await self.jobs.start(NewJob(service="train", request=b"r", request_id=request_id))
        claim = await self.jobs.claim(job.job_id, "cpu:0")
        assert claim is not None
        return Lease(job_id=job.job_id, attempt=claim.job.attempt, token=claim.token)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    migrate(tmp_path / "jobs.db")
    database = Database(tmp_path / "jobs.db")
    yield Store(database)
    database.close()


async def test_one_claim_of_many_wins(store: Store):
    job, _ = await store.jobs.start(NewJob(service="train", request=b"r"))
    claims = await asyncio.gather(*(store.jobs.claim(job.job_id, "cpu:0") for _ in range(20)))
    assert sum(c is not None for c in claims) == 1


async def test_a_thousand_concurrent_starts_with_ten_ids_give_ten_jobs(store: Store):
    async def start(number: int) -> str:
        job, _ = await store.jobs.start(NewJob(service="train", request=b"r", request_id=f"id{number % 10}"))
        return job.job_id

    assert len(set(await asyncio.gather(*(start(n) for n in range(1000))))) == 10


@pytest.mark.parametrize("what", ["token", "attempt", "ended"])
async def test_a_worker_without_the_lease_changes_nothing(store: Store, what: str):
    lease = await store.running()
    if what == "ended":
        await store.jobs.end_attempt(lease.job_id, 1, counts=False, reason="WORKER_DIED", message="gone")
    stale = Lease(
        job_id=lease.job_id,
        attempt=2 if what == "attempt" else 1,
        token="0" * 64 if what == "token" else lease.token,
    )
    before = await store.queries.get(lease.job_id)
    for call in (
        store.worker.attach(stale, 1, 1),
        store.worker.report(stale, 1, [ProgressRecord(fraction=0.5), LogWritten(message="x")]),
        store.worker.commit_artifact(stale, ArtifactRecord(uri="/data/x", kind="sae", folder="f", files=())),
        store.worker.finish(stale, Outcome(result=b"stolen")),
    ):
        with pytest.raises(StaleAttempt):
            await call
    assert await store.queries.get(lease.job_id) == before


async def test_a_batch_that_is_sent_again_is_not_stored_again(store: Store):
    lease = await store.running()
    for _ in range(3):
        await store.worker.report(lease, 1, [LogWritten(message="once")])
    events = await store.queries.events_after(lease.job_id, 0)
    assert sum(e.payload == LogWritten(message="once") for e in events) == 1


async def test_finish_may_be_sent_again_and_ends_once(store: Store):
    lease = await store.running()
    first = await store.worker.finish(lease, Outcome(result=b"done"))
    again = await store.worker.finish(lease, Outcome(result=b"done"))
    assert first == again
    with pytest.raises(StaleAttempt):
        await store.worker.finish(lease, Outcome(cancelled=True))
    events = await store.queries.events_after(lease.job_id, 0)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert sum(type(e.payload).__name__ == "Finished" for e in events) == 1


async def test_three_crashes_without_a_checkpoint_are_poison_and_kills_from_outside_are_not(store: Store):
    lease = await store.running()
    for attempt in range(1, 8):
        job = await store.jobs.end_attempt(
            lease.job_id, attempt, counts=attempt > 4, reason="WORKER_DIED", message="crash"
        )
        if job.is_terminal:
            break
        assert await store.jobs.claim(lease.job_id, "cpu:0") is not None
    assert job.error is not None
    assert (job.attempt, job.error.reason) == (7, "POISON")


async def test_a_cancelled_job_that_pauses_ends(store: Store):
    lease = await store.running()
    await store.jobs.cancel(lease.job_id)
    job = await store.worker.finish(lease, Outcome(paused=ErrorRecord(reason="DISK_FULL", message="full")))
    assert job.status == "cancelled"


async def test_an_old_etag_is_refused(store: Store):
    lease = await store.running()
    old = (await store.queries.get(lease.job_id)).etag
    await store.worker.report(lease, 1, [LogWritten(message="newer")])
    with pytest.raises(Conflict):
        await store.jobs.cancel(lease.job_id, old)


async def test_a_refused_write_costs_the_others_of_its_commit_nothing(store: Store):
    def good(tx: Transaction) -> str:
        return "kept"

    def bad(tx: Transaction) -> str:
        raise InvalidInput("no")

    futures = [store.database.write(bad if n % 3 == 0 else good) for n in range(30)]
    outcomes = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    assert [isinstance(o, InvalidInput) for o in outcomes] == [n % 3 == 0 for n in range(30)]


def test_a_damaged_database_is_refused(tmp_path: Path):
    path = tmp_path / "jobs.db"
    migrate(path)
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="backup"):
        migrate(path)


def test_the_migration_makes_the_schema(tmp_path: Path):
    import sqlalchemy as sa

    from mistudio_core.jobs import schema

    migrate(tmp_path / "jobs.db")
    inspector = sa.inspect(sa.create_engine(f"sqlite:///{tmp_path / 'jobs.db'}"))
    for table in schema.metadata.sorted_tables:
        made = {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns(table.name)}
        wanted = {c.name: (str(c.type.compile()), bool(c.nullable)) for c in table.columns}
        assert made.keys() == wanted.keys()
        assert {k: v[1] for k, v in made.items()} == {k: v[1] for k, v in wanted.items()}
    inspector.engine.dispose()


def test_every_flipped_bit_of_an_artifact_is_found(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    writer = store.stage("/data/models/j/sae", "sae", job_id="j", attempt=1)
    writer.write("a.bin", bytes(range(256)))
    record = writer.seal()
    folder = tmp_path / record.folder
    for name in ("a.bin", "manifest.json"):
        clean = (folder / name).read_bytes()
        for position in range(0, len(clean), 7):
            damaged = bytearray(clean)
            damaged[position] ^= 1 << position % 8
            (folder / name).write_bytes(damaged)
            with pytest.raises(Corrupt):
                store.open(record, record.sha256).read_bytes("a.bin")
        (folder / name).write_bytes(clean)
    assert store.open(record, record.sha256).read_bytes("a.bin") == bytes(range(256))
