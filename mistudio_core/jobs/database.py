"""The SQLite file: one writer thread with group commit, a small pool of readers.

Every write is a function of a `Transaction`; waiting writes share one fsynced commit, each in its
own savepoint, so that a refused one changes nothing and costs the others nothing. A future is
resolved only after the commit. Nothing here knows what a job is.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from mistudio_core.errors import Corrupt, MistudioError, Unavailable
from mistudio_core.jobs.records import EventRecord

T = TypeVar("T")
_GROUP = 64
_QUEUE = 10_000
_BUSY_SECONDS = 5.0


class Transaction:
    """What one write sees: the connection, and a list of events that are published after the commit."""

    def __init__(self, connection: sa.Connection) -> None:
        """Made by the writer thread."""
        self.connection = connection
        self.events: list[EventRecord] = []


Listener = Callable[[Sequence[EventRecord]], None]
_Write = tuple[Callable[[Transaction], Any], "Future[Any]"]


def open_engine(path: Path) -> sa.Engine:
    """An engine on the file: WAL, synchronous=FULL, explicit transactions. Raises Corrupt for a damaged file."""
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False})

    @sa_event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, so that a write lock is taken at once
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA busy_timeout={int(_BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA cache_size=-4096")

    @sa_event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN")

    return engine


def check_database(engine: sa.Engine) -> None:
    """Runs SQLite's quick check. Raises Corrupt."""
    try:
        with engine.connect() as connection:
            verdict = connection.exec_driver_sql("PRAGMA quick_check").scalar()
    except sa.exc.DatabaseError as error:
        raise Corrupt("The job database is damaged. Restore mistudio.db from a backup.") from error
    if verdict != "ok":
        raise Corrupt("The job database is damaged. Restore mistudio.db from a backup.", facts={"quick_check": verdict})


class Database:
    """Reads and writes; close it when done."""

    def __init__(self, path: Path) -> None:
        """Opens the file and starts the writer thread; the schema must be in place (`migrate`)."""
        self._engine = open_engine(path)
        self._queue: queue.Queue[_Write | None] = queue.Queue(_QUEUE)
        self._listener: Listener = lambda events: None
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="db-read")
        self._writer = threading.Thread(target=self._run, name="db-write", daemon=True)
        self._closed = False
        self._writer.start()

    def on_commit(self, listener: Listener) -> None:
        """Sets who is told the events, in order, after each commit, in the writer thread."""
        self._listener = listener

    def write(self, operation: Callable[[Transaction], T]) -> Future[T]:
        """Queues a write; the future resolves after its commit, or raises what the operation raised."""
        future: Future[T] = Future()
        if self._closed:
            future.set_exception(Unavailable("The service is stopping."))
            return future
        try:
            self._queue.put_nowait((operation, future))
        except queue.Full:
            future.set_exception(Unavailable("The service has too many writes waiting. Try again in a second."))
        return future

    def read(self, operation: Callable[[sa.Connection], T]) -> Future[T]:
        """Runs a read in the pool."""
        return self._readers.submit(self._read, operation)

    def close(self) -> None:
        """Finishes queued writes, then closes the file."""
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._engine.dispose()

    def _read(self, operation: Callable[[sa.Connection], T]) -> T:
        try:
            with self._engine.connect() as connection, connection.begin():
                return operation(connection)
        except sa.exc.OperationalError as error:
            raise _unavailable(error) from error

    def _run(self) -> None:
        stopping = False
        while not stopping:
            batch: list[_Write] = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= _GROUP or self._queue.empty():
                    break
                item = self._queue.get()
            stopping = item is None
            # from here on nobody can cancel them; who left before is not served
            wanted = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
            if wanted:
                self._commit(wanted)

    def _commit(self, batch: list[_Write]) -> None:
        """Runs a batch in one transaction and resolves its futures after the commit."""
        done: list[tuple[Future[Any], Any, BaseException | None]] = []
        events: list[EventRecord] = []
        try:
            with self._engine.connect().execution_options(write=True) as connection, connection.begin():
                for operation, future in batch:
                    transaction = Transaction(connection)
                    try:
                        with connection.begin_nested():
                            value = operation(transaction)
                    except (MistudioError, sa.exc.IntegrityError, ValueError, KeyError, TypeError) as error:
                        done.append((future, None, error))
                        continue
                    done.append((future, value, None))
                    events.extend(transaction.events)
        except sa.exc.OperationalError as error:
            for _, future in batch:
                future.set_exception(_unavailable(error))
            return
        except Exception as error:  # the thread must live; every caller learns of it
            for _, future in batch:
                future.set_exception(error)
            return
        self._listener(events)
        for future, value, refusal in done:
            if refusal is None:
                future.set_result(value)
            else:
                future.set_exception(refusal)


def _unavailable(error: sa.exc.OperationalError) -> Unavailable:
    reason = "locked by another process" if "locked" in str(error) else "not usable"
    if "full" in str(error):
        reason = "on a full disk"
    return Unavailable(f"The job database is {reason}. Try again; if it stays so, see `mistudio status`.")
