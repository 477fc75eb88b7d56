"""What a control process holds: database, artifact store, watch hub, devices, settings.

Servicers get a Runtime and nothing else. `start_job` is how a servicer turns a checked request
into a job; `result_of` and `open_artifact` are how it answers about one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from google.protobuf.message import Message

import mistudio_core
from mistudio_core import ids
from mistudio_core.artifacts import ArtifactReader, ArtifactRecord, ArtifactStore
from mistudio_core.artifacts.files import disk_errors
from mistudio_core.errors import NotFound, NotReady
from mistudio_core.home import Home
from mistudio_core.jobs.database import Database
from mistudio_core.jobs.migrations import migrate
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import (
    COMPLETED,
    TERMINAL,
    EventRecord,
    Finished,
    JobRecord,
    NewJob,
    StateChanged,
)
from mistudio_core.jobs.store import JobStore, UsersElsewhere, nobody, request_id_reused
from mistudio_core.jobs.worker_store import WorkerStore
from mistudio_core.secret import Secret, read_sealed, write_sealed
from mistudio_rpc import messages
from mistudio_rpc.devices import DevicePool
from mistudio_rpc.peers import PeerConfig, PeerQueries, Peers
from mistudio_rpc.watch import WatchHub

M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Runtime:
    """The shared parts of a control process."""

    home: Home
    """Where everything is kept."""
    database: Database
    """The job database."""
    devices: DevicePool
    """The machine's devices."""
    services: Sequence[str] = ()
    """Names of the services that this process hosts."""
    peers: Peers | None = None
    """Other control processes of the installation; None where this one hosts every service."""
    draining: bool = False
    """Whether the process is stopping."""
    ending: bool = False
    """Whether workers end with this process, soon: they are asked for a checkpoint."""
    jobs: JobStore = field(init=False)
    """State changes."""
    worker_jobs: WorkerStore = field(init=False)
    """Reports of workers."""
    queries: JobQueries = field(init=False)
    """Reads."""
    artifacts: ArtifactStore = field(init=False)
    """Files."""
    users_elsewhere: UsersElsewhere = field(init=False)
    """Asks which jobs of other control processes build on something of this one's."""
    hub: WatchHub = field(init=False)
    """Live watches."""
    parts: dict[str, object] = field(default_factory=dict)
    """What a service keeps for the life of the process, by a name of its own."""
    on_finished: list[Callable[[str], None]] = field(default_factory=list)
    """Told the id of every job that ended here, right after the commit."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the dispatcher should look again."""
    version: str = mistudio_core.__version__
    """Version of miStudio."""

    def __post_init__(self) -> None:
        """Connects the parts: a commit reaches the hub and the dispatcher."""
        self.users_elsewhere = nobody if self.peers is None else self.peers.users
        self.jobs = JobStore(self.database, self.users_elsewhere)
        self.worker_jobs = WorkerStore(self.database)
        self.queries = JobQueries(self.database) if self.peers is None else PeerQueries(self.database, self.peers)
        self.artifacts = ArtifactStore(self.home.artifacts, self.home.area(self.services))
        self.hub = WatchHub(JobQueries(self.database))
        loop = asyncio.get_running_loop()

        def committed(events: Sequence[EventRecord]) -> None:
            if events:
                loop.call_soon_threadsafe(self._published, events)

        self.database.on_commit(committed)

    @staticmethod
    async def open(
        home: Home,
        *,
        devices: DevicePool | None = None,
        services: Sequence[str] = (),
        peers: PeerConfig | None = None,
    ) -> Runtime:
        """Migrates and opens the installation's database. Raises Corrupt."""
        await asyncio.to_thread(migrate, home.database)
        others = Peers(peers, home.token) if peers is not None else None
        return Runtime(home, Database(home.database), devices or DevicePool(), services, others)

    async def close(self) -> None:
        """Ends watches and closes the database after its last write."""
        self.hub.close()
        if self.peers is not None:
            await self.peers.close()
        await asyncio.to_thread(self.database.close)

    def _published(self, events: Sequence[EventRecord]) -> None:
        self.hub.publish(events)
        for event in events:
            if isinstance(event.payload, Finished):
                self.forget_secrets(event.job_id)
                for tell in self.on_finished:
                    tell(event.job_id)
            if isinstance(event.payload, StateChanged):
                self.wake.set()

    async def started(self, service: str, request: Message) -> JobRecord | None:
        """The job that the same request with the same request_id started before; None for none.

        Asked before any check: a start that was accepted stays accepted, whatever changed since.
        Raises InvalidInput (REQUEST_ID_REUSED).
        """
        request_id = str(getattr(request, "request_id", ""))
        found = await self.queries.started(service, request_id) if request_id else None
        if found is None:
            return None
        job, digest = found
        if digest != messages.body_sha256(request):
            raise request_id_reused(request_id, job.job_id)
        return job

    async def start_job(
        self, new: NewJob, *, secrets: Mapping[str, Secret] | None = None, wait_for: JobRecord | None = None
    ) -> tuple[JobRecord, bool]:
        """Records a job; (job, whether it is new). Secrets are sealed before the job can be seen.

        `wait_for` is the job it builds on: unless that has completed, the job starts after it.
        """
        if wait_for is not None and wait_for.status != COMPLETED:
            new = replace(new, start_after=wait_for.job_id)
        given = {k: v.reveal() for k, v in (secrets or {}).items() if v}
        if not given:
            return await self.jobs.start(new)
        # shielded: a caller that leaves must not come between the sealed file and its job
        return await asyncio.shield(self._start_sealed(new, given))

    async def _start_sealed(self, new: NewJob, given: dict[str, str]) -> tuple[JobRecord, bool]:
        new = replace(new, job_id=ids.new_job_id(new.service))
        path = self.home.secrets / f"{new.job_id}.json"
        fresh = False
        try:
            with disk_errors(self.home.secrets, "a secret of the job"):
                await asyncio.to_thread(write_sealed, path, Secret(json.dumps(given)))
            job, fresh = await self.jobs.start(new)
        finally:
            if not fresh:
                path.unlink(missing_ok=True)
        return job, fresh

    def secrets_of(self, job_id: str) -> dict[str, str]:
        """The sealed secrets of a job; empty for none."""
        sealed = read_sealed(self.home.secrets / f"{job_id}.json")
        return dict(json.loads(sealed.reveal())) if sealed else {}

    def forget_secrets(self, job_id: str) -> None:
        """Removes the sealed file of a job that has ended."""
        (self.home.secrets / f"{job_id}.json").unlink(missing_ok=True)

    async def completed(self, job_id: str, service: str) -> JobRecord:
        """A completed job of a service. Raises NotFound, NotReady."""
        job = await self.queries.get(job_id, service)
        if job.status != COMPLETED:
            raise not_ready(job)
        return job

    async def result_of(self, job_id: str, service: str, make: Callable[[bytes], M]) -> tuple[JobRecord, M]:
        """(completed job, its result message). Raises NotFound, NotReady."""
        job = await self.completed(job_id, service)
        return job, make(job.result or b"")

    async def open_artifact(self, job_id: str, kind: str) -> ArtifactReader:
        """Opens the newest artifact of a kind that a job wrote. Raises NotFound, Corrupt."""
        return await asyncio.to_thread(self.artifacts.open, await self.artifact_of(job_id, kind))

    async def artifact_of(self, job_id: str, kind: str) -> ArtifactRecord:
        """The newest artifact of a kind that a job wrote. Raises NotFound."""
        records = await self.queries.artifacts_of(job_id, kind)
        if not records:
            raise NotFound(
                f"Job {job_id} has no artifact of kind {kind}.", reason="ARTIFACT_NOT_FOUND", facts={"job_id": job_id}
            )
        return records[-1]


def not_ready(job: JobRecord) -> NotReady:
    """The error for asking a job for what only a completed one has."""
    if job.status in TERMINAL:
        why = f" ({job.error.message})" if job.error else ""
        text = f"Job {job.job_id} {job.status} and has no result{why}. Start it again."
    else:
        text = f"Job {job.job_id} is {job.status}. Wait until it completes: `mistudio jobs watch {job.job_id}`."
    return NotReady(text, facts={"job_id": job.job_id, "status": job.status})
