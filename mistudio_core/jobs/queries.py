"""What anyone reads: jobs, events, artifacts. Runs in the reader pool, never in the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from mistudio_core import ids
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import InvalidInput, NotFound
from mistudio_core.jobs import schema
from mistudio_core.jobs.database import Database
from mistudio_core.jobs.records import (
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    TERMINAL,
    AttemptRecord,
    EventRecord,
    JobRecord,
)
from mistudio_core.jobs.rows import artifact_of, event_of, job_of, moment_of

T = TypeVar("T")
jobs, attempts, events, artifacts = schema.jobs, schema.attempts, schema.events, schema.artifacts


class Upload(NamedTuple):
    """An artifact that no job wrote."""

    record: ArtifactRecord
    """The artifact."""
    created_at: datetime
    """When it was recorded."""
    token: str
    """Where the page after it begins."""


class JobQueries:
    """Reads of jobs and what belongs to them."""

    def __init__(self, database: Database) -> None:
        """On a migrated database."""
        self._database = database

    async def _read(self, operation: Callable[[sa.Connection], T]) -> T:
        return await asyncio.wrap_future(self._database.read(operation))

    async def get(self, job_id: str, service: str | None = None) -> JobRecord:
        """One job; `service` asks that it be its job. Raises NotFound."""
        rows = await self._rows(sa.select(jobs).where(jobs.c.job_id == job_id))
        if not rows:
            raise ids.job_not_found(job_id)
        if service is not None and rows[0].service != service:
            raise wrong_service(job_id, rows[0].service, service)
        return job_of(rows[0])

    async def page(
        self, service: str, *, status: str = "", size: int = 100, token: str = ""
    ) -> tuple[list[JobRecord], str, int]:
        """(jobs newest first, token of the next page or "", jobs in all)."""
        wanted = [jobs.c.service == service, *([jobs.c.status == status] if status else [])]
        query = sa.select(jobs).where(*wanted)
        if token:
            created, job_id = _parse_token(token)
            query = query.where(sa.tuple_(jobs.c.created_at, jobs.c.job_id) < sa.tuple_(created, job_id))
        query = query.order_by(jobs.c.created_at.desc(), jobs.c.job_id.desc()).limit(size + 1)
        rows = await self._rows(query)
        total = await self._read(
            lambda c: int(c.execute(sa.select(sa.func.count()).select_from(jobs).where(*wanted)).scalar_one())
        )
        more = f"{rows[size - 1].created_at}.{rows[size - 1].job_id}" if len(rows) > size else ""
        return [job_of(row) for row in rows[:size]], more, total

    async def with_status(self, services: Sequence[str], *statuses: str) -> list[JobRecord]:
        """Jobs of some services in some states, oldest first."""
        rows = await self._rows(
            sa.select(jobs)
            .where(jobs.c.status.in_(statuses), jobs.c.service.in_(list(services)))
            .order_by(jobs.c.created_at, jobs.c.job_id)
        )
        return [job_of(row) for row in rows]

    async def queue_depth(self, service: str) -> int:
        """Jobs of a service that wait."""
        return await self._read(
            lambda c: int(
                c.execute(
                    sa.select(sa.func.count())
                    .select_from(jobs)
                    .where(jobs.c.service == service, jobs.c.status == QUEUED)
                ).scalar_one()
            )
        )

    async def running_attempts(self, services: Sequence[str]) -> list[AttemptRecord]:
        """The current attempts of running jobs."""
        rows = await self._rows(
            sa.select(attempts)
            .join(jobs, (jobs.c.job_id == attempts.c.job_id) & (jobs.c.attempt == attempts.c.attempt))
            .where(jobs.c.status == RUNNING, jobs.c.service.in_(list(services)))
        )
        return [
            AttemptRecord(
                job_id=row.job_id,
                attempt=row.attempt,
                device=row.device,
                pid=row.pid,
                process_start=row.process_start,
                ended=row.ended_at is not None,
                checkpointed=row.checkpointed,
            )
            for row in rows
        ]

    async def events_after(self, job_id: str, sequence: int, limit: int = 500) -> list[EventRecord]:
        """Durable events after a sequence, oldest first."""
        rows = await self._rows(
            sa.select(events)
            .where(events.c.job_id == job_id, events.c.sequence > sequence)
            .order_by(events.c.sequence)
            .limit(limit)
        )
        return [event_of(row) for row in rows]

    async def artifacts_of(self, job_id: str, kind: str = "") -> list[ArtifactRecord]:
        """Artifacts of a job, oldest first."""
        query = sa.select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.id)
        if kind:
            query = query.where(artifacts.c.kind == kind)
        return [artifact_of(row) for row in await self._rows(query)]

    async def uploads(self, kind: str, *, size: int = 100, token: str = "") -> tuple[list[Upload], bool, int]:
        """(the newest upload of each URI, newest first; whether there are more; URIs in all).

        `token` is that of the last upload of the page before. Raises InvalidInput for a token that is none.
        """
        newest = (
            sa.select(sa.func.max(artifacts.c.id))
            .where(artifacts.c.kind == kind, artifacts.c.job_id == "")
            .group_by(artifacts.c.uri)
        )
        query = sa.select(artifacts).where(artifacts.c.id.in_(newest)).order_by(artifacts.c.id.desc()).limit(size + 1)
        if token:
            query = query.where(artifacts.c.id < _parse_id(token))
        rows = await self._rows(query)
        total = await self._read(
            lambda c: int(c.execute(sa.select(sa.func.count()).select_from(newest.subquery())).scalar_one())
        )
        return [_upload(row) for row in rows[:size]], len(rows) > size, total

    async def upload(self, uri: str) -> Upload | None:
        """The newest upload of a URI; None where there is none."""
        rows = await self._rows(
            sa.select(artifacts)
            .where(artifacts.c.uri == uri, artifacts.c.job_id == "")
            .order_by(artifacts.c.id.desc())
            .limit(1)
        )
        return _upload(rows[0]) if rows else None

    async def folders(self) -> set[str]:
        """Folders of all artifacts that have a row."""
        return {str(row[0]) for row in await self._rows(sa.select(artifacts.c.folder))}

    async def users(self, job_ids: Collection[str], uris: Collection[str]) -> list[tuple[str, str]]:
        """(a job, which of these jobs or uploads it builds on), oldest first; failed and cancelled ones on none."""
        rows = await self._rows(
            sa.select(jobs.c.job_id, jobs.c.inputs, jobs.c.start_after, jobs.c.status)
            .where(jobs.c.status.not_in([FAILED, CANCELLED]))
            .order_by(jobs.c.created_at)
        )
        return [(row.job_id, used) for row in rows for used in sorted(_used(row, job_ids, uris))]

    async def started(self, service: str, request_id: str, tenant: str = "default") -> tuple[JobRecord, str] | None:
        """(the job that was started with a request_id, digest of its request); None for none."""
        rows = await self._rows(
            sa.select(jobs).where(jobs.c.tenant == tenant, jobs.c.service == service, jobs.c.request_id == request_id)
        )
        return (job_of(rows[0]), rows[0].request_hash) if rows else None

    async def artifact(self, uri: str, sha256: str = "") -> ArtifactRecord:
        """The newest artifact of a URI, or the one with a digest. Raises NotFound."""
        query = sa.select(artifacts).where(artifacts.c.uri == uri).order_by(artifacts.c.id.desc()).limit(1)
        if sha256:
            query = query.where(artifacts.c.sha256 == sha256)
        rows = await self._rows(query)
        if not rows:
            shown = uri[:200]
            raise NotFound(
                f"Artifact {shown} not found. A job's artifacts are listed at /api/v1/jobs/<job_id>/artifacts.",
                reason="ARTIFACT_NOT_FOUND",
                facts={"uri": shown},
            )
        return artifact_of(rows[0])

    async def _rows(self, query: sa.Select[tuple[object, ...]]) -> Sequence[sa.Row[tuple[object, ...]]]:
        return await self._read(lambda connection: connection.execute(query).all())


def wrong_service(job_id: str, owner: str, service: str) -> NotFound:
    """The error for a job that belongs to another service than the one that was asked for."""
    return NotFound(
        f"Job {job_id} not found among {service} jobs: it belongs to {owner}. Give the id of a {service} job.",
        reason="JOB_NOT_FOUND",
        facts={"job_id": job_id, "service": owner},
    )


def _used(row: sa.Row[Any], job_ids: Collection[str], uris: Collection[str]) -> set[str]:
    """Which of these a job builds on: it still may read an upload only until it has ended."""
    ended = row.status in TERMINAL
    found = {row.start_after} if not ended else set()
    for reference in row.inputs.values():
        found |= {reference["job_id"], ids.job_of_uri(reference["uri"])}
        found |= {reference["uri"]} if not ended else set()
    return found & {*job_ids, *uris}


def _upload(row: sa.Row[Any]) -> Upload:
    return Upload(artifact_of(row), moment_of(row.created_at), str(row.id))


def _parse_id(token: str) -> int:
    if not (token.isascii() and token.isdecimal() and len(token) <= 18):
        raise InvalidInput.field("page_token", token, "the next_page_token of an earlier page, or nothing")
    return int(token)


def _parse_token(token: str) -> tuple[int, str]:
    created, _, job_id = token.partition(".")
    if not (created.isascii() and created.isdecimal() and len(created) <= 18) or not job_id:
        raise InvalidInput.field("page_token", token, "the next_page_token of an earlier page, or nothing")
    return int(created), job_id
