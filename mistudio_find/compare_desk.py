"""Where the control process gets comparisons: mistudio_core.made_once stores them as artifacts of the first job.

Owns what a comparison is made of and named by, and how it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore, ArtifactWriter
from mistudio_core.errors import MistudioError, NotFound
from mistudio_core.jobs.context import artifact_uri
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import JobRecord
from mistudio_core.jobs.store import JobStore
from mistudio_core.made_once import MadeOnce, Work
from mistudio_find.aside import reference, run_aside
from mistudio_find.compare import VERSION, Wanted
from mistudio_find.comparing import SUMMARY_FILE
from mistudio_find.comparison_rows import ROWS_FILE, ComparisonRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A comparison that is stored."""

    other: str
    """The other job."""
    sha256: str
    """Its artifact."""
    summary: Mapping[str, Any]
    """Fields of compare.Summary."""
    rows: ComparisonRows
    """Its rows."""


class CompareDesk:
    """Hands out comparisons of completed analyses."""

    def __init__(self, store: ArtifactStore, jobs: JobStore, queries: JobQueries) -> None:
        """On the parts of a control process."""
        self._store, self._queries = store, queries
        self._made = MadeOnce(store, jobs, queries, "export")

    async def get(self, job: JobRecord, other: JobRecord, wanted: Wanted) -> Made:
        """The comparison of two completed jobs. Raises NotFound, Unsupported, Corrupt, DiskFull, Failed."""
        features = [await self._features(one.job_id) for one in (job, other)]
        asked = [VERSION, *(record.sha256 for record in features), wanted.method, str(wanted.min_similarity)]
        digest = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
        uri = artifact_uri(job.job_id, "export", f"comparison_{digest}")
        return await self._made.get(
            job.job_id,
            uri,
            lambda reader: _opened(reader, other.job_id),
            lambda: self._work(job, other, features, wanted),
        )

    async def _work(self, job: JobRecord, other: JobRecord, features: list[ArtifactRecord], wanted: Wanted) -> Work:
        sides = [await self._told(one, record) for one, record in zip((job, other), features, strict=True)]
        told = {"one": sides[0], "two": sides[1], "method": wanted.method, "min_similarity": wanted.min_similarity}

        async def write(writer: ArtifactWriter) -> None:
            await run_aside("mistudio_find.comparing", "the comparison", {**told, "out": str(writer.folder)})

        return Work(write=write, attempt=features[0].attempt)

    async def _told(self, job: JobRecord, features: ArtifactRecord) -> dict[str, Any]:
        """A side as the process is told of it, with what is still there of SAE and activations."""
        told: dict[str, Any] = {"job_id": job.job_id, "features": reference(self._store, features)}
        for kind in ("sae", "codes"):
            record = await self._input(job, kind)
            if record is not None:
                told[kind] = reference(self._store, record)
        return told

    async def _input(self, job: JobRecord, kind: str) -> ArtifactRecord | None:
        """What the job read, or made where it was an import; None where it is gone."""
        wanted = job.inputs.get(kind)
        if wanted is None:
            records = await self._queries.artifacts_of(job.job_id, kind)
            return records[-1] if records else None
        try:
            if wanted.uri:
                return await self._queries.artifact(wanted.uri, wanted.sha256)
            return wanted.chosen(await self._queries.artifacts_of(wanted.job_id, wanted.kind))
        except MistudioError:
            return None

    async def _features(self, job_id: str) -> ArtifactRecord:
        records = await self._queries.artifacts_of(job_id, "features")
        if not records:
            raise NotFound(
                f"The evidence of {job_id} is gone: it was removed from the history. Run the analysis again.",
                reason="ARTIFACT_NOT_FOUND",
                facts={"job_id": job_id},
            )
        return records[-1]


def _opened(reader: ArtifactReader, other: str) -> Made:
    """Raises Corrupt."""
    summary = json.loads(reader.read_bytes(SUMMARY_FILE))
    return Made(other=other, sha256=reader.record.sha256, summary=summary, rows=ComparisonRows(reader.path(ROWS_FILE)))
