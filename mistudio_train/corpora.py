"""Uploaded corpora of an installation: received, listed, found by name, deleted.

Owns names and life of corpora; how their bytes are checked is `mistudio_core.corpus`'s. No messages here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from mistudio_core import clock
from mistudio_core.artifacts import ArtifactRecord, ArtifactStore
from mistudio_core.corpus.about import About, corpus_file, read_about
from mistudio_core.corpus.forms import IntakeOptions
from mistudio_core.corpus.intake import CorpusIntake
from mistudio_core.corpus.names import check_name
from mistudio_core.errors import Corrupt
from mistudio_core.jobs.corpora import URI_BASE, corpus_reference, corpus_uri
from mistudio_core.jobs.queries import JobQueries, Upload
from mistudio_core.jobs.records import InputReference
from mistudio_core.jobs.store import JobStore, corpus_not_found


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusEntry:
    """An uploaded corpus."""

    name: str
    """The name under which it was stored."""
    record: ArtifactRecord
    """Its artifact."""
    created_at: datetime
    """When it was uploaded."""
    about: About
    """Where it comes from and what it holds."""
    token: str = ""
    """Where the page after it begins."""

    @property
    def sha256(self) -> str:
        """Digest of the stored documents."""
        return self.record.file(corpus_file(self.record)).sha256

    @property
    def size_bytes(self) -> int:
        """Size of the stored documents."""
        return self.record.file(corpus_file(self.record)).size_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Announcement:
    """What is said of an upload before its bytes."""

    filename: str
    """Name of the file; its ending says what it is."""
    name: str = ""
    """Name to store it under; empty: `filename`."""
    size_bytes: int = 0
    """Bytes to come; 0 where that is not known."""
    options: IntakeOptions
    """How it is to be read."""


class Corpora:
    """The corpora of an installation."""

    def __init__(self, store: ArtifactStore, jobs: JobStore, queries: JobQueries) -> None:
        """On the parts of a control process."""
        self._store, self._jobs, self._queries = store, jobs, queries

    async def receive(self, coming: Announcement, chunks: AsyncIterator[tuple[int, bytes]]) -> CorpusEntry:
        """Stores what arrives as (offset, bytes). Nothing is kept of an upload that breaks off or is refused.

        Raises InvalidInput, Unsupported, LimitReached, DiskFull.
        """
        name = check_name(coming.name, "name") if coming.name else check_name(coming.filename)
        writer = await asyncio.to_thread(self._store.stage, corpus_uri(name), "corpus")
        intake = None
        try:
            intake = CorpusIntake(writer, coming.filename, coming.options)
            async for offset, data in chunks:
                await asyncio.to_thread(intake.feed, data, offset)
            intake.check_size(coming.size_bytes)
            about = await asyncio.to_thread(intake.finish)
            record = await asyncio.to_thread(writer.seal)
        except BaseException:
            if intake is not None:
                intake.close()
            writer.discard()
            raise
        await self._jobs.add_upload(record)
        return CorpusEntry(name=name, record=record, created_at=clock.now(), about=about)

    async def page(self, *, size: int, token: str) -> tuple[list[CorpusEntry], bool, int]:
        """(corpora newest first, whether there are more, corpora in all). Raises InvalidInput."""
        found, more, total = await self._queries.uploads("corpus", size=size, token=token)
        return await asyncio.to_thread(lambda: [self._entry(row) for row in found]), more, total

    async def get(self, name: str) -> CorpusEntry:
        """The newest corpus of a name. Raises NotFound (CORPUS_NOT_FOUND)."""
        found = await self._queries.upload(corpus_uri(name))
        if found is None:
            raise corpus_not_found(name)
        return await asyncio.to_thread(self._entry, found)

    async def delete(self, name: str) -> list[ArtifactRecord]:
        """Deletes every upload of a name: rows first, then files; what was deleted.

        Raises NotFound (CORPUS_NOT_FOUND), Conflict (CORPUS_IN_USE).
        """
        records = await self._jobs.remove_upload(corpus_uri(name))
        for record in records:
            await asyncio.to_thread(self._store.remove, record)
        return records

    async def reference(self, name: str) -> InputReference:
        """See corpus_reference."""
        return await corpus_reference(self._queries, name)

    def _entry(self, found: Upload) -> CorpusEntry:
        """A damaged corpus says so where it is shown: the others are listed all the same."""
        try:
            about = read_about(self._store.open(found.record))
        except Corrupt as error:
            about = About(warnings=(error.message,))
        name = found.record.uri.removeprefix(URI_BASE)
        return CorpusEntry(name=name, record=found.record, created_at=found.created_at, about=about, token=found.token)
