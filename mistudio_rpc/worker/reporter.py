"""A worker's line to its service: one thread, a bounded buffer, patience with a service that restarts.

Progress and metrics are merged and sent a few times a second; a report also renews the lease and
brings back whether to stop. What must be durable (artifacts, the outcome) waits for its answer and
is sent again until the service is back, for at most ten minutes.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import grpc
from mistudio.worker.v1 import worker_service_pb2, worker_service_pb2_grpc

from mistudio_core import clock
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import MistudioError, StaleAttempt
from mistudio_core.jobs.records import LogWritten, MetricSampled, ProgressRecord
from mistudio_core.processes import process_start_of
from mistudio_rpc import messages
from mistudio_rpc.channel import open_sync_channel
from mistudio_rpc.status import from_rpc_error

log = logging.getLogger("mistudio.worker")
T = TypeVar("T")
FLUSH_SECONDS = 0.1
HEARTBEAT_SECONDS = 0.5
METRIC_SECONDS = 1.0
CALL_SECONDS = 10.0
GRACE_SECONDS = 600.0
LOST_SECONDS = 5.0
_BUFFER = 500
_BATCH_ITEMS = 200
_BATCH_BYTES = 1024 * 1024
_TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


class Reporter:
    """Reports of one attempt."""

    def __init__(self, target: str, job_id: str, attempt: int, token: str) -> None:
        """Connects lazily; `start` begins reporting."""
        self._channel = open_sync_channel(target)
        self._stub = worker_service_pb2_grpc.WorkerServiceStub(self._channel)
        self._lease = worker_service_pb2.Lease(job_id=job_id, attempt=attempt, token=token)
        self._items: deque[worker_service_pb2.ReportItem] = deque(maxlen=_BUFFER)
        self._progress: ProgressRecord | None = None
        self._metric: MetricSampled | None = None
        self._metric_sent = -METRIC_SECONDS
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._batch = 0
        self._unsent: worker_service_pb2.ReportRequest | None = None
        self._closing = False
        self._checkpointed = False
        self.cancel_requested = False
        self.checkpoint_wanted = False
        self.lost = False
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        """Announces the worker. Raises StaleAttempt."""
        self._attach()
        self._thread.start()

    def progress(self, progress: ProgressRecord) -> None:
        """Overwrites the progress to send next."""
        with self._lock:
            self._progress = progress
        self._wake.set()

    def metric(self, metric: MetricSampled) -> None:
        """Overwrites the figures to send next; they go out at most once a second."""
        with self._lock:
            self._metric = metric

    def log_line(self, line: LogWritten) -> None:
        """Queues a line; the oldest are dropped where too many wait."""
        item = worker_service_pb2.ReportItem(log=messages.log_message(line))
        with self._lock:
            self._items.append(item)
        self._wake.set()

    def commit(self, record: ArtifactRecord) -> None:
        """Records an artifact; returns once that is durable. Raises StaleAttempt, Corrupt."""
        request = worker_service_pb2.CommitArtifactRequest(
            lease=self._lease, artifact=messages.artifact_message(record), folder=record.folder
        )
        wanted = self.checkpoint_wanted
        self._patiently(lambda: self._stub.CommitArtifact(request, timeout=60.0))
        if record.kind == "checkpoint" and wanted:
            self._checkpointed, self.checkpoint_wanted = True, False

    def finish(self, request: worker_service_pb2.FinishRequest) -> None:
        """Sends what is left, then the outcome; returns once that is durable. Raises StaleAttempt."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()  # at most one call's deadline
        try:
            self._flush(final=True)
        except StaleAttempt:
            raise
        except MistudioError as error:
            log.warning("the last report is lost: %s", error.message)  # the outcome must not be
        request.lease.CopyFrom(self._lease)
        self._patiently(lambda: self._stub.Finish(request, timeout=CALL_SECONDS))
        self._channel.close()

    def _attach(self) -> None:
        request = worker_service_pb2.AttachRequest(
            lease=self._lease, pid=os.getpid(), process_start=process_start_of(os.getpid()) or 0
        )
        reply = self._patiently(lambda: self._stub.Attach(request, timeout=CALL_SECONDS))
        self.cancel_requested = reply.cancel_requested
        self._checkpointed = False

    def _run(self) -> None:
        last_contact = last_sent = clock.monotonic()
        unreachable = False
        while not self._closing:
            self._wake.wait(HEARTBEAT_SECONDS)
            self._wake.clear()
            try:
                if unreachable:
                    self._attach()  # the service restarted: announce ourselves before the next report
                    unreachable = False
                self._flush(final=False)
                last_contact = clock.monotonic()
            except StaleAttempt:
                self._lose()
                return
            except MistudioError as error:
                unreachable = error.reason in _TRANSIENT
                if not unreachable:
                    log.warning("a report was refused and is dropped: %s", error.message)
                elif clock.monotonic() - last_contact > GRACE_SECONDS:
                    self._lose()
                    return
            pause = FLUSH_SECONDS - (clock.monotonic() - last_sent)
            if pause > 0 and not self._closing:
                threading.Event().wait(pause)
            last_sent = clock.monotonic()

    def _lose(self) -> None:
        """The job is someone else's now: the main thread gets a moment to stop by itself, then all ends."""
        self.lost = True
        threading.Event().wait(LOST_SECONDS)
        log.warning("ended: this worker lost its job")
        os._exit(0)

    def _flush(self, *, final: bool) -> None:
        """Sends what waits; an empty batch renews the lease.

        A batch whose answer was lost is sent again as it was, before anything newer: the service
        knows it by its number. One that is refused is dropped, so that later ones get through.
        """
        while True:
            request = self._unsent or self._next_batch(final=final)
            if request is None:
                return
            self._unsent = request
            try:
                reply = self._call(functools.partial(self._stub.Report, request, timeout=CALL_SECONDS))
            except MistudioError as error:
                if error.reason not in _TRANSIENT:
                    self._unsent = None
                raise
            self._unsent = None
            self._batch = request.batch
            self.cancel_requested = self.cancel_requested or reply.cancel_requested
            self.checkpoint_wanted = reply.checkpoint_wanted and not self._checkpointed
            with self._lock:
                if not self._items and not (final and (self._progress or self._metric)):
                    return

    def _next_batch(self, *, final: bool) -> worker_service_pb2.ReportRequest | None:
        """The next batch, at most about a MiB; None where the last flush has nothing to send."""
        request = worker_service_pb2.ReportRequest(lease=self._lease, batch=self._batch + 1)
        with self._lock:
            size = 0
            while self._items and len(request.items) < _BATCH_ITEMS and size < _BATCH_BYTES:
                item = self._items.popleft()
                size += item.ByteSize()
                request.items.append(item)
            if self._progress is not None:
                progress = messages.progress_message(self._progress)
                request.items.append(worker_service_pb2.ReportItem(progress=progress))
                self._progress = None
            if self._metric is not None and (final or clock.monotonic() - self._metric_sent >= METRIC_SECONDS):
                request.items.append(worker_service_pb2.ReportItem(metric=messages.metric_message(self._metric)))
                self._metric = None
                self._metric_sent = clock.monotonic()
        return None if final and not request.items else request

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _patiently(self, call: Callable[[], T]) -> T:
        """Repeats a durable call until the service is back. Raises Unavailable after the grace."""
        started = clock.monotonic()
        while True:
            try:
                return self._call(call)
            except MistudioError as error:
                retry = error.reason in _TRANSIENT
                if not retry or clock.monotonic() - started > GRACE_SECONDS:
                    raise
            threading.Event().wait(0.2)
