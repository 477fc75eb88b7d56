"""The client of programs and of the CLI: typed stubs behind one interceptor, and a watch that re-attaches.

The interceptor adds the bearer token and a deadline, raises what the server raised, and repeats a
call on UNAVAILABLE where the contract calls it idempotent, inside the caller's deadline. This is
the one place that retries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
import tenacity
from mistudio.artifact.v1 import artifact_pb2, artifact_service_pb2, artifact_service_pb2_grpc
from mistudio.explain.v1 import explain_service_pb2_grpc
from mistudio.find.v1 import find_service_pb2_grpc
from mistudio.job.v1 import job_event_pb2, job_service_pb2, job_service_pb2_grpc
from mistudio.train.v1 import train_service_pb2, train_service_pb2_grpc

from mistudio_core import clock
from mistudio_core.errors import InvalidInput, MistudioError, Unavailable
from mistudio_core.secret import Secret
from mistudio_rpc.channel import Tls, open_sync_channel
from mistudio_rpc.contract import installed
from mistudio_rpc.status import from_rpc_error

CALL_SECONDS = 30.0
STREAM_SECONDS = 3600.0
WAIT_TOLD_SECONDS = 1.0
CHUNK_BYTES = 1024 * 1024


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _CallDetails(_Details, grpc.ClientCallDetails):
    """Details of one call with our deadline and token."""


class _Guard(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Token, deadline, errors, retries."""

    def __init__(self, token: Secret | None, timeout: float) -> None:
        self._token = token
        self._timeout = timeout

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        ends = clock.monotonic() + (details.timeout or self._timeout)
        method = installed().methods.get(details.method)
        idempotent = method is not None and method.policy is not None and method.policy.idempotent

        def attempt() -> Any:
            left = ends - clock.monotonic()
            call = continuation(self._details(details, max(left, 0.001)), request)
            try:
                call.result()
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
            return call

        if not idempotent:
            return attempt()
        return _retrying(ends)(attempt)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(self._details(details, details.timeout or STREAM_SECONDS), request)

    def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, request_iterator: Any) -> Any:
        call = continuation(self._details(details, details.timeout or STREAM_SECONDS), request_iterator)
        try:
            call.result()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return call

    def _details(self, details: Any, timeout: float) -> _CallDetails:
        metadata = list(details.metadata or ())
        if self._token:
            metadata.append(("authorization", f"Bearer {self._token.reveal()}"))
        return _CallDetails(details.method, timeout, metadata, details.credentials, None, details.compression)


