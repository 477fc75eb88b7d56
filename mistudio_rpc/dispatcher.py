"""Gives queued jobs to workers, and keeps the truth true: the reconcile loop of a control process.

The database decides; processes and sockets are hints. At start, workers of an earlier process are
adopted by their process start time; every ended worker, missing input, paused job and overdue
cancel is settled here. One bad job fails itself, never the loop.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import shutil
from collections.abc import Coroutine, Sequence
from typing import Any

from mistudio_core import clock
from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import MistudioError, Unavailable
from mistudio_core.jobs.records import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    AttemptRecord,
    DeviceRequest,
    ErrorRecord,
    JobRecord,
)
from mistudio_core.jobs.store import Claim
from mistudio_rpc.devices import DeviceLease
from mistudio_rpc.launcher import Ended, Launcher, Worker
from mistudio_rpc.registry import ServiceEntry
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.sweep import sweep

log = logging.getLogger("mistudio.dispatcher")
TICK_SECONDS = 1.0
CANCEL_SECONDS = 8.0
"""How long a worker has to stop by itself before it is killed: cancel takes effect within 10 s."""
RETRY_SECONDS = 2.0
"""Wait between attempts that made no progress."""
PAUSE_SECONDS = 5.0
"""Least time that a job stays paused; doubles each time."""
LONGEST_PAUSE_SECONDS = 300.0
RESERVE_BYTES = 64 * 1024 * 1024
"""Free space that a job paused by a full disk needs to go on."""
KEPT_CHECKPOINTS = 2
_CHECKPOINT_LOOK_SECONDS = 0.05


class Dispatcher:
    """Runs the jobs of the services that a control process hosts."""

    def __init__(
        self,
        runtime: Runtime,
        entries: Sequence[ServiceEntry],
        launcher: Launcher,
        target: str,
        *,
        after_crash: bool = False,
    ) -> None:
        """`target` is where workers report to; it must stay the same over restarts.

        `after_crash`: the control process before this one ended without being asked to.
        """
        self._after_crash = after_crash
        self._runtime = runtime
        self._entries = {e.name: e for e in entries}
        self._launcher = launcher
        self._target = target
        self._workers: dict[tuple[str, int], Worker] = {}
        self._cancel_deadline: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._pauses: dict[str, tuple[int, float]] = {}
        self._ends: dict[tuple[str, int], Ended] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Adopts living workers, settles dead ones, and begins the loop."""
        for attempt in await self._runtime.queries.running_attempts(list(self._entries)):
            self._adopt(attempt)
        await sweep(self._runtime, staging=not self._workers)
        self._task = asyncio.create_task(self._loop(), name="dispatcher")

    async def checkpointed(self, seconds: float) -> None:
        """Asks workers for a checkpoint; returns once every job that has one has a newer one, or after `seconds`."""
        self._runtime.ending = True
        names, ends = list(self._entries), clock.monotonic() + seconds
        before = {j.job_id: j.last_checkpoint for j in await self._runtime.queries.with_status(names, RUNNING)}
        waiting = {job_id for job_id, last in before.items() if last}
        while waiting and clock.monotonic() < ends:
            await asyncio.sleep(_CHECKPOINT_LOOK_SECONDS)
            now = {j.job_id: j.last_checkpoint for j in await self._runtime.queries.with_status(names, RUNNING)}
            waiting = {job_id for job_id in waiting if now.get(job_id) == before[job_id]}

    async def stop(self) -> None:
        """Ends the loop; workers go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._launcher.close()

    async def _loop(self) -> None:
        while True:
            self._runtime.wake.clear()
            try:
                await self._look()
            except MistudioError as error:
                log.warning("reconcile: %s", error.message)
            except Exception:  # the loop must live; the next look tries again
                log.exception("reconcile failed")
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._runtime.wake.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        for key, ended in list(self._ends.items()):
            await self._guarded(key[0], self._ended(key, ended))
        open_jobs = await self._runtime.queries.with_status(list(self._entries), QUEUED, RUNNING, PAUSED)
        full: set[tuple[DeviceRequest, bool]] = set()
        for job in open_jobs:
            await self._guarded(job.job_id, self._settle(job, full))

    async def _guarded(self, job_id: str, work: Coroutine[None, None, None]) -> None:
        """One bad job fails itself; what could not be done now is tried at the next look."""
        try:
            await work
        except MistudioError as error:
            log.warning("%s: %s", job_id, error.message)
        except Exception:
            log.exception("job %s cannot be settled", job_id)

    async def _settle(self, job: JobRecord, full: set[tuple[DeviceRequest, bool]]) -> None:
        key = (job.job_id, job.attempt)
        if job.status == QUEUED:
            await self._try_start(job, full)
        elif job.status == PAUSED:
            await self._try_resume(job)
        elif key not in self._workers and key not in self._ends:
            self._on_end(key, Ended(code=None, out_of_memory=False))  # running, and nobody has it
        elif job.cancel_requested:
            self._enforce_cancel(job)

    async def _try_start(self, job: JobRecord, full: set[tuple[DeviceRequest, bool]]) -> None:
        if self._runtime.draining or clock.monotonic() < self._not_before.get(job.job_id, 0.0):
            return
        if not await self._upstream_done(job):
            return
        entry = self._entries[job.service]
        wish = (job.device_request, entry.wants_gpu)
        lease = None
        if wish not in full:
            lease = await asyncio.to_thread(self._runtime.devices.acquire, wish[0], wants_gpu=wish[1])
        if lease is None:
            full.add(wish)
            await self._explain_wait(job, "waits for a free device; jobs run one after the other on each")
            return
        try:
            await self._launch(job, entry, lease)
        finally:
            lease.release()

    async def _upstream_done(self, job: JobRecord) -> bool:
        if not job.start_after:
            return True
        try:
            upstream = await self._runtime.queries.get(job.start_after)
        except Unavailable:
            await self._explain_wait(job, f"waits for {job.start_after}, whose service does not answer")
            return False
        if upstream.status == COMPLETED:
            return True
        if upstream.status in (FAILED, CANCELLED):
            why = f"failed: {upstream.error.message}" if upstream.error else f"was {upstream.status}."
            text = f"It waited for {upstream.job_id}, which {why}"
            await self._runtime.jobs.fail(
                job.job_id, ErrorRecord(reason="UPSTREAM_FAILED", message=text, facts={"job_id": upstream.job_id})
            )
            return False
        await self._explain_wait(job, f"waits for {upstream.job_id}")
        return False

    async def _explain_wait(self, job: JobRecord, reason: str) -> None:
        if job.queue_reason != reason:
            await self._runtime.jobs.set_queue_reason(job.job_id, reason)

    async def _launch(self, job: JobRecord, entry: ServiceEntry, lease: DeviceLease) -> None:
        try:
            inputs = await self._inputs(job)
        except Unavailable:
            await self._explain_wait(job, "waits for a service that keeps its input and does not answer")
            return
        except MistudioError as error:
            record = ErrorRecord(reason=error.reason, message=error.message, facts=error.facts)
            await self._runtime.jobs.fail(job.job_id, record)
            return
        claim = await self._runtime.jobs.claim(job.job_id, lease.device)
        if claim is None:
            return
        key = (job.job_id, claim.job.attempt)
        try:
            spec = await self._spec(claim, entry, inputs, lease.device)
            worker = self._launcher.start(spec, lease)
        except Exception:
            log.exception("no worker could be started for %s", job.job_id)
            self._on_end(key, Ended(code=1, out_of_memory=False))
            return
        self._workers[key] = worker
        self._launcher.on_end(worker, lambda ended: self._on_end(key, ended))
        await self._runtime.jobs.set_process(*key, worker.pid, worker.process_start)
        self._launcher.warm()

    async def _inputs(self, job: JobRecord) -> dict[str, ArtifactRecord]:
        inputs = {}
        for role, reference in job.inputs.items():
            if reference.uri:
                inputs[role] = await self._runtime.queries.artifact(reference.uri, reference.sha256)
                continue
            records = await self._runtime.queries.artifacts_of(reference.job_id, reference.kind)
            inputs[role] = reference.chosen(records)
        return inputs

    async def _spec(
        self, claim: Claim, entry: ServiceEntry, inputs: dict[str, ArtifactRecord], device: str
    ) -> dict[str, Any]:
        job = claim.job
        written = await self._runtime.queries.artifacts_of(job.job_id)
        checkpoints = [record for record in written if record.kind == "checkpoint"]
        home = self._runtime.home
        return {
            "job_id": job.job_id,
            "attempt": job.attempt,
            "token": claim.token,
            "target": self._target,
            "worker": entry.worker,
            "request": base64.b64encode(job.request).decode(),
            "device": device,
            "home": str(home.root),
            "area": self._runtime.artifacts.area,
            "scratch": str(home.scratch / job.job_id / str(job.attempt)),
            "log_file": str(home.logs / "jobs" / f"{job.job_id}.{job.attempt}.log"),
            "inputs": {role: _plain(record) for role, record in inputs.items()},
            "checkpoints": [_plain(record) for record in reversed(checkpoints)],
            "committed": [_plain(record) for record in written if record.kind != "checkpoint"],
            "secrets": self._runtime.secrets_of(job.job_id),
        }

    def _adopt(self, attempt: AttemptRecord) -> None:
        key = (attempt.job_id, attempt.attempt)
        worker = self._launcher.adopt(attempt.pid, attempt.process_start)
        if worker is None:
            self._on_end(key, Ended(code=None, out_of_memory=False, with_service=self._after_crash))
            return
        log.info("adopted the worker of %s (pid %d)", attempt.job_id, attempt.pid)
        self._workers[key] = worker
        self._launcher.on_end(worker, lambda ended: self._on_end(key, ended))

    def _on_end(self, key: tuple[str, int], ended: Ended) -> None:
        """Notes that a worker is gone; the loop settles its job, as often as it takes."""
        self._ends[key] = ended
        self._runtime.wake.set()

    async def _ended(self, key: tuple[str, int], ended: Ended) -> None:
        """Settles a job whose worker's process is gone, with or without its final report."""
        job_id, attempt = key
        reason = "OUT_OF_MEMORY" if ended.out_of_memory else "WORKER_DIED"
        job = await self._runtime.jobs.end_attempt(
            job_id, attempt, counts=not ended.killed_from_outside, reason=reason, message=ended.message
        )
        del self._ends[key]
        self._workers.pop(key, None)
        self._cancel_deadline.pop(job_id, None)
        scratch = self._runtime.home.scratch / job_id
        await asyncio.to_thread(shutil.rmtree, scratch if job.is_terminal else scratch / str(attempt), True)
        if job.status == QUEUED and not ended.killed_from_outside:
            self._not_before[job_id] = clock.monotonic() + RETRY_SECONDS * job.fruitless_attempts
        if job.is_terminal:
            self._not_before.pop(job_id, None)
            self._pauses.pop(job_id, None)
        self._runtime.wake.set()

    def _enforce_cancel(self, job: JobRecord) -> None:
        deadline = self._cancel_deadline.setdefault(job.job_id, clock.monotonic() + CANCEL_SECONDS)
        worker = self._workers.get((job.job_id, job.attempt))
        if worker is not None and clock.monotonic() > deadline:
            log.warning("worker of %s did not stop in %.0f s and is killed", job.job_id, CANCEL_SECONDS)
            worker.kill()

    async def _try_resume(self, job: JobRecord) -> None:
        """Longer pauses the more often it paused: how much space it needs is not known."""
        times, since = self._pauses.setdefault(job.job_id, (0, clock.monotonic()))
        wait = min(PAUSE_SECONDS * 2**times, LONGEST_PAUSE_SECONDS)
        free = shutil.disk_usage(self._runtime.home.root).free
        if since and clock.monotonic() - since >= wait and free >= RESERVE_BYTES:
            self._pauses[job.job_id] = (times + 1, 0.0)
            await self._runtime.jobs.requeue(job.job_id)
        elif not since:
            self._pauses[job.job_id] = (times, clock.monotonic())

    async def prune_checkpoints(self, job_id: str) -> None:
        """Removes checkpoints older than the newest two: the row first, then the files."""
        records = await self._runtime.queries.artifacts_of(job_id, "checkpoint")
        old = records[:-KEPT_CHECKPOINTS]
        if old:
            await self._runtime.jobs.forget_artifacts(old)
            for record in old:
                await asyncio.to_thread(self._runtime.artifacts.remove, record)


def _plain(record: ArtifactRecord) -> dict[str, str]:
    return {"manifest": record.manifest().decode(), "folder": record.folder, "sha256": record.sha256}
