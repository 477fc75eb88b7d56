"""Where the control process gets a form of a run: from what its worker stored, or made once in a thread aside.

A verdict makes a new form: older ones go, but for the last, which somebody may still be reading. See
mistudio_core.made_once for what is stored when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore, ArtifactWriter, OpenArtifacts
from mistudio_core.errors import NotFound
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.reviews import ReviewRecord
from mistudio_core.jobs.store import JobStore
from mistudio_core.made_once import MadeOnce, Work
from mistudio_explain.book import read_book
from mistudio_explain.reports import FORMS, Form
from mistudio_explain.table import ExplanationTable

_STORED = {"json": "explanations", "html": "report"}
_KEPT = 2


class ReportDesk:
    """Hands out the forms of completed runs."""

    def __init__(
        self,
        store: ArtifactStore,
        jobs: JobStore,
        queries: JobQueries,
        tables: OpenArtifacts[ExplanationTable],
        fonts: Path,
    ) -> None:
        """On the parts of a control process; `fonts` is a folder of fonts for PDF, which may be missing."""
        self._store, self._queries, self._tables, self._fonts = store, queries, tables, fonts
        self._made = MadeOnce(store, jobs, queries, "report")

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
        reader = await self._made.get(job.job_id, uri, lambda found: found, lambda: self._work(job, form, reviews))
        await self._made.let_go(job.job_id, uri.rpartition("_")[0] + "_", kept=_KEPT)
        return reader, form

    async def _work(self, job: JobRecord, form: Form, reviews: Sequence[ReviewRecord]) -> Work:
        source = await self._source(job.job_id)

        def written(writer: ArtifactWriter) -> None:
            writer.write(form.filename, form.render(read_book(self._tables.get(source), reviews), self._fonts))

        return Work(write=lambda writer: asyncio.to_thread(written, writer), attempt=source.attempt)

    async def _source(self, job_id: str) -> ArtifactRecord:
        records = await self._queries.artifacts_of(job_id, "explanations")
        if not records:
            raise NotFound(
                f"Job {job_id} has no artifact of kind explanations.",
                reason="ARTIFACT_NOT_FOUND",
                facts={"job_id": job_id},
            )
        return records[-1]
