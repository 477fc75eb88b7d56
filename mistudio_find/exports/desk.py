"""Where the control process gets an export: what Find wrote itself, or what mistudio_core.made_once stores.

Owns which artifacts an export is made of. What is finished is an artifact of the job, so that the next download, or
the rest of a broken one, begins at once.
"""

from __future__ import annotations

import asyncio

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore, ArtifactWriter
from mistudio_core.errors import NotFound, Unsupported
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.store import JobStore
from mistudio_core.made_once import MadeOnce, Work
from mistudio_find.aside import reference, run_aside
from mistudio_find.exports import FORMATS, ExportFormat


class ExportDesk:
    """Hands out the exports of completed analyses."""

    def __init__(self, store: ArtifactStore, jobs: JobStore, queries: JobQueries) -> None:
        """On the parts of a control process."""
        self._store, self._queries = store, queries
        self._made = MadeOnce(store, jobs, queries, "export")

    async def get(self, job: JobRecord, name: str) -> tuple[ArtifactReader, ExportFormat]:
        """The artifact that holds the form's file, made first where it is not stored.

        Raises Corrupt, Unsupported, DiskFull, Failed.
        """
        form = FORMATS[name]
        if form.written_by_find:
            return await asyncio.to_thread(self._store.open, await self._artifact(job.job_id, "features")), form
        uri = artifact_uri(job.job_id, "export", name)
        return await self._made.get(job.job_id, uri, lambda reader: reader, lambda: self._work(job, form)), form

    async def _work(self, job: JobRecord, form: ExportFormat) -> Work:
        features = await self._artifact(job.job_id, "features")
        told = {"format": form.name, "job_id": job.job_id, "features": reference(self._store, features)}
        if form.needs_codes:
            told["codes"] = reference(self._store, await self._codes(job, form))

        async def write(writer: ArtifactWriter) -> None:
            asked = {**told, "out": str(writer.path(form.filename))}
            await run_aside("mistudio_find.exports", f"the {form.name} export", asked)

        return Work(write=write, attempt=features.attempt)

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
