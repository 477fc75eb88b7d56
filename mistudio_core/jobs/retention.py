"""Removing what ended jobs left, where nothing builds on it: rows in one transaction, files after it.

Owns the check for readers, not the policy which jobs are old. The job itself stays, with its events.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs import schema
from mistudio_core.jobs.database import Database, Transaction
from mistudio_core.jobs.records import CANCELLED, FAILED, TERMINAL
from mistudio_core.jobs.rows import artifact_of
from mistudio_core.jobs.store import UsersElsewhere, nobody

jobs, artifacts = schema.jobs, schema.artifacts
_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What became of the artifacts of one job."""

    records: list[ArtifactRecord]
    """Those whose rows are gone, or would be; their files may go now."""
    used_by: list[str]
    """Jobs that build on them, oldest first: nothing was removed where there are any."""


class Retention:
    """Removals of an installation."""

    def __init__(self, database: Database, users_elsewhere: UsersElsewhere = nobody) -> None:
        """On a migrated database; `users_elsewhere` asks those of other control processes."""
        self._database, self._users_elsewhere = database, users_elsewhere

    async def remove(self, job_ids: list[str], *, most: int, dry_run: bool) -> dict[str, Removal]:
        """Forgets all artifacts of each job that has ended and that no other job builds on, of `most` jobs; by job id.

        A job that has none is left out of the answer, as is what is beyond `most`.

        Another job builds on one where it names the job or an artifact of it as an input and has not failed or
        been cancelled, and where it waits for it. A job that has not ended is left out of the answer. With
        `dry_run` nothing changes.
        """
        elsewhere: dict[str, list[str]] = {}
        for user, job_id in await self._users_elsewhere(job_ids, []):
            elsewhere.setdefault(job_id, []).append(user)
        write = self._database.write(lambda tx: _remove(tx, job_ids, most, elsewhere, dry_run=dry_run))
        return await asyncio.wrap_future(write)


def _remove(
    tx: Transaction, job_ids: list[str], most: int, elsewhere: dict[str, list[str]], *, dry_run: bool
) -> dict[str, Removal]:
    ended = _ended(tx, job_ids)
    records: dict[str, list[ArtifactRecord]] = {}
    for row in tx.connection.execute(sa.select(artifacts).order_by(artifacts.c.id)):
        if row.job_id in ended:
            records.setdefault(row.job_id, []).append(artifact_of(row))
    users = _users(tx, records)
    found, gone = {}, []
    for job_id in (job_id for job_id in job_ids if job_id in records):
        used_by = [*users.get(job_id, []), *elsewhere.get(job_id, [])]
        found[job_id] = Removal(records=records[job_id], used_by=used_by)
        gone += [] if found[job_id].used_by else [job_id]
        if len(gone) == most:
            break
    if not dry_run:
        for start in range(0, len(gone), _AT_ONCE):
            part = gone[start : start + _AT_ONCE]
            tx.connection.execute(sa.delete(artifacts).where(artifacts.c.job_id.in_(part)))
    return found


def _ended(tx: Transaction, job_ids: list[str]) -> set[str]:
    wanted = set(job_ids)
    rows = tx.connection.execute(sa.select(jobs.c.job_id).where(jobs.c.status.in_(TERMINAL)))
    return {row.job_id for row in rows if row.job_id in wanted}


def _users(tx: Transaction, records: dict[str, list[ArtifactRecord]]) -> dict[str, list[str]]:
    """Job id -> others that build on it."""
    owner = {record.uri: job_id for job_id, own in records.items() for record in own}
    found: dict[str, list[str]] = {}
    rows = tx.connection.execute(
        sa.select(jobs.c.job_id, jobs.c.inputs, jobs.c.start_after, jobs.c.status)
        .where(jobs.c.status.not_in([FAILED, CANCELLED]))
        .order_by(jobs.c.created_at)
    )
    for row in rows:
        named: set[Any] = {owner.get(reference["uri"], reference["job_id"]) for reference in row.inputs.values()}
        named |= {row.start_after} if row.status not in TERMINAL else set()
        for job_id in named & records.keys() - {row.job_id}:
            found.setdefault(job_id, []).append(row.job_id)
    return found
