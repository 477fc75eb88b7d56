"""Where the control process gets an export: from what is stored, or made once in a process of its own.

One export is made at a time, the others queue; equal requests wait for the same one. What is finished is an
artifact of the job, so that the next download, or the rest of a broken one, begins at once. An export that
fails leaves nothing. A caller that leaves does not end it: the next call finds it made.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore
from mistudio_core.errors import Corrupt, NotFound, Unsupported
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.store import JobStore
from mistudio_find.aside import reference, run_aside
from mistudio_find.exports import FORMATS, ExportFormat

log = logging.getLogger("mistudio.exports")


class ExportDesk:
    """Hands out the exports of completed analyses."""

    def __init__(self, store: ArtifactStore, jobs: JobStore, queries: JobQueries) -> None:
        """On the parts of a control process."""
        self._store, self._jobs, self._queries = store, jobs, queries
        self._turn = asyncio.Semaphore(1)
        self._making: dict[str, asyncio.Task[ArtifactRecord]] = {}

    async def get(self, job: JobRecord, name: str) -> tuple[ArtifactReader, ExportFormat]:
        """The artifact that holds the form's file, made first where it is not stored.

        Raises Corrupt, Unsupported, DiskFull, Failed.
        """
        form = FORMATS[name]
        if form.written_by_find:
            return await asyncio.to_thread(self._store.open, await self._artifact(job.job_id, "features")), form
        stored = await self._stored(job.job_id, name)
        if stored is None:
            stored = await asyncio.to_thread(self._store.open, await self._made(job, form))
        return stored, form

    async def _stored(self, job_id: str, name: str) -> ArtifactReader | None:
        """The finished export; None where there is none, or where its files are lost: it can be made again."""
        uri = artifact_uri(job_id, "export", name)
        records = [r for r in await self._queries.artifacts_of(job_id, "export") if r.uri == uri]
        if not records:
            return None
        try:
            return await asyncio.to_thread(self._store.open, records[-1])
        except Corrupt as error:
            log.warning("%s is made again: %s", uri, error.message)
            await self._jobs.forget_artifacts(records)
            return None

    async def _made(self, job: JobRecord, form: ExportFormat) -> ArtifactRecord:
        uri = artifact_uri(job.job_id, "export", form.name)
        task = self._making.get(uri)
        if task is None:
            task = asyncio.create_task(self._make(job, form, uri), name=f"export {uri}")
            self._making[uri] = task
            task.add_done_callback(lambda done: self._done(uri, done))
        return await asyncio.shield(task)

    def _done(self, uri: str, task: asyncio.Task[ArtifactRecord]) -> None:
        """Its error is told to who still waits; nobody may."""
        self._making.pop(uri, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("export %s: %s", uri, error)

    async def _make(self, job: JobRecord, form: ExportFormat, uri: str) -> ArtifactRecord:
        features = await self._artifact(job.job_id, "features")
        told = {"format": form.name, "job_id": job.job_id, "features": reference(self._store, features)}
        if form.needs_codes:
            told["codes"] = reference(self._store, await self._codes(job, form))
        async with self._turn:
            writer = await asyncio.to_thread(
                self._store.stage, uri, "export", job_id=job.job_id, attempt=features.attempt
            )
            try:
                await _run({**told, "out": str(writer.path(form.filename))})
                record = await asyncio.to_thread(writer.seal)
            except BaseException:
                writer.discard()
                raise
        await self._jobs.add_upload(record)
        return record

    async def _artifact(self, job_id: str, kind: str) -> ArtifactRecord:
        records = await self._queries.artifacts_of(job_id, kind)
        if not records:
            raise NotFound(
                f"Job {job_id} has no artifact of kind {kind}.", reason="ARTIFACT_NOT_FOUND", facts={"job_id": job_id}
            )
        return records[-1]

    async def _codes(self, job: JobRecord, form: ExportFormat) -> ArtifactRecord:
        """The activations that were analysed: an input of the job, or its own where it made them."""
        reference = job.inputs.get("codes")
        if reference is None:
            records = await self._queries.artifacts_of(job.job_id, "codes")
        elif reference.uri:
            return await self._queries.artifact(reference.uri, reference.sha256)
        else:
            records = await self._queries.artifacts_of(reference.job_id, reference.kind)
        if not records:
            raise Unsupported(
                f"format {form.name} of this analysis",
                why="the activations that it was made from are gone",
                instead="Choose a format of the evidence, such as json or parquet.",
            )
        return records[-1] if reference is None else reference.chosen(records)


async def _run(told: dict[str, Any]) -> None:
    """One `python -m mistudio_find.exports`, from start to end. Raises what it reports."""
    await run_aside("mistudio_find.exports", f"the {told['format']} export", told)