def _retrying(ends: float) -> tenacity.Retrying:
    """Jittered retries on UNAVAILABLE until a moment of the monotonic clock."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, Unavailable) and e.reason == "UNAVAILABLE"),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
        stop=lambda state: clock.monotonic() + state.upcoming_sleep > ends or state.attempt_number >= 8,
        reraise=True,
    )


def _is_end(event: job_event_pb2.JobEvent, cursor: int) -> bool:
    """Whether nothing follows: the terminal event, or a snapshot of an ended job whose events we had."""
    if event.WhichOneof("event") == "snapshot":
        return bool(event.snapshot.completed_at.seconds) and event.snapshot.last_sequence <= cursor
    return event.WhichOneof("event") == "finished"


class Client:
    """A connection to miStudio: the gateway, or a service."""

    def __init__(
        self,
        target: str,
        token: Secret | None = None,
        *,
        tls: Tls | None = None,
        timeout: float = CALL_SECONDS,
        find_target: Callable[[], str | None] = lambda: None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        """`timeout` is the deadline of a unary call that sets none, seconds.

        A watch that lost its contact calls `on_wait` once a break and `find_target` at every try:
        miStudio may come back at another address.
        """
        self._token, self._tls, self._timeout = token, tls, timeout
        self._find_target, self._on_wait = find_target, on_wait
        self._moving = threading.Lock()
        self._connect(target)

    def _connect(self, target: str) -> None:
        self._target = target
        self._channel = open_sync_channel(target, self._tls)
        channel = grpc.intercept_channel(self._channel, _Guard(self._token, self._timeout))
        self.jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self.artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        self.train = train_service_pb2_grpc.TrainServiceStub(channel)
        self.find = find_service_pb2_grpc.FindServiceStub(channel)
        self.explain = explain_service_pb2_grpc.ExplainServiceStub(channel)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def watch(self, job_id: str, after: int = 0, *, patience: float = 600.0) -> Iterator[job_event_pb2.JobEvent]:
        """Events of a job until its terminal one; re-attaches by itself.

        Durable events come once each and in order, whatever breaks in between. Raises what the
        server raises (NotFound, ...), and Unavailable after `patience` seconds without contact.
        """
        cursor, last_contact, pause, told = after, clock.monotonic(), 0.1, False
        while True:
            try:
                for event in self._attach(job_id, cursor):
                    last_contact, pause, told = clock.monotonic(), 0.1, False
                    if 0 < event.sequence <= cursor:
                        continue
                    cursor = max(cursor, event.sequence)
                    yield event
                    if _is_end(event, cursor):
                        return
            except MistudioError as error:
                transient = error.reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
                if not transient or clock.monotonic() - last_contact > patience:
                    raise
            if not told and clock.monotonic() - last_contact > WAIT_TOLD_SECONDS:
                told = True
                self._on_wait()
            self._follow_move()
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _follow_move(self) -> None:
        """Connects to where miStudio is now; the old connection is left to those who still use it."""
        with self._moving:
            target = self._find_target()
            if target and target != self._target:
                self._connect(target)

    def _attach(self, job_id: str, after: int) -> Iterator[job_event_pb2.JobEvent]:
        request = job_service_pb2.WatchJobRequest(job_id=job_id, after_sequence=after)
        call = self.jobs.WatchJob(request)
        try:
            for response in call:
                yield response.event
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    def upload_corpus(
        self,
        path: Path,
        *,
        name: str = "",
        header: train_service_pb2.UploadHeader | None = None,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> train_service_pb2.UploadCorpusResponse:
        """Uploads a file in chunks, stored under `name` or its own; `header` says how it is read.

        `on_bytes` hears how many bytes were sent so far. Raises InvalidInput and what the server raises.
        """
        if not path.is_file():
            raise InvalidInput.field(
                "corpus_file", str(path), "a readable text file", "Check the path.", reason="CORPUS_NOT_FOUND"
            )

        with path.open("rb") as handle:
            coming = train_service_pb2.UploadHeader(filename=path.name, name=name, size_bytes=path.stat().st_size)
            if header is not None:
                coming.MergeFrom(header)
            return self.upload_pieces(coming, iter(lambda: handle.read(CHUNK_BYTES), b""), on_bytes=on_bytes)

    def upload_pieces(
        self,
        header: train_service_pb2.UploadHeader,
        pieces: Iterable[bytes],
        *,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> train_service_pb2.UploadCorpusResponse:
        """Uploads bytes that are made while they are sent; each piece has at most 1 MiB.

        What `pieces` raises ends the upload, of which nothing is kept, and is raised here.
        """
        failure: list[Exception] = []

        def parts() -> Iterator[train_service_pb2.UploadCorpusRequest]:
            yield train_service_pb2.UploadCorpusRequest(header=header)
            offset = 0
            try:
                for data in pieces:
                    yield train_service_pb2.UploadCorpusRequest(chunk=artifact_pb2.Chunk(offset=offset, data=data))
                    offset += len(data)
                    on_bytes(offset)
            except Exception as error:
                failure.append(error)
                # a message that breaks the contract's rule: no end of the stream is taken for the end of the file
                yield train_service_pb2.UploadCorpusRequest()

        try:
            return self.train.UploadCorpus(parts())
        except MistudioError:
            if failure:
                raise failure[0] from None
            raise

    def download(self, uri: str, target: Path) -> Path:
        """Saves one file of an artifact, named by its logical path; goes on after a broken connection."""
        part = target.with_name(target.name + ".part")
        part.unlink(missing_ok=True)

        def fetch() -> None:
            have = part.stat().st_size if part.exists() else 0
            request = artifact_service_pb2.ReadArtifactRequest(uri=uri, offset=have)
            try:
                with part.open("ab") as handle:
                    for response in self.artifacts.ReadArtifact(request):
                        if response.WhichOneof("part") == "chunk":
                            handle.write(response.chunk.data)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error

        _retrying(clock.monotonic() + STREAM_SECONDS)(fetch)
        part.replace(target)
        return target
