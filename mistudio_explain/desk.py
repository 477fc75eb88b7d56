"""Where the control process gets a form of a run: from what its worker stored, or made once in a thread aside.

One form is made at a time, equal requests wait for the same one, and what is finished is stored with the run.
A verdict makes a new one: older ones go, but for the last, which somebody may still be reading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore
from mistudio_core.errors import Corrupt, NotFound
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.reviews import ReviewRecord
from mistudio_core.jobs.store import JobStore
from mistudio_explain.book import read_book
from mistudio_explain.opened import OpenTables
from mistudio_explain.reports import FORMS, Form

log = logging.getLogger("mistudio.reports")
_STORED = {"json": "explanations", "html": "report"}
_KEPT = 2


class ReportDesk:
    """Hands out the forms of completed runs."""

    def __init__(
        self, store: ArtifactStore, jobs: JobStore, queries: JobQueries, tables: OpenTables, fonts: Path
    ) -> None:
        """On the parts of a control process; `fonts` is a folder of fonts for PDF, which may be missing."""
        self._store, self._jobs, self._queries = store, jobs, queries
        self._tables, self._fonts = tables, fonts
        self._turn = asyncio.Semaphore(1)
        self._making: dict[str, asyncio.Task[ArtifactRecord]] = {}

    async def get(self, job: JobRecord, name: str, reviews: Sequence[ReviewRecord]) -> tuple[ArtifactReader, Form]:
        """The artifact that holds the form's file with the verdicts, oldest first, made where it is not stored.

        Raises NotFound, Corrupt, Unsupported, DiskFull.
        """
        form = FORMS[name]
        if name in _STORED and not reviews:
            uri = artifact_uri(job.job_id, _STORED[name], _STORED[name])
            stored = [r for r in await self._queries.artifacts_of(job.job_id, _STORED[name]) if r.uri == uri]
            if stored:
                return await asyncio.to_thread(self._store.open, stored[-1]), form
        uri = artifact_uri(job.job_id, "report", f"{name}_{reviews[-1].number if reviews else 0}")
        reader = await self._finished(job.job_id, uri)
        if reader is None:
            reader = await asyncio.to_thread(self._store.open, await self._made(job, form, uri, reviews))
        return reader, form

    async def _finished(self, job_id: str, uri: str) -> ArtifactReader | None:
        """What was made before; None where it was not, or where its files are lost: it can be made again."""
        records = [r for r in await self._queries.artifacts_of(job_id, "report") if r.uri == uri]
        try:
            return await asyncio.to_thread(self._store.open, records[-1]) if records else None
        except Corrupt as error:
            log.warning("%s is made again: %s", uri, error.message)
            await self._jobs.forget_artifacts(records)
            return None

    async def _made(self, job: JobRecord, form: Form, uri: str, reviews: Sequence[ReviewRecord]) -> ArtifactRecord:
        task = self._making.get(uri)
        if task is None:
            task = asyncio.create_task(self._make(job, form, uri, reviews), name=f"report {uri}")
            self._making[uri] = task
            task.add_done_callback(lambda done: self._done(uri, done))
        return await asyncio.shield(task)

    def _done(self, uri: str, task: asyncio.Task[ArtifactRecord]) -> None:
        """Its error is told to who still waits; nobody may."""
        self._making.pop(uri, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s was not made: %s", uri, error)

    async def _make(self, job: JobRecord, form: Form, uri: str, reviews: Sequence[ReviewRecord]) -> ArtifactRecord:
        source = await self._source(job.job_id)
        async with self._turn:
            record = await asyncio.to_thread(self._write, source, form, uri, reviews)
        await self._jobs.add_upload(record)
        await self._let_go(job.job_id, uri)
        return record

    async def _source(self, job_id: str) -> ArtifactRecord:
        records = await self._queries.artifacts_of(job_id, "explanations")
        if not records:
            raise NotFound(
                f"Job {job_id} has no artifact of kind explanations.",
                reason="ARTIFACT_NOT_FOUND",
                facts={"job_id": job_id},
            )
        return records[-1]

    def _write(self, source: ArtifactRecord, form: Form, uri: str, reviews: Sequence[ReviewRecord]) -> ArtifactRecord:
        data = form.render(read_book(self._tables.get(source), reviews), self._fonts)
        writer = self._store.stage(uri, "report", job_id=source.job_id, attempt=source.attempt)
        try:
            writer.write(form.filename, data)
        except BaseException:
            writer.discard()
            raise
        return writer.seal()

    async def _let_go(self, job_id: str, uri: str) -> None:
        """Removes what a later verdict made old."""
        start = uri.rpartition("_")[0] + "_"
        same = [r for r in await self._queries.artifacts_of(job_id, "report") if r.uri.startswith(start)]
        old = same[:-_KEPT]
        if old:
            await self._jobs.forget_artifacts(old)
            for record in old:
                await asyncio.to_thread(self._store.remove, record)
