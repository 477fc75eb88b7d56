"""The query table of a run: a read-only SQLite file in its artifact, with its full-text index.

Holds every record, what reports show of the evidence, and what the run says of itself, so that each
form of the results is made from one file. Owns the schema; what stands in a record is config.py's.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from mistudio_core.artifacts import ArtifactReader
from mistudio_core.corpus.fulltext import TOKENIZER, joined
from mistudio_core.errors import Corrupt, NotFound, Unsupported

TABLE_FILE = "explanations.db"
"""Name of the file in the `explanations` artifact."""
VERSION = 1
"""Of the schema."""
Record = dict[str, Any]
"""An explanation as feature_explanations.json has it."""
_CHARACTERS = 16_384
_DAMAGED = "The explanations cannot be read. Run the Explain job again."
_SCHEMA = f"""
CREATE TABLE about (name TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID;
CREATE TABLE explanations (place INTEGER PRIMARY KEY, feature_id INTEGER UNIQUE, quality REAL, category TEXT,
    safety TEXT, urgency INTEGER, body TEXT);
CREATE TABLE evidence (feature_id INTEGER PRIMARY KEY, body TEXT);
CREATE VIRTUAL TABLE words USING fts5(explanation, keywords, content='', tokenize='{TOKENIZER.replace("'", "''")}');
"""
_URGENCY = {"requires_review": 2, "concerning": 1}
WAITING = "urgency >= 0"
"""Condition: a person should look at it."""


def write_table(
    path: Path,
    about: Mapping[str, Any],
    records: Iterable[Record],
    evidence: Iterable[tuple[int, Mapping[str, Any]]],
) -> None:
    """Writes a new file; `records` best first, `evidence` by feature."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        run = connection.execute
        # the artifact is not visible before it is whole: no journal, no waiting for the disk
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"user_version={VERSION}"):
            run(f"PRAGMA {setting}")
        connection.executescript(_SCHEMA)
        run("BEGIN")
        connection.executemany("INSERT INTO about VALUES (?, ?)", [(k, _dumped(v)) for k, v in about.items()])
        for place, record in enumerate(records):
            run("INSERT INTO explanations VALUES (?, ?, ?, ?, ?, ?, ?)", (place, *_row(record)))
            words = (*record["explanation_keywords"], *record["pattern_keywords"])
            spoken = (joined([record["explanation"]], _CHARACTERS), joined(words, _CHARACTERS))
            run("INSERT INTO words(rowid, explanation, keywords) VALUES (?, ?, ?)", (place, *spoken))
        connection.executemany("INSERT INTO evidence VALUES (?, ?)", [(i, _dumped(b)) for i, b in evidence])
        run("COMMIT")


def _row(record: Record) -> tuple[object, ...]:
    urgency = _URGENCY.get(record["safety_assessment"], 0) if record["flags"] else -1
    # a failure has no quality: it stands below every bound but 0
    quality = -1.0 if record["failure"] else record["explanation_quality"]
    return (
        record["feature_id"],
        quality,
        record["pattern_category"],
        record["safety_assessment"],
        urgency,
        _dumped(record),
    )


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode()


class ExplanationTable:
    """Reads a table. Safe to share between threads: one query at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises Corrupt."""
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False, isolation_level=None
        )
        if self._query("PRAGMA user_version") != [(VERSION,)]:
            raise Corrupt(_DAMAGED)

    @staticmethod
    def of(reader: ArtifactReader) -> ExplanationTable:
        """The table of an `explanations` artifact, verified. Raises Corrupt, Unsupported."""
        if not any(file.name == TABLE_FILE for file in reader.record.files):
            raise Unsupported(
                f"reading the explanations of {reader.record.job_id}",
                why="they were written by an earlier version, without a query table",
                instead="Run the Explain job again.",
            )
        return ExplanationTable(reader.path(TABLE_FILE))

    def __del__(self) -> None:
        """Closes the file with its last user."""
        self._connection.close()

    def about(self, name: str) -> Any:
        """What the run says of itself under a name. Raises Corrupt."""
        rows = self._query("SELECT body FROM about WHERE name = ?", name)
        if not rows:
            raise Corrupt(_DAMAGED)
        return json.loads(rows[0][0])

    def count(self, where: str = "1", *values: object) -> int:
        """Explanations that meet a condition of ours."""
        return int(self._query(f"SELECT count(*) FROM explanations WHERE {where}", *values)[0][0])  # noqa: S608

    def page(self, where: str, values: tuple[object, ...], order: str, start: int, count: int) -> list[Record]:
        """Records that meet a condition of ours, in an order of ours; what callers give stands in `values` alone."""
        text = f"SELECT body FROM explanations WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"  # noqa: S608
        return [json.loads(body) for (body,) in self._query(text, *values, count, start)]

    def places(self, where: str) -> list[tuple[int, float, int]]:
        """(urgency, quality, feature) of what meets a condition of ours."""
        text = f"SELECT urgency, quality, feature_id FROM explanations WHERE {where}"  # noqa: S608
        return [(row[0], row[1], row[2]) for row in self._query(text)]

    def records(self) -> Iterator[Record]:
        """All records, best first."""
        for (body,) in self._query("SELECT body FROM explanations ORDER BY place"):
            yield json.loads(body)

    def record(self, feature_id: int, job_id: str) -> Record:
        """The record of one feature. Raises NotFound (FEATURE_NOT_FOUND)."""
        rows = self._query("SELECT body FROM explanations WHERE feature_id = ?", feature_id)
        if not rows:
            raise NotFound(
                f"Feature {feature_id} was not explained by {job_id}.",
                reason="FEATURE_NOT_FOUND",
                facts={"feature_id": feature_id},
            )
        found: Record = json.loads(rows[0][0])
        return found

    def evidence(self) -> dict[int, dict[str, Any]]:
        """What reports show of the features, by feature."""
        return {i: json.loads(body) for i, body in self._query("SELECT feature_id, body FROM evidence")}

    def search(self, match: str, min_quality: float) -> list[tuple[float, int]]:
        """(score, feature) best first; a lower score is better: SQLite's bm25, keywords counting twice."""
        bound = "AND quality >= ?" if min_quality > 0 else ""
        text = (
            "SELECT bm25(words, 1.0, 2.0), feature_id FROM words JOIN explanations ON place = words.rowid "  # noqa: S608
            f"WHERE words MATCH ? {bound} ORDER BY 1, place"
        )
        return [(row[0], row[1]) for row in self._query(text, match, *([min_quality] if bound else []))]

    def _query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(text, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise Corrupt(_DAMAGED) from error
