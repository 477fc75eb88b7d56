"""The query table of an analysis: a read-only SQLite file in its artifact.

`TableWriter` fills it once, from records in the order of the analysis; `FeatureTable` selects and
searches. Owns the schema; what callers may ask for stands in fields.py, how they ask in filters.py.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from mistudio_core import clock
from mistudio_core.corpus.fulltext import TOKENIZER, joined
from mistudio_core.errors import Corrupt, LimitReached
from mistudio_find.fields import ASSOCIATION_FIGURES, ASSOCIATIONS, LIST_NUMBERS, LISTS, SCALARS, folded

TABLE_FILE = "features.db"
"""Name of the file in the `features` artifact."""
VERSION = 1
"""Of the schema."""
TEXT_CHARACTERS = 16_384
"""Most characters of a feature's top texts that are indexed, the strongest texts first."""
TOTAL_CHARACTERS = 2 << 30
"""Most characters of top texts that a table indexes: wide SAEs get less a feature, at least 1,024 each."""
CANDIDATES = 5_000
"""Hits of an analysis that a search ranks, the first in its order; a commoner word tells features apart too little."""
QUERY_SECONDS = 20.0
"""Longest a query may take."""
_WEIGHTS = "1.0, 5.0, 5.0, 3.0"
_TICK = 20_000
_PAGE_BYTES = 8192
_CACHE_KIB = 32 * 1024
_MAP_BYTES = 1 << 30
_HASH_BYTES = 32 << 20
_COLUMNS = tuple(SCALARS.values())
_SCHEMA = f"""
CREATE TABLE features (place INTEGER PRIMARY KEY, {", ".join(f"{field.column} NUMERIC" for field in _COLUMNS)});
CREATE TABLE items (list INTEGER, name TEXT, place INTEGER, score REAL, PRIMARY KEY (list, name, place)) WITHOUT ROWID;
CREATE TABLE associations (value TEXT, "column" TEXT, place INTEGER,
    {", ".join(f"{name} REAL" for name in ASSOCIATION_FIGURES)}, PRIMARY KEY (value, "column", place)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(texts, keywords, tags, tokens, content='',
    tokenize='{TOKENIZER.replace("'", "''")}');
CREATE TEMP TABLE staged_items (list INTEGER, name TEXT, place INTEGER, score REAL);
CREATE TEMP TABLE staged_associations AS SELECT * FROM associations;
"""  # noqa: S608  (names of fields.py)


_FINISH = (
    "INSERT INTO items SELECT list, name, place, score FROM "
    "(SELECT *, max(abs(score)) FROM staged_items GROUP BY list, name, place)",
    "INSERT OR IGNORE INTO associations SELECT * FROM staged_associations ORDER BY 1, 2, 3",
    "COMMIT",
    f"PRAGMA user_version={VERSION}",
)


class Sql(NamedTuple):
    """An expression with its parameters; no value of a caller stands in the text."""

    text: str
    """SQL."""
    values: tuple[object, ...] = ()
    """What its question marks stand for."""


ALL = Sql("1")
"""Every feature."""
IN_ORDER = Sql("place")
"""The order of the analysis: live ones first, then the most coherent."""


