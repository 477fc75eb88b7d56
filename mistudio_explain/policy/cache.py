"""Answers of earlier runs, by everything that matters to them, in one bounded SQLite file.

A hint, never needed: what cannot be read or written is left out. Keys are digests; answers are
stored as they came.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path

from mistudio_core import clock
from mistudio_explain.engines.base import ChatRequest, Reply
from mistudio_explain.engines.table import EngineSettings

FILE = "explain_answers.db"
"""Name of the file in the home's cache folder."""
_VERSION = 1
_MOST_BYTES = 256 * 1024**2
_OVERHEAD_BYTES = 120
_BUSY_SECONDS = 0.05
_DAY_SECONDS = 86_400
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA user_version = {_VERSION};
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, body TEXT NOT NULL, bytes INTEGER NOT NULL,
    used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_use ON answers (used);
"""


def answer_key(settings: EngineSettings, model: str, request: ChatRequest) -> bytes:
    """A digest of the engine, the model and the whole request: what differs in any of them has another key."""
    parts = [
        _VERSION,
        settings.name,
        settings.kind,
        settings.url,
        model,
        request.system,
        request.prompt,
        request.schema,
        request.seed,
        request.temperature,
        request.max_output_tokens,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "replace")).digest()


class AnswerCache:
    """The file, opened; several processes may share it."""

    def __init__(self, folder: Path, *, most_bytes: int = _MOST_BYTES) -> None:
        """Makes folder and file; a damaged file is begun anew."""
        self._most = most_bytes
        self._path = folder / FILE
        self._database: sqlite3.Connection | None = None
        self._bytes = 0
        with contextlib.suppress(OSError, sqlite3.Error):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._open()
            except sqlite3.OperationalError:
                raise  # in use by others, not damaged
            except sqlite3.DatabaseError:
                for path in folder.glob(f"{FILE}*"):
                    path.unlink()
                self._open()

    def _open(self) -> None:
        database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            database.executescript(_SCHEMA)
            self._path.chmod(0o600)
            self._bytes = _total(database)
        except (OSError, sqlite3.Error):
            database.close()
            raise
        self._database = database

    def get(self, key: bytes) -> Reply | None:
        """The answer of this key; None for none."""
        if self._database is None:
            return None
        with contextlib.suppress(sqlite3.Error, ValueError, TypeError):
            row = self._database.execute("SELECT body, used FROM answers WHERE key = ?", (key,)).fetchone()
            if row is not None:
                today = _today()
                if row[1] != today:
                    self._database.execute("UPDATE answers SET used = ? WHERE key = ?", (today, key))
                return Reply(**json.loads(row[0]), cached=True)
        return None

    def put(self, key: bytes, reply: Reply) -> None:
        """Keeps an answer; those that were not used for longest give way to it."""
        if self._database is None:
            return
        tokens = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        body = json.dumps({"text": reply.text, "model": reply.model, **tokens})
        size = len(body) + _OVERHEAD_BYTES
        with contextlib.suppress(sqlite3.Error):
            today = _today()
            self._database.execute("REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, body, size, today))
            self._bytes += size
            if self._bytes > self._most:
                self._bytes = _shrink(self._database, int(0.9 * self._most))

    def close(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _today() -> int:
    """Days since 1970."""
    return int(clock.now().timestamp() // _DAY_SECONDS)


def _shrink(database: sqlite3.Connection, most: int) -> int:
    """Down to so many bytes, those that were not used for longest first; gives what is left."""
    excess, keys = _total(database) - most, []
    for key, size in database.execute("SELECT key, bytes FROM answers ORDER BY used"):
        if excess <= 0:
            break
        excess -= size
        keys.append((key,))
    database.executemany("DELETE FROM answers WHERE key = ?", keys)
    return _total(database)


def _total(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT coalesce(sum(bytes), 0) FROM answers").fetchone()[0])
