"""Writes the `features` artifact: records stream to scratch in id order, then out in coherence order.

Owns the files and their layout (pages.py reads it back); at no time is more than one record in
memory. CSV has its own file. All JSON is valid Unicode without NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.artifacts.files import disk_errors
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.exports.csv_file import HEADER, csv_row
from mistudio_find.table import TABLE_FILE, TableWriter

ANALYSIS_FILE = "feature_analysis.json"
"""The published form."""
LINES_FILE = "features.jsonl"
"""One record a line, most coherent first, with the judging texts."""
INDEX_FILE = "features.idx"
"""Little-endian int64: total n; n + 1 byte offsets of lines in rank order; the rank of each feature id."""
CSV_FILE = "feature_analysis.csv"
"""One row a feature, safe to open in a spreadsheet."""
VOCABULARY_FILE = "vocabulary.json"
"""Evidence documents, and how many of them hold each word that at least two do."""
_TICK_EVERY, _NOTE_EVERY = 100, 64
_ROW_KEYS = ("feature_id", "coherence_score", "quality_level", "pattern_category", "category_confidence", "dead")
_MOST_WORDS = 50_000
# Quotes inside of a string are escaped, so these bytes can only be the key itself.
_JUDGING = b',"judge_texts":['


def encoded(value: Any) -> bytes:
    """Compact JSON in UTF-8, numbers as they are; raises TypeError for what JSON cannot hold."""
    return orjson.dumps(value)


def analysis_head(metadata: Mapping[str, Any]) -> bytes:
    """How the published form begins."""
    return b'{"job_metadata":' + encoded(metadata) + b',"features":['


def published(line: bytes) -> bytes:
    """A record's line as the published form has it: without the judging texts, its last key, and the end of line."""
    end = line.rfind(_JUDGING)
    return (line[:end] if end >= 0 else line.rstrip()[:-1]) + b"}"


class RecordSpool:
    """Records in a scratch file, in order of feature id from 0; what a killed run wrote is taken up again.

    Each record is one line of the file; the file beside it holds their lengths and short rows, and is written
    after them, so that it never names what is not there.
    """

    def __init__(self, path: Path) -> None:
        """Opens `path`, and reads what it holds already."""
        self.path = path
        self.rows: list[dict[str, Any]] = []
        """What the summary needs of each record."""
        self._lengths: list[int] = []
        self._notes_path = path.with_suffix(".notes")
        end, notes_end = self._take_up()
        with disk_errors(path.parent, "feature records"):
            self._handle: BinaryIO = path.open("ab")
            self._notes: BinaryIO = self._notes_path.open("ab")
            self._handle.truncate(end)
            self._notes.truncate(notes_end)
        self._noted = len(self.rows)

    def _take_up(self) -> tuple[int, int]:
        """Bytes of both files that are whole."""
        size = self.path.stat().st_size if self.path.exists() else 0
        end = notes_end = 0
        for line in self._notes_path.read_bytes().splitlines(keepends=True) if self._notes_path.exists() else ():
            try:
                length, row = orjson.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or end + length > size:
                break
            end, notes_end = end + length, notes_end + len(line)
            self._lengths.append(length)
            self.rows.append(row)
        return end, notes_end

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds the next record; `judge_texts` is its last key."""
        line = encoded(record) + b"\n"
        with disk_errors(self.path.parent, "feature records"):
            self._handle.write(line)
        self._lengths.append(len(line))
        self.rows.append({key: record[key] for key in _ROW_KEYS})
        if len(self.rows) - self._noted == _NOTE_EVERY:
            self.note()

    def note(self) -> None:
        """Makes what was added so far safe against a kill."""
        with disk_errors(self.path.parent, "feature records"):
            self._handle.flush()
            for at in range(self._noted, len(self.rows)):
                self._notes.write(encoded([self._lengths[at], self.rows[at]]) + b"\n")
            self._notes.flush()
        self._noted = len(self.rows)

    def close(self) -> None:
        """Ends writing."""
        self.note()
        with disk_errors(self.path.parent, "feature records"):
            self._handle.close()
            self._notes.close()

    def remove(self) -> None:
        """Deletes both files."""
        self.path.unlink()
        self._notes_path.unlink()

    def publish(
        self, writer: ArtifactWriter, order: Array, metadata: Mapping[str, Any], tick: Callable[[float], None]
    ) -> None:
        """Writes the JSON, JSONL, CSV, index and query table files; `order` int64 (n,) are feature ids by rank."""
        lengths = np.array(self._lengths, np.int64)
        starts = np.cumsum(lengths) - lengths
        with (
            disk_errors(writer.folder, "the analysis"),
            self.path.open("rb") as source,
            writer.path(LINES_FILE).open("wb") as lines,
            writer.path(ANALYSIS_FILE).open("wb") as analysis,
            writer.path(CSV_FILE).open("wb") as table,
            TableWriter(writer.path(TABLE_FILE), features=len(order)) as queries,
        ):
            analysis.write(analysis_head(metadata))
            table.write(HEADER.encode())
            for rank, feature in enumerate(order.tolist()):
                if rank % _TICK_EVERY == 0:
                    tick(rank / len(order))
                source.seek(int(starts[feature]))
                line = source.read(int(lengths[feature]))
                record = orjson.loads(line)
                lines.write(line)
                analysis.write((b",\n" if rank else b"\n") + published(line))
                table.write(csv_row(record).encode())
                queries.add(rank, record)
            analysis.write(b"\n]}\n")
        _write_index(writer, lengths[order], order)


def _write_index(writer: ArtifactWriter, lengths: Array, order: Array) -> None:
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    index = np.concatenate([[len(order)], [0], np.cumsum(lengths), ranks]).astype("<i8")
    writer.write(INDEX_FILE, index.tobytes())


def write_vocabulary(writer: ArtifactWriter, index: CorpusIndex) -> None:
    """The commonest 50,000 words of the evidence with their document frequencies."""
    order = np.argsort(-index.documents_with, kind="stable")[:_MOST_WORDS]
    words = {index.vocabulary[at]: int(index.documents_with[at]) for at in order if index.documents_with[at] > 1}
    writer.write(VOCABULARY_FILE, encoded({"documents": index.evidence_documents, "documents_with": words}))


def write_summaries(writer: ArtifactWriter, rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> None:
    """`pattern_categories.json` and `quality_metrics.json` from one short row a feature."""
    categories: dict[str, list[dict[str, Any]]] = {}
    tiers: dict[str, list[int]] = {}
    for row in rows:
        entry = {"feature_id": row["feature_id"], "confidence": row["category_confidence"]}
        categories.setdefault(row["pattern_category"], []).append(entry)
        tiers.setdefault(row["quality_level"], []).append(row["feature_id"])
    live = [row["coherence_score"] for row in rows]
    counts = {name: len(entries) for name, entries in categories.items()}
    listed = {"versions": versions, "counts": counts, "categories": categories}
    writer.write("pattern_categories.json", encoded(listed))
    quality = {
        "versions": versions,
        "live_features": len(rows),
        "mean_coherence": round(float(np.mean(live)), 6) if live else 0.0,
        "counts": {name: len(ids) for name, ids in tiers.items()},
        "tiers": tiers,
    }
    writer.write("quality_metrics.json", encoded(quality))
