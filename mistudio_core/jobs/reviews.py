"""What people decided about results: every verdict with its author, time and reason; the last one counts.

Rows are only added. Knows a job and the number of a feature in it, not what an explanation is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from mistudio_core import clock
from mistudio_core.jobs import schema
from mistudio_core.jobs.database import Database
from mistudio_core.jobs.rows import micros, moment_of

APPROVED, CORRECTED, REJECTED = "approved", "corrected", "rejected"
T = TypeVar("T")
reviews = schema.reviews


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewRecord:
    """One verdict."""

    job_id: str
    """The run."""
    feature_id: int
    """The feature whose explanation it is about."""
    verdict: str
    """`approved`, `corrected` or `rejected`."""
    correction: str
    """The reviewer's words, where it was corrected."""
    reason: str
    """Why."""
    author: str
    """Who said so."""
    reviewed_at: datetime
    """When."""
    number: int = 0
    """Its place among all verdicts; 0 before it is stored."""


class ReviewStore:
    """Verdicts of an installation."""

    def __init__(self, database: Database) -> None:
        """On a migrated database."""
        self._database = database

    async def add(
        self, job_id: str, feature_id: int, *, verdict: str, correction: str, reason: str, author: str
    ) -> ReviewRecord:
        """Records a verdict; earlier ones stay. Returns once it is on disk."""
        values = {
            "job_id": job_id,
            "feature_id": feature_id,
            "verdict": verdict,
            "correction": correction,
            "reason": reason,
            "author": author,
            "tenant": "default",
            "reviewed_at": micros(clock.now()),
        }
        insert = sa.insert(reviews).values(values).returning(*reviews.c)
        row = await asyncio.wrap_future(self._database.write(lambda tx: tx.connection.execute(insert).one()))
        return _review(row)

    async def of(self, job_id: str, feature_id: int | None = None) -> list[ReviewRecord]:
        """Every verdict on a run, or on one feature of it, oldest first."""
        query = sa.select(reviews).where(reviews.c.job_id == job_id).order_by(reviews.c.id)
        if feature_id is not None:
            query = query.where(reviews.c.feature_id == feature_id)
        return [_review(row) for row in await self._rows(query)]

    async def latest(self, job_ids: Sequence[str] | None = None) -> list[ReviewRecord]:
        """The last verdict on each explanation, newest first; of all runs where none are named."""
        newest = sa.select(sa.func.max(reviews.c.id)).group_by(reviews.c.job_id, reviews.c.feature_id)
        query = sa.select(reviews).where(reviews.c.id.in_(newest)).order_by(reviews.c.id.desc())
        if job_ids is not None:
            query = query.where(reviews.c.job_id.in_(list(job_ids)))
        return [_review(row) for row in await self._rows(query)]

    async def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        return await self._read(lambda connection: connection.execute(query).all())

    async def _read(self, operation: Callable[[sa.Connection], T]) -> T:
        return await asyncio.wrap_future(self._database.read(operation))


def _review(row: sa.Row[Any]) -> ReviewRecord:
    return ReviewRecord(
        number=row.id,
        job_id=row.job_id,
        feature_id=row.feature_id,
        verdict=row.verdict,
        correction=row.correction,
        reason=row.reason,
        author=row.author,
        reviewed_at=moment_of(row.reviewed_at),
    )
