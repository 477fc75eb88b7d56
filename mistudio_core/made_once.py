"""Artifacts of a job that a control process hands out from what is stored, or makes once.

One is made at a time, the others queue; equal requests wait for the same one. What is finished is stored with the
job, so that the next request begins at once. One that fails leaves nothing. A caller that leaves does not end it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore, ArtifactWriter
from mistudio_core.errors import Corrupt
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.store import JobStore

log = logging.getLogger("mistudio.made_once")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How an artifact is made."""

    write: Callable[[ArtifactWriter], Awaitable[object]]
    """Writes its files; must not hold up the event loop."""
    attempt: int
    """Attempt of the job that the artifact is counted to."""


class MadeOnce:
    """Artifacts of one kind by their URI."""

    def __init__(self, store: ArtifactStore, jobs: JobStore, queries: JobQueries, kind: str) -> None:
        """On the parts of a control process."""
        self._store, self._jobs, self._queries, self._kind = store, jobs, queries, kind
        self._turn = asyncio.Semaphore(1)
        self._making: dict[str, asyncio.Task[ArtifactRecord]] = {}

    async def get(
        self, job_id: str, uri: str, opened: Callable[[ArtifactReader], _T], work: Callable[[], Awaitable[Work]]
    ) -> _T:
        """What `opened` makes of the artifact, in a thread; `work` is asked for where it is not stored.

        Raises what `work` and its `write` raise; Corrupt, DiskFull.
        """
        records = [r for r in await self._queries.artifacts_of(job_id, self._kind) if r.uri == uri]
        if records:
            try:
                return await asyncio.to_thread(lambda: opened(self._store.open(records[-1])))
            except Corrupt as error:  # its files are lost: it can be made again
                log.warning("%s is made again: %s", uri, error.message)
                await self._jobs.forget_artifacts(records)
        record = await self._made(job_id, uri, work)
        return await asyncio.to_thread(lambda: opened(self._store.open(record)))

    async def let_go(self, job_id: str, start: str, *, kept: int) -> None:
        """Removes all but the last `kept` artifacts whose URI begins with `start`."""
        same = [r for r in await self._queries.artifacts_of(job_id, self._kind) if r.uri.startswith(start)]
        old = same[:-kept]
        if old:
            await self._jobs.forget_artifacts(old)
            for record in old:
                await asyncio.to_thread(self._store.remove, record)

    async def _made(self, job_id: str, uri: str, work: Callable[[], Awaitable[Work]]) -> ArtifactRecord:
        task = self._making.get(uri)
        if task is None:
            task = asyncio.create_task(self._make(job_id, uri, work), name=f"making {uri}")
            self._making[uri] = task
            task.add_done_callback(lambda done: self._done(uri, done))
        return await asyncio.shield(task)

    def _done(self, uri: str, task: asyncio.Task[ArtifactRecord]) -> None:
        """Its error is told to who still waits; nobody may."""
        self._making.pop(uri, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s was not made: %s", uri, error)

    async def _make(self, job_id: str, uri: str, work: Callable[[], Awaitable[Work]]) -> ArtifactRecord:
        wanted = await work()
        async with self._turn:
            writer = await asyncio.to_thread(self._store.stage, uri, self._kind, job_id=job_id, attempt=wanted.attempt)
            try:
                await wanted.write(writer)
                record = await asyncio.to_thread(writer.seal)
            except BaseException:
                writer.discard()
                raise
        await self._jobs.add_upload(record)
        return record
