"""Live streams of job events: a cursor per watcher over a ring of recent events per job.

The ring holds finished bytes, made once per event whatever the number of watchers. A watcher has
no queue: it reads from the ring, or from the database where it lags behind, so a slow one costs
only itself. Progress is one overwritten slot per job.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence

from mistudio.job.v1 import job_event_pb2, job_service_pb2

from mistudio_core import clock
from mistudio_core.errors import InvalidInput, Unavailable
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import EventRecord, Finished, ProgressRecord
from mistudio_rpc import messages

RING_EVENTS = 512
RING_BYTES = 256 * 1024
_FEEDS = 256
HEARTBEAT_SECONDS = 15.0


class _Feed:
    """Recent events of one job and its latest progress, as bytes."""

    __slots__ = ("changed", "last", "progress", "progress_version", "ring", "size", "watchers")

    def __init__(self, last: int) -> None:
        self.ring: deque[tuple[int, bytes, bool]] = deque()
        self.size = 0  # bytes in the ring
        self.last = last  # sequence of the newest event
        self.progress = b""
        self.progress_version = 0
        self.changed = asyncio.Event()
        self.watchers = 0

    def add(self, sequence: int, encoded: bytes, last: bool) -> None:
        """Appends an event and drops the oldest beyond the limits; a gap empties the ring first."""
        if sequence != self.last + 1:
            self.ring.clear()  # watchers read the database for what is missing
            self.size = 0
        self.ring.append((sequence, encoded, last))
        self.size += len(encoded)
        while len(self.ring) > RING_EVENTS or (self.size > RING_BYTES and len(self.ring) > 1):
            self.size -= len(self.ring.popleft()[1])
        self.last = sequence

    def wake(self) -> None:
        """Wakes every watcher once; each then waits on a fresh event."""
        self.changed.set()
        self.changed = asyncio.Event()

    def after(self, cursor: int) -> list[tuple[int, bytes, bool]] | None:
        """Events after a sequence; None where the ring no longer reaches back that far."""
        if cursor >= self.last:
            return []
        if not self.ring or self.ring[0][0] > cursor + 1:
            return None
        first = self.ring[0][0]
        return [self.ring[i] for i in range(cursor + 1 - first, len(self.ring))]


class WatchHub:
    """All feeds of a control process; runs on its event loop."""

    def __init__(self, queries: JobQueries) -> None:
        """Reads what the rings no longer hold from `queries`."""
        self._queries = queries
        self._feeds: OrderedDict[str, _Feed] = OrderedDict()
        self._closed = False

    def publish(self, events: Sequence[EventRecord]) -> None:
        """Adds committed events, in order."""
        woken: dict[str, _Feed] = {}
        for event in events:
            feed = self._feed(event.job_id, event.sequence - 1)
            if event.sequence <= feed.last:
                continue
            feed.add(event.sequence, _encode(messages.event_message(event)), _is_last(event))
            woken[event.job_id] = feed
            if _is_last(event) and feed.watchers == 0:
                del self._feeds[event.job_id]
        for feed in woken.values():
            feed.wake()

    def publish_progress(self, job_id: str, progress: ProgressRecord) -> None:
        """Overwrites the progress that watchers of a job see."""
        feed = self._feeds.get(job_id)
        if feed is None or feed.watchers == 0:
            return
        event = job_event_pb2.JobEvent(job_id=job_id, time=messages.timestamp(clock.now()))
        event.progress.CopyFrom(messages.progress_message(progress))
        feed.progress = _encode(event)
        feed.progress_version += 1
        feed.wake()

    def close(self) -> None:
        """Ends every watch: clients re-attach elsewhere or later."""
        self._closed = True
        for feed in self._feeds.values():
            feed.wake()

    async def watch(self, job_id: str, after: int) -> AsyncIterator[bytes]:
        """Encoded WatchJobResponse messages. Raises NotFound, InvalidInput (SEQUENCE_OUT_OF_RANGE)."""
        job = await self._queries.get(job_id)
        if after > job.last_sequence:
            raise InvalidInput.field(
                "after_sequence",
                after,
                f"0 to {job.last_sequence}",
                "Attach again with the last sequence that you received.",
                reason="SEQUENCE_OUT_OF_RANGE",
            )
        feed = self._feed(job_id, job.last_sequence)
        feed.watchers += 1
        try:
            snapshot = job_event_pb2.JobEvent(job_id=job_id, time=messages.timestamp(clock.now()))
            snapshot.snapshot.CopyFrom(messages.job_message(job))
            yield _encode(snapshot)
            if job.is_terminal and after == job.last_sequence:
                return  # the caller has had the end already
            async for message in self._follow(job_id, feed, after):
                yield message
        finally:
            feed.watchers -= 1

    async def _follow(self, job_id: str, feed: _Feed, cursor: int) -> AsyncIterator[bytes]:
        seen_progress = feed.progress_version
        while not self._closed:
            changed = feed.changed  # taken before looking: what comes later wakes us
            batch = feed.after(cursor)
            if batch is None:
                batch = [
                    (e.sequence, _encode(messages.event_message(e)), _is_last(e))
                    for e in await self._queries.events_after(job_id, cursor)
                ]
            for sequence, encoded, last in batch:
                yield encoded
                cursor = sequence
                if last:
                    return
            if feed.progress_version != seen_progress:
                seen_progress = feed.progress_version
                yield feed.progress
            elif not batch:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await changed.wait()
                except TimeoutError:
                    yield _heartbeat(job_id)
        raise Unavailable("The service is stopping. Attach again in a moment; no event is lost.")

    def _feed(self, job_id: str, last: int) -> _Feed:
        feed = self._feeds.get(job_id)
        if feed is None:
            self._forget_idle()
            feed = self._feeds[job_id] = _Feed(last)
        else:
            self._feeds.move_to_end(job_id)
        return feed

    def _forget_idle(self) -> None:
        """Keeps the newest feeds, and every one that is watched."""
        for job_id in list(self._feeds):
            if len(self._feeds) < _FEEDS:
                return
            if self._feeds[job_id].watchers == 0:
                del self._feeds[job_id]


def _encode(event: job_event_pb2.JobEvent) -> bytes:
    return job_service_pb2.WatchJobResponse(event=event).SerializeToString()


def _is_last(event: EventRecord) -> bool:
    return isinstance(event.payload, Finished)


def _heartbeat(job_id: str) -> bytes:
    event = job_event_pb2.JobEvent(job_id=job_id, time=messages.timestamp(clock.now()))
    event.heartbeat.SetInParent()
    return _encode(event)
