"""Verdicts are only added; the table comes to databases that were made before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from mistudio_core.jobs import migrations, schema
from mistudio_core.jobs.database import Database, open_engine
from mistudio_core.jobs.migrations import migrate
from mistudio_core.jobs.reviews import ReviewStore


async def add(store: ReviewStore, job_id: str, feature_id: int, verdict: str = "approved"):
    return await store.add(job_id, feature_id, verdict=verdict, correction="", reason="", author="Ada")


@pytest.fixture
def database(tmp_path: Path):
    migrate(tmp_path / "m.db")
    made = Database(tmp_path / "m.db")
    yield made
    made.close()


async def test_the_last_verdict_counts_and_every_one_stays(database):
    store = ReviewStore(database)
    assert await store.of("a") == [] and await store.latest() == []
    first = await add(store, "a", 1, "rejected")
    await add(store, "b", 1)
    await add(store, "a", 2)
    last = await add(store, "a", 1)
    assert [(r.job_id, r.feature_id, r.verdict) for r in await store.latest()] == [
        ("a", 1, "approved"),
        ("a", 2, "approved"),
        ("b", 1, "approved"),
    ]
    assert [r.number for r in await store.of("a", 1)] == [first.number, last.number]
    assert [r.feature_id for r in await store.of("a")] == [1, 2, 1]
    assert await store.latest(["b", "c"]) == await store.of("b")
    assert (await store.of("a"))[-1].number == last.number and last.reviewed_at >= first.reviewed_at


def test_an_older_database_gets_the_table(tmp_path: Path):
    path = tmp_path / "old.db"
    engine = open_engine(path)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["engine"] = engine
    command.upgrade(config, "0001")
    assert not sa.inspect(engine).has_table("reviews")
    migrate(path)
    found = {c["name"] for c in sa.inspect(engine).get_columns("reviews")}
    assert found == {c.name for c in schema.reviews.columns}
    assert sa.inspect(engine).has_table("jobs")
    engine.dispose()