class TableWriter:
    """Writes the table; memory is bounded by SQLite's caches. Raises OSError-like sqlite3 errors as they come."""

    def __init__(self, path: Path, *, features: int) -> None:
        """A new file at `path` for about so many features."""
        self._limit = min(TEXT_CHARACTERS, max(1024, TOTAL_CHARACTERS // max(1, features)))
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        run = self._connection.execute
        # the artifact is not visible before it is whole: no journal, no waiting for the disk
        for setting in (f"page_size={_PAGE_BYTES}", "journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
            run(f"PRAGMA {setting}")
        self._connection.executescript(_SCHEMA)
        run("INSERT INTO words(words, rank) VALUES ('hashsize', ?)", (_HASH_BYTES,))
        run("BEGIN")
        marks = ", ".join("?" * (1 + len(_COLUMNS)))
        self._insert = f"INSERT INTO features VALUES ({marks})"  # noqa: S608  (only question marks)

    def add(self, place: int, record: Mapping[str, Any]) -> None:
        """Adds a feature at its place in the analysis, from 0 and rising; what the record lacks stays empty."""
        run, many = self._connection.execute, self._connection.executemany
        run(self._insert, (place, *(field.stored(record) for field in _COLUMNS)))
        rows = [
            (LIST_NUMBERS[name], item, place, score)
            for name, field in LISTS.items()
            for item, score in field.stored(record)
        ]
        many("INSERT INTO staged_items VALUES (?, ?, ?, ?)", rows)
        associations = [
            (folded(a["value"]), folded(a["column"]), place, *(a.get(name) for name in ASSOCIATION_FIGURES))
            for a in record.get(ASSOCIATIONS) or ()
        ]
        many("INSERT INTO staged_associations VALUES (?, ?, ?, ?, ?, ?, ?)", associations)
        texts = (activation["text"] for activation in record.get("top_activations") or ())
        spoken = [
            joined(texts, self._limit),
            joined(record.get("pattern_keywords") or (), self._limit),
            joined(record.get("semantic_tags") or (), self._limit),
            joined(_tokens(record), self._limit),
        ]
        run("INSERT INTO words(rowid, texts, keywords, tags, tokens) VALUES (?, ?, ?, ?, ?)", (place, *spoken))

    def close(self) -> None:
        """Sorts what was staged, and ends the file."""
        for statement in _FINISH:
            self._connection.execute(statement)
        self._connection.close()

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Closes it; after an error without finishing the file."""
        if kind is None:
            self.close()
        else:
            self._connection.close()


def _tokens(record: Mapping[str, Any]) -> list[str]:
    drivers = (*(record.get("driving_tokens") or ()), *(record.get("driving_phrases") or ()))
    return [str(driver["text"]) for driver in drivers if "text" in driver]


class FeatureTable:
    """Reads a table. Safe to share between threads: one query at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises Corrupt."""
        self._lock = threading.Lock()
        self._ends = 0.0
        self._connection = sqlite3.connect(
            f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False, isolation_level=None
        )
        try:
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            self._connection.execute(f"PRAGMA mmap_size={_MAP_BYTES}")
        except sqlite3.DatabaseError as error:
            raise _damaged() from error
        if version != VERSION:
            raise Corrupt(f"The query table has version {version}, not {VERSION}. Run the Find job again.")
        self._connection.set_progress_handler(self._late, _TICK)

    def __del__(self) -> None:
        """Closes the file with its last user."""
        self._connection.close()

    def select(self, where: Sql, order: Sql, start: int, count: int) -> tuple[list[int], int]:
        """(places of a page in the given order, how many there are in all). Raises LimitReached."""
        total = self._query(Sql(f"SELECT count(*) FROM features WHERE {where.text}", where.values))[0][0]  # noqa: S608
        if start >= total:
            return [], total
        text = f"SELECT place FROM features WHERE {where.text} ORDER BY {order.text}, place LIMIT ? OFFSET ?"  # noqa: S608
        rows = self._query(Sql(text, (*where.values, *order.values, count, start)))
        return [row[0] for row in rows], total

    def search(self, match: str, where: Sql, most: int) -> tuple[list[tuple[float, int]], int]:
        """((score, place) best first, at most `most`; hits that were ranked, at most CANDIDATES).

        A lower score is better: it is SQLite's bm25, keywords and tags counting five times, tokens three.
        """
        narrowed = f" AND rowid IN (SELECT place FROM features WHERE {where.text})" if where != ALL else ""  # noqa: S608
        text = (
            f"WITH hits AS MATERIALIZED (SELECT bm25(words, {_WEIGHTS}) AS score, rowid AS place FROM words "  # noqa: S608
            f"WHERE words MATCH ?{narrowed} LIMIT {CANDIDATES}) "
            "SELECT score, place, (SELECT count(*) FROM hits) FROM hits ORDER BY score, place LIMIT ?"
        )
        rows = self._query(Sql(text, (match, *(where.values if narrowed else ()), most)))
        return [(row[0], row[1]) for row in rows], rows[0][2] if rows else 0

    def _query(self, query: Sql) -> Sequence[tuple[Any, ...]]:
        with self._lock:
            self._ends = clock.monotonic() + QUERY_SECONDS
            try:
                return self._connection.execute(query.text, query.values).fetchall()
            except sqlite3.OperationalError as error:
                if "interrupted" not in str(error):
                    raise _damaged() from error
                raise LimitReached(
                    f"The query took longer than {QUERY_SECONDS:.0f} s. Ask for less: fewer conditions or rarer words."
                ) from error
            except sqlite3.DatabaseError as error:
                raise _damaged() from error

    def _late(self) -> bool:
        return clock.monotonic() > self._ends


def _damaged() -> Corrupt:
    return Corrupt("The query table of the analysis cannot be read. Run the Find job again.")
